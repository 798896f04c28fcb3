"""`precalign eval`: what rules cost a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from precalign.cli.output import console, print_json
from precalign.cli.progress import progress

DEFAULT_RULES = ("full", "alignedkv")


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to make.")
@click.option("--text", type=click.Path(path_type=Path), help="UTF-8 text for the model's tokenizer.")
@click.option("--token-ids", type=click.Path(path_type=Path), help="Token ids (.npy) in place of a text.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="NAME[:PARAM=VALUE,..]",
    help="May be given several times.  [default: full, alignedkv]",
)
@click.option(
    "--policy", "policies", multiple=True, type=click.Path(path_type=Path), help="policy.json of precalign tune."
)
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    metavar="NAME[:PARAM=VALUE,..]",
    help="Codec of the cache (docs/codecs.md), or KEYS+VALUES; may be given several times.",
)
@click.option(
    "--context", type=click.IntRange(min=2), help="Tokens of a window.  [default: 1024, or what the model takes]"
)
@click.option(
    "--windows", type=click.IntRange(min=1), help="Windows of the text.  [default: 8, or as many as there are]"
)
@click.option("--prompts", type=click.IntRange(min=0), default=4, show_default=True, help="Windows continued greedily.")
@click.option("--generate", type=click.IntRange(min=0), default=64, show_default=True, help="Tokens of a continuation.")
@click.option("--layout", metavar="WIDTHS", help='Plane widths, as "8,4,4".  [default: of the format]')
@click.option("--dtype", metavar="FORMAT", help="Format of the cache: fp16 or bf16.  [default: that of the weights]")
@click.option("--compute", default="fp32", show_default=True, help="What the model computes in: fp32, fp16 or bf16.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier evaluation.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(*, model: Path, output: Path, overwrite: bool, as_json: bool, **chosen: Any) -> None:  # noqa: ANN401 - click's values
    """Measure what a model loses when decode attention reads what a rule asks for.

    Every position of the text is taken as a decode step. Tells perplexity, how often the most likely next token stays the same, the KL
    divergence of next-token distributions, after how many tokens greedy text differs, and the bytes that each rule read. An interrupted
    evaluation goes on where it stopped when the same command is given again.

    \b
    Examples:
      precalign eval model/ --text book.txt -o cost/
      precalign eval model/ --text book.txt --rule alignedkv --rule online --windows 32 -o cost/
      precalign eval model/ --text book.txt --policy policy.json -o cost/
      precalign eval model/ --text book.txt --rule alignedkv --codec kivi:bits=4 --codec q8_0+q4_0 -o cost/
    """
    from precalign.analysis.evaluation.progress import check_eval_target
    from precalign.analysis.models import check_model_path, need_models
    from precalign.analysis.policies import read_policy

    need_models()
    check_eval_target(output, overwrite=overwrite)
    check_model_path(model)
    policies = [(path.name, read_policy(path)) for path in chosen["policies"]]
    # torch takes seconds to import: not before what can be told at once.
    from precalign.analysis.models.evaluate import Evaluation, make_eval_plan
    from precalign.analysis.models.loading import load_model
    from precalign.analysis.models.tokens import read_tokens
    from precalign.analysis.render.evaluation import page, show

    loaded = load_model(model, compute=chosen["compute"], dtype=chosen["dtype"])
    ids = read_tokens(loaded, chosen["text"], chosen["token_ids"])
    rules = chosen["rules"] or (() if policies or chosen["codecs"] else DEFAULT_RULES)
    plan = make_eval_plan(
        loaded,
        len(ids),
        rules,
        policies,
        chosen["codecs"],
        context=chosen["context"],
        windows=chosen["windows"],
        prompts=chosen["prompts"],
        generated=chosen["generate"],
        layout=chosen["layout"],
    )
    facts = {
        "model": loaded.path.resolve().name,
        "text": (chosen["text"] or chosen["token_ids"]).name,
        "computes": chosen["compute"],
        "format": loaded.format.name,
        "layout": plan.layout,
        "context": plan.context,
        "windows": plan.windows,
        "prompts": plan.prompts,
        "generated": plan.generated,
    }
    evaluation = Evaluation(loaded, ids, plan)
    with progress("Evaluating", plan.units, "pieces") as advance:
        summary, records = evaluation.run(output, facts, overwrite=overwrite, tell=advance)
    records.finish(summary, page(summary))
    if as_json:
        print_json(summary)
        return
    out = console()
    show(summary, out)
    out.print(f"Written: {output / 'report.html'}", markup=False, soft_wrap=True)
