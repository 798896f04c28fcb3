"""Models of a few thousand random weights, one per architecture, made from transformers' own configurations."""

from __future__ import annotations

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = COMMON | {"intermediate_size": 96, "num_key_value_heads": 2}

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama-mqa": lambda: transformers.LlamaConfig(**GROUPED | {"num_key_value_heads": 1}),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED | {"head_dim": 24}),
    "mistral": lambda: transformers.MistralConfig(**GROUPED | {"sliding_window": 16}),
    "gemma": lambda: transformers.GemmaConfig(**GROUPED | {"head_dim": 32, "num_key_value_heads": 1}),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **GROUPED | {"head_dim": 32, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "phi": lambda: transformers.PhiConfig(**GROUPED | {"num_key_value_heads": 4}),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=256, scale_attn_by_inverse_layer_idx=True
    ),
}
WINDOWS = {"mistral": [16, 16], "gemma3": [16, None]}


def build(name, dtype=torch.float32, seed=0):
    """Return a model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).to(dtype).eval()
    for parameter in model.parameters():  # attention of fresh weights is nearly uniform: make it choose
        if parameter.ndim == 2:
            parameter.data *= 4
    return model


def token_ids(n=50, seed=1, batch=1):
    return torch.randint(2, 97, (batch, n), generator=torch.Generator().manual_seed(seed))
