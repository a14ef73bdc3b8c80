"""`itda evaluate`: how good is a run on pairs that it has not seen, and is another run better?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from itda.cli.options import Device, Json, Threads, apply_threads, choose_device
from itda.cli.output import console, emit, say

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or a group of runs (--seeds).")],
    pairs: Annotated[
        str,
        typer.Argument(
            metavar="[PAIRS]",
            help="FILE.tsv[.gz], SRC,TGT, NAME/SPLIT under ITDA_DATA, or make:NAME/SPLIT; default: the run's data.test",
        ),
    ] = "",
    compare: Annotated[
        Path | None, typer.Option("--compare", help="Another run or group, for a paired significance test.")
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
    from itda.errors import UserError
    from itda.evaluate.evaluation import evaluate as measure
    from itda.evaluate.report import comparison_table, evaluation_tables
    from itda.evaluate.significance import compare as test
    from itda.evaluate.systems import corpus_of, outputs, read_corpus
    from itda.group import is_group
    from itda.seq2seq import Seq2Seq

    apply_threads(threads)
    if is_group(run) or (compare is not None and is_group(compare)):
        from itda.cli.seeds import evaluate_all

        evaluate_all(run, pairs, compare, beam, tokenize, resamples, seed, choose_device(device), json)
        return
    model = Seq2Seq.load(run, choose_device(device))
    other = Seq2Seq.load(compare, choose_device(device)) if compare is not None else None
    if other is not None and other.config.data.swap != model.config.data.swap:
        raise UserError(
            f"--compare: data.swap is {str(model.config.data.swap).lower()} in {run} and not in {compare}, "
            "so one reads what the other writes; compare runs of one direction"
        )
    files = corpus_of(model.config, model.path, pairs)
    found = read_corpus(files, model.config.data.swap, say)
    sources = [model.words("src", src) for src, _ in found]
    references = [model.words("tgt", tgt) for _, tgt in found]
    mine = outputs(model, found, beam, say)
    settings: dict[str, Any] = {"tokenize": tokenize, "resamples": resamples, "seed": seed}
    result = measure(mine.texts, references, sources, likelihood=mine.likelihood, **settings)
    answer = {"run": run, "pairs": files.name, "beam_size": beam or model.config.decode.beam_size, **result.to_json()}
    tables = evaluation_tables(result)
    if compare is not None and other is not None:
        theirs = outputs(other, found, beam, say)
        settings |= {"likelihood_a": mine.likelihood, "likelihood_b": theirs.likelihood}
        comparison = test(mine.texts, theirs.texts, references, **settings)
        answer["compare"] = {"run": compare, **comparison.to_json()}
        tables.append(comparison_table(comparison, run.name, compare.name))
    if json:
        emit(answer)
        return
    for table in tables:
        console().print(table)
