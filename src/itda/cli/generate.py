"""`itda generate`: lines in, outputs out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itda.cli.options import Device, Threads, To, apply_threads, choose_device
from itda.cli.output import emit, say

if TYPE_CHECKING:
    from itda.seq2seq import Hypothesis, Seq2Seq

app = typer.Typer(add_completion=False)

SEARCH, SAMPLING, TEXT = "Search", "Sampling", "What is written"


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    file: Annotated[str, typer.Argument(help="A file of source lines; -: standard input.", metavar="[FILE]")] = "-",
    with_: Annotated[
        list[Path] | None, typer.Option("--with", help="Another run, to choose each token together; may be repeated.")
    ] = None,
    average: Annotated[
        str, typer.Option("--average", help="What an ensemble averages: probabilities or log-probabilities.")
    ] = "probabilities",
    to: To = "",
    stream: Annotated[bool, typer.Option("--stream", help="Print each output while it is written.")] = False,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, help="Most sentences decoded together; changes no result. Default: for speed."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Batches decoded at the same time; changes no result. Default: one a thread."
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Round matrices for quicker products on a CPU.")] = False,
    threads: Threads = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON Lines: text, score, alignment.")] = False,
    beam: Annotated[
        int | None,
        typer.Option("--beam", min=1, help="Beam size; 1: greedy. Default: the recipe's.", rich_help_panel=SEARCH),
    ] = None,
    n_best: Annotated[
        int,
        typer.Option(
            "--n-best",
            min=1,
            help="Outputs for each line, best first, up to 1000; a narrower beam is widened to it.",
            rich_help_panel=SEARCH,
        ),
    ] = 1,
    length_penalty: Annotated[
        float | None,
        typer.Option("--length-penalty", min=0.0, help="How much length counts.", rich_help_panel=SEARCH),
    ] = None,
    length_normalization: Annotated[
        str | None,
        typer.Option("--length-normalization", help="average, gnmt or reward.", rich_help_panel=SEARCH),
    ] = None,
    coverage_penalty: Annotated[
        float | None,
        typer.Option("--coverage-penalty", min=0.0, help="Cost of source left unread.", rich_help_panel=SEARCH),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None,
        typer.Option("--no-repeat-ngram", min=0, help="No n tokens in a row twice.", rich_help_panel=SEARCH),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option("--repetition-penalty", min=0.0, help="Nats for a repeated token.", rich_help_panel=SEARCH),
    ] = None,
    min_length: Annotated[
        int | None, typer.Option("--min-length", min=0, help="Fewest tokens.", rich_help_panel=SEARCH)
    ] = None,
    diverse_groups: Annotated[
        int | None,
        typer.Option("--diverse-groups", min=1, help="Diverse beam search: groups.", rich_help_panel=SEARCH),
    ] = None,
    diversity: Annotated[
        float | None,
        typer.Option("--diversity", min=0.0, help="Nats for what another group writes.", rich_help_panel=SEARCH),
    ] = None,
    shortlist: Annotated[
        str | None,
        typer.Option("--shortlist", help="Words to choose from: off, on or certified.", rich_help_panel=SEARCH),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw tokens; --n-best counts the samples.", rich_help_panel=SAMPLING)
    ] = False,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Above 1: bolder.", rich_help_panel=SAMPLING)
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Only the k most probable tokens.", rich_help_panel=SAMPLING)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Only the most probable, to this sum.", rich_help_panel=SAMPLING)
    ] = None,
    min_p: Annotated[
        float | None, typer.Option("--min-p", help="Only this share of the best, or more.", rich_help_panel=SAMPLING)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the samples.", rich_help_panel=SAMPLING)] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="What each output begins with.", rich_help_panel=TEXT)
    ] = None,
    prefix_file: Annotated[
        Path | None, typer.Option("--prefix-file", help="A prefix a line; blank: none.", rich_help_panel=TEXT)
    ] = None,
    must: Annotated[
        list[str] | None,
        typer.Option("--must", help="A phrase that each output holds; may be repeated.", rich_help_panel=TEXT),
    ] = None,
    must_file: Annotated[
        Path | None, typer.Option("--must-file", help="Phrases for each line, tabs between.", rich_help_panel=TEXT)
    ] = None,
    must_not: Annotated[
        list[str] | None,
        typer.Option("--must-not", help="A phrase that no output holds; may be repeated.", rich_help_panel=TEXT),
    ] = None,
    must_not_file: Annotated[
        Path | None, typer.Option("--must-not-file", help="Such phrases, one a line.", rich_help_panel=TEXT)
    ] = None,
    terminology: Annotated[
        Path | None,
        typer.Option("--terminology", help="A TSV file: source term, target term.", rich_help_panel=TEXT),
    ] = None,
    placeholders: Annotated[
        bool,
        typer.Option("--placeholders", help="Copy {name}, %s, <tags> and addresses through.", rich_help_panel=TEXT),
    ] = False,
    placeholder_pattern: Annotated[
        str | None,
        typer.Option("--placeholder-pattern", help="Copy what this expression matches.", rich_help_panel=TEXT),
    ] = None,
    replace_unknown: Annotated[
        bool | None,
        typer.Option(
            "--replace-unknown/--keep-unknown",
            help="Put the most attended source token in place of <unk>.",
            rich_help_panel=TEXT,
        ),
    ] = None,
) -> None:
    """Write the output for each line of FILE, in order; a blank line gives a blank line."""
    from itda.seq2seq import CHUNK, Seq2Seq

    refuse_pairs(
        ("--stream", stream, "--json", json),
        ("--stream", stream, "--n-best", n_best > 1),
        ("--stream", stream, "--workers", workers),
        ("--prefix", prefix, "--prefix-file", prefix_file),
        ("--must", must, "--must-file", must_file),
    )
    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    asked: dict[str, Any] = {
        "beam_size": beam,
        "length_penalty": length_penalty,
        "length_normalization": length_normalization,
        "coverage_penalty": coverage_penalty,
        "no_repeat_ngram": no_repeat_ngram,
        "repetition_penalty": repetition_penalty,
        "min_length": min_length,
        "diverse_groups": diverse_groups,
        "diversity": diversity,
        "shortlist": shortlist,
        "replace_unknown": replace_unknown,
        "sample": sampling(sample, drawn),
        "prefix": list(lines(str(prefix_file))) if prefix_file else prefix,
        "must": [line.split("\t") if line else [] for line in lines(str(must_file))] if must_file else must or [],
        "must_not": [*(must_not or []), *(filter(None, lines(str(must_not_file))) if must_not_file else ())],
        "terminology": terminology,
        "placeholders": placeholder_pattern or placeholders,
        "target_language": to,
    }
    apply_threads(threads)
    place = choose_device("cpu" if int8 and device == "auto" else device)
    model = Seq2Seq.load([run, *with_] if with_ else run, place, average, int8)
    if stream:
        print_streams(model, lines(file), asked)
        return
    held = (
        1 if file == "-" and sys.stdin is not None and sys.stdin.isatty() else CHUNK
    )  # a person is answered line by line
    found = model.generate_lazily(
        lines(file), n_best=n_best, batch_size=batch, workers=workers, attention=json, chunk=held, **asked
    )
    for number, hypothesis in enumerate(found, start=1):
        print_found(number, hypothesis, n_best, json)
        if held == 1:
            sys.stdout.flush()


def print_found(number: int, hypothesis: Hypothesis, n_best: int, json: bool) -> None:
    """Print the outputs for one line."""
    if hypothesis.notice:
        say(hypothesis.notice)
    for one in hypothesis.n_best or (hypothesis,):
        if json:
            emit(
                {
                    "line": number,
                    "text": one.text,
                    "score": one.score,
                    "log_prob": one.log_prob,
                    "tokens": one.tokens,
                    "src_tokens": one.src_tokens,
                    "alignment": one.alignment,
                    **({"factors": one.factors} if one.factors else {}),
                }
            )
        else:
            print(f"{one.score:.4f}\t{one.text}" if n_best > 1 and hypothesis.n_best else one.text)


def print_streams(model: Seq2Seq, texts: Iterator[str], asked: dict[str, Any]) -> None:
    """Print the output for each line while it is written."""
    from itda.decode.terminology import Terminology

    if asked["terminology"] is not None:
        asked = {**asked, "terminology": Terminology.read(asked["terminology"])}
    for number, text in enumerate(texts, start=1):
        for piece in model.stream(text, number=number, **asked):
            print(piece, end="", flush=True)
        print(flush=True)


def sampling(wanted: bool, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Gather the settings of sampling; refuse one that is given where nothing is drawn."""
    from itda.errors import UserError

    given = {name: value for name, value in settings.items() if value is not None}
    if given and not wanted:
        option = "--" + next(iter(given)).replace("_", "-")
        raise UserError(f"{option} says how samples are drawn, and nothing is; give --sample too, or leave it out")
    return given if wanted else None


def refuse_pairs(*pairs: tuple[str, Any, str, Any]) -> None:
    """Refuse two options that exclude each other."""
    from itda.errors import UserError

    for one, given, other, too in pairs:
        if given and too:
            raise UserError(f"{one} and {other} were both given, and they exclude each other; leave one out")


def lines(file: str) -> Iterator[str]:
    """Stream the texts of a file or of standard input."""
    from itda.data.lines import read_lines

    for line in read_lines(None if file == "-" else Path(file)):
        if line.cut:
            say(f"line {line.number} is too long to be read whole; only its beginning is used")
        yield line.text
