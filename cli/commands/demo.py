"""`precalign demo`: the whole way on what ships with the project."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import click

from precalign.errors import OutputError

TOKENS, CONTEXT, WINDOWS = 768, 256, 4


@click.command("demo")
@click.option("--model", "with_model", is_flag=True, help="Begin with a model: capture, analyze, tune, eval.")
@click.option("--files-only", is_flag=True, help="Only put the model and a text there; run nothing.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Directory to make.",
)
def command(*, with_model: bool, files_only: bool, output: Path) -> None:
    """Go the whole way on what ships with the project; nothing is fetched.

    Without options the dump that ships is analysed. With --model a small language model that ships (1.5 million parameters) reads a
    text that it wrote itself: its cache is captured, analysed, a policy is tuned, and what rule and policy cost is measured. Every command
    is shown before it runs, so that you can go on by yourself.

    \b
    Examples:
      precalign demo
      precalign demo --model -o first/
      precalign demo --model --files-only -o first/
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output}: exists already", hint="choose another directory: -o DIR")
    if not (with_model or files_only):
        from precalign.analysis.benchmarks.analyze import DEMO as DUMP

        _run("analyze", str(DUMP), "-o", str(output))
        return
    _put_files(output)
    if not files_only:
        from precalign.analysis.models import need_models

        need_models()
        for arguments in steps(output):
            _run(*arguments)
    click.echo(f"\nThe model lies in {output / 'model'}, its text in {output / 'text.txt'}.")


def steps(output: Path) -> list[list[str]]:
    """Return the commands of the way, one by one."""
    model, text, dump, policy = (
        str(output / name) for name in ("model", "text.txt", "dump.safetensors", "policy.json")
    )
    return [
        ["capture", model, "--text", text, "--tokens", str(TOKENS), "-o", dump],
        ["analyze", dump, "-o", str(output / "analysis"), "--steps", "every:4"],
        ["tune", dump, "--tolerance", "1e-2", "-o", policy],
        [
            *("eval", model, "--text", text, "--context", str(CONTEXT), "--windows", str(WINDOWS)),
            *("--prompts", "2", "--generate", "32", "--rule", "full", "--rule", "alignedkv", "--policy", policy),
            *("-o", str(output / "cost")),
        ],
    ]


def _put_files(output: Path) -> None:
    from precalign.analysis.models import SMALL_MODEL
    from precalign.analysis.results.directory import writing

    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        shutil.copytree(SMALL_MODEL, output / "model")
        shutil.copy(SMALL_MODEL.parent / "novel-small-wrote.txt", output / "text.txt")


def _run(*arguments: str) -> None:
    from precalign.cli.main import cli

    click.secho(f"\nRunning: precalign {shlex.join(arguments)}", bold=True)
    code = cli.main(list(arguments), prog_name="precalign", standalone_mode=False)
    if isinstance(code, int) and code:
        click.get_current_context().exit(code)
