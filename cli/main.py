"""Entry point of the `precalign` command: the subcommand registry and how errors reach the user."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from precalign import __version__, compiling
from precalign.errors import PrecalignError
from precalign.heap import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence


class Entry(NamedTuple):
    """A subcommand: the module that defines `command`, and the line that `precalign --help` shows for it."""

    module: str
    help: str


# Listing help must not import a subcommand (numba alone costs half a second), so its one-line help stands here.
COMMANDS = {
    "inspect": Entry("precalign.cli.commands.inspect", "Tell what is in a dump and what can be analysed."),
    "analyze": Entry(
        "precalign.cli.commands.analyze", "Tell how many bits of a dumped KV cache decode attention needs."
    ),
    "report": Entry("precalign.cli.commands.report", "Render a result directory again, without recomputing."),
    "query": Entry("precalign.cli.commands.query", "Ask results with SQL."),
    "diff": Entry("precalign.cli.commands.diff", "Tell what differs between two results, and what beyond noise."),
    "whatif": Entry(
        "precalign.cli.commands.whatif", "Ask when reduced access pays: another model shape, another GPU, a roofline."
    ),
    "kernels": Entry(
        "precalign.cli.commands.kernels",
        "Compile CUDA kernels without a device; run them without a GPU, checked and measured.",
    ),
    "validate": Entry(
        "precalign.cli.commands.validate", "Prove that the CUDA kernels do what the rule says, with or without a GPU."
    ),
    "recordings": Entry(
        "precalign.cli.commands.recordings", "Compare recorded results of GPU matrix units with their emulation."
    ),
    "explain": Entry("precalign.cli.commands.explain", "Draw one operation or dot product digit by digit."),
    "reveal": Entry("precalign.cli.commands.reveal", "Recover the order in which a sum is taken, by probing it."),
    "discriminate": Entry("precalign.cli.commands.discriminate", "Find the smallest input on which two adders differ."),
    "bounds": Entry("precalign.cli.commands.bounds", "Search for an error above its proven bound."),
    "compare": Entry(
        "precalign.cli.commands.compare", "Compare cache codecs, and rules that read less, on your own cache."
    ),
    "conform": Entry("precalign.cli.commands.conform", "Check what must hold of a cache codec, yours or precalign's."),
    "audit-fp8": Entry(
        "precalign.cli.commands.audit_fp8", "Tell what an fp8 cache would saturate or flush, and which scale would not."
    ),
    "tune": Entry(
        "precalign.cli.commands.tune", "Find the cheapest rule for every head within a tolerance, and verify it."
    ),
    "frontier": Entry("precalign.cli.commands.frontier", "Saving against error for all rules over their parameters."),
    "tolerance": Entry(
        "precalign.cli.commands.tolerance",
        "Give the tightest sound tolerance for a test of a kernel against a reference.",
    ),
    "formats": Entry("precalign.cli.commands.formats", "List the number formats, or every value of one."),
    "capture": Entry("precalign.cli.commands.capture", "Write the keys, values and queries of a model as a dump."),
    "eval": Entry("precalign.cli.commands.eval", "Measure what a model loses when a rule reads its cache."),
    "demo": Entry("precalign.cli.commands.demo", "Go the whole way on what ships: a dump, or a model and its text."),
    "fuzz": Entry("precalign.cli.commands.fuzz", "Give damaged and hostile inputs to every reader and parser."),
    "bench": Entry("precalign.cli.commands.bench", "Time precalign against its peers, results checked first."),
}


GROUPS = {
    "A cache": ("inspect", "analyze", "report", "query", "diff", "whatif"),
    "Rules": ("frontier", "tune", "bounds"),
    "Codecs": ("compare", "conform", "audit-fp8"),
    "Models": ("capture", "eval", "demo"),
    "Kernels": ("kernels", "validate", "tolerance"),
    "Numerics": ("formats", "explain", "reveal", "discriminate", "recordings", "bench"),
    "Trust": ("fuzz",),
}
"""How `precalign --help` lists them."""


class LazyGroup(click.Group):
    """A click group that imports a subcommand only when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand."""
        del ctx
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        keep_freed_memory()
        command: click.Command = importlib.import_module(entry.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands, group by group, from the registry."""
        del ctx
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name].help) for name in names])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 unusable input, 4 output not writable, "
    "5 missing capability, 70 a defect of precalign, 130 interrupted.",
)
@click.version_option(__version__, prog_name="precalign")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(*, debug: bool) -> None:
    """How many bits of a key/value cache does decode attention need?

    \b
    Examples:
      precalign inspect dump.safetensors
      precalign analyze dump.safetensors -o out/
      precalign report out/ --format terminal
    """
    del debug  # main() takes it off the line before click sees it; the option is here for the help text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; every error ends as one message on stderr and a documented exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    compiling.callbacks[:] = [_say_compiling]
    if "--debug" in given:  # anywhere on the line, because that is where people append it
        given.remove("--debug")
        return _run(given)
    try:
        return _run(given)
    except PrecalignError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; silence the interpreter's own complaint
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort; the traceback is one --debug away
        click.echo(
            f"Error: precalign failed: {type(error).__name__}: {error}\nHint: run again with --debug for the traceback.",
            err=True,
        )
        return 70


def _say_compiling() -> None:
    if sys.stderr.isatty():  # like a progress bar: for people, not for logs
        click.echo("Compiling kernels for this processor; they are kept for the next time.", err=True)


def _run(arguments: list[str]) -> int:
    result = cli.main(arguments, prog_name="precalign", standalone_mode=False)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
