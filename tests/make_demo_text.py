"""Have the model that ships write the text of the demo: `python tests/make_demo_text.py analysis/demo/novel-small-wrote.txt`.

Passages of 1,000 tokens at temperature 0.8, each begun from the model's first token; the seed is fixed, so the text can be made again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

MODEL = Path(__file__).resolve().parent.parent / "analysis/demo/novel-small"
PASSAGES, TOKENS, TEMPERATURE, SEED = 3, 1000, 0.8, 20


def main(target: str) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    begin = torch.full((PASSAGES, 1), model.config.bos_token_id)
    written = model.generate(
        begin,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        pad_token_id=0,
    )
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    Path(target).write_text("\n\n".join(text.strip() for text in texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
