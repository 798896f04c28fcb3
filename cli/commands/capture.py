"""`precalign capture`: the cache of a model as a dump."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from precalign.cli.output import console, print_json
from precalign.cli.progress import progress

if TYPE_CHECKING:
    from precalign.analysis.models.capture import Captured


@click.command("capture")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Dump to write, .safetensors.")
@click.option("--text", type=click.Path(path_type=Path), help="UTF-8 text for the model's tokenizer.")
@click.option("--token-ids", type=click.Path(path_type=Path), help="Token ids (.npy) in place of a text.")
@click.option("--tokens", type=click.IntRange(min=1), help="How many tokens.  [default: as many as the model takes]")
@click.option("--layers", metavar="LIST", help="Layers, as 0,2,4-6.  [default: all]")
@click.option("--dtype", metavar="FORMAT", help="Format of the cache: fp16 or bf16.  [default: that of the weights]")
@click.option("--compute", default="fp32", show_default=True, help="What the model computes in: fp32, fp16 or bf16.")
@click.option(
    "--shard-gb",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    help="Largest file, in GB.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier dump.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    *,
    model: Path,
    output: Path,
    text: Path | None,
    token_ids: Path | None,
    tokens: int | None,
    layers: str | None,
    dtype: str | None,
    compute: str,
    shard_gb: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the keys, values and queries of a model while it reads a text.

    MODEL is a directory in transformers' layout; nothing is fetched. The queries are those that attention gets, after rotation.
    An interrupted capture goes on where it stopped when the same command is given again.

    \b
    Examples:
      precalign capture model/ --text book.txt -o dump.safetensors
      precalign capture model/ --text book.txt --tokens 4096 --layers 0,8,16-23 -o dump.safetensors
      precalign capture model/ --token-ids ids.npy --dtype bf16 -o dump.safetensors
    """
    from precalign.analysis.models import check_model_path, need_models
    from precalign.analysis.models.writer import check_dump_target

    need_models()
    check_dump_target(output, overwrite=overwrite)
    check_model_path(model)
    # torch takes seconds to import: not before what can be told at once.
    from precalign.analysis.models.capture import capture
    from precalign.analysis.models.loading import load_model
    from precalign.analysis.models.tokens import limit, read_tokens
    from precalign.analysis.selection import parse_indices

    loaded = load_model(model, compute=compute, dtype=dtype)
    ids = limit(loaded, read_tokens(loaded, text, token_ids), tokens, text or token_ids)
    there = range(int(loaded.model.config.get_text_config().num_hidden_layers))
    chosen = list(there) if layers is None else parse_indices(layers, there, "layers", "the model")
    with progress("Capturing", len(chosen), "layers") as advance:
        done = capture(
            loaded.model,
            ids,
            output,
            layers=chosen,
            dtype=loaded.format.name if compute == "fp32" else None,
            overwrite=overwrite,
            shard_bytes=int(shard_gb * 1e9),
            name=loaded.path.resolve().name,
            progress=advance,
        )
    _print(done, as_json=as_json)


def _print(done: Captured, *, as_json: bool) -> None:
    shape, out = done.shape, console()
    size = sum(path.stat().st_size for path in done.files)
    if as_json:
        print_json(
            {
                "schema": "precalign.captured/1",
                "files": [str(path) for path in done.files],
                "layers": done.layers,
                "n_tokens": done.n_tokens,
                "format": done.format.name,
                "n_q_heads": shape.n_q_heads,
                "n_kv_heads": shape.n_kv_heads,
                "head_dim": shape.head_dim,
                "scale": shape.scale,
                "sliding_windows": done.windows,
                "bytes": size,
            }
        )
        return
    heads = f"{shape.n_q_heads} query / {shape.n_kv_heads} kv heads × {shape.head_dim}"
    windows = {window for window in done.windows if window is not None}
    window = f", sliding windows of {', '.join(map(str, sorted(windows)))} tokens" if windows else ""
    out.print(f"{len(done.layers)} layers × {heads}, {done.n_tokens} tokens, {done.format.name}{window}")
    out.print(f"Written: {done.files[0]} ({size / 1e6:.1f} MB)", markup=False, soft_wrap=True)
    if len(done.files) > 1:
        out.print(f"and {len(done.files) - 1} shards beside it", markup=False)
    out.print(f"Next: precalign analyze {done.files[0]} -o out/", markup=False, soft_wrap=True)
