"""`itda evaluate`: how good is a run on pairs that it has not seen, and is another run better?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itda.cli.options import Device, Json, Threads, apply_threads, choose_device
from itda.cli.output import console, emit, say

if TYPE_CHECKING:
    from itda.data.corpus import CorpusFiles
    from itda.evaluate.metrics import Likelihood
    from itda.seq2seq import Seq2Seq

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    pairs: Annotated[
        str,
        typer.Argument(
            metavar="[PAIRS]",
            help="FILE.tsv[.gz], SRC,TGT, NAME/SPLIT under ITDA_DATA, or make:NAME/SPLIT; default: the run's data.test",
        ),
    ] = "",
    compare: Annotated[
        Path | None, typer.Option("--compare", help="Another run, for a paired significance test.")
    ] = None,
    beam: Annotated[int | None, typer.Option("--beam", min=1, help="Beam size; default: each recipe's own.")] = None,
    tokenize: Annotated[
        str | None, typer.Option("--tokenize", help="BLEU's tokenizer (sacrebleu): 13a, char, zh, none ...")
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=40, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 1,
    threads: Threads = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure BLEU, chrF, TER, exact match, token accuracy, perplexity, bits per character, each with an interval."""
    from itda.data.corpus import ReadReport, read_pairs
    from itda.errors import UserError
    from itda.evaluate.evaluation import evaluate as measure
    from itda.evaluate.report import comparison_table, evaluation_tables
    from itda.evaluate.significance import compare as test
    from itda.seq2seq import Seq2Seq

    apply_threads(threads)
    model, report = Seq2Seq.load(run, choose_device(device)), ReadReport()
    other = Seq2Seq.load(compare, choose_device(device)) if compare is not None else None
    if other is not None and other.config.data.swap != model.config.data.swap:
        raise UserError(
            f"--compare: data.swap is {str(model.config.data.swap).lower()} in {run} and not in {compare}, "
            "so one reads what the other writes; compare runs of one direction"
        )
    files = corpus_of(model, pairs)
    found = [(pair.src, pair.tgt) for pair in read_pairs(files, swap=model.config.data.swap, report=report)]
    for message in report.messages():
        say(f"{files.name}: {message}")
    sources = [model.words("src", src) for src, _ in found]
    references = [model.words("tgt", tgt) for _, tgt in found]
    hypotheses, likelihood = outputs(model, found, beam)
    settings: dict[str, Any] = {"tokenize": tokenize, "resamples": resamples, "seed": seed}
    result = measure(hypotheses, references, sources, likelihood=likelihood, **settings)
    answer = {"run": run, "pairs": files.name, "beam_size": beam or model.config.decode.beam_size, **result.to_json()}
    tables = evaluation_tables(result)
    if compare is not None and other is not None:
        others, other_likelihood = outputs(other, found, beam)
        comparison = test(
            hypotheses, others, references, likelihood_a=likelihood, likelihood_b=other_likelihood, **settings
        )
        answer["compare"] = {"run": compare, **comparison.to_json()}
        tables.append(comparison_table(comparison, run.name, compare.name))
    if json:
        emit(answer)
        return
    for table in tables:
        console().print(table)


def corpus_of(model: Seq2Seq, pairs: str) -> CorpusFiles:
    """Find the pairs that were named, or those that the run's recipe keeps for its test."""
    from itda.data.catalog import locate
    from itda.errors import UserError

    if pairs:
        return locate(pairs)
    data = model.config.data
    if not data.test:
        raise UserError(f"{model.path} has no data.test; say what to measure on: itda evaluate {model.path} PAIRS")
    return locate(data.test, seed=data.seed)


def outputs(model: Seq2Seq, pairs: list[tuple[str, str]], beam: int | None) -> tuple[list[str], Likelihood]:
    """What a model writes for the sources (no teacher forcing), and how likely it finds the references (with it)."""
    from itda.evaluate.metrics import Likelihood

    texts = []
    for hypothesis in model.generate_lazily((src for src, _ in pairs), beam_size=beam):
        if hypothesis.notice:
            say(hypothesis.notice)
        texts.append(hypothesis.text)
    return texts, Likelihood.of(model.score(pairs), [model.words("tgt", tgt) for _, tgt in pairs])
