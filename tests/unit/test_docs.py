"""What the READMEs and the docs say is so: snippets run, names exist, the two languages say the same."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from itda.config import explain, override, parse
from itda.run import FACTS, METRICS
from itda.training.loop import UpdateReport, ValidationReport

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.ko.md")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "recipes" / "README.md"]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BUDGET = re.compile(r"\b(updates|epochs|minutes)=[\d.]+")
MAKE_CLI = runpy.run_path(str(ROOT / "docs" / "reference" / "make_cli.py"), run_name="make_cli")
COMMANDS: dict[str, Any] = dict(MAKE_CLI["commands"]())


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(read(page)) if kind == language]


def prose(page: str) -> str:
    return FENCE.sub("", read(page))


def spans(page: str) -> list[str]:
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", prose(page))]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of each table."""
    lines = [line for line in text.split("\n") if line.startswith("|") and not set(line) <= set("|-: ")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


def uncommented(code: str) -> str:
    return re.sub(r"\s*#.*", "", code)


# Both READMEs, each program once: the Korean one differs in its comments alone, or it is run too.
SNIPPETS = sorted({uncommented(code) for page in READMES for code in blocks(page, "python")})


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, budgets = BUDGET.subn("updates=5", snippet)
    assert budgets == 1, "each snippet trains once, within a budget that this test can lower"
    exec(compile(code, "README", "exec", dont_inherit=True), {"__name__": "__main__"})
    assert "\n" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_snippets_print_what_they_say(code: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    said = re.search(r"print\(.*#\s*(\w+)", code)
    if said:
        assert printed.split()[0] == said[1]
    if "predict" in code:
        assert float(re.findall(r"tensor\(([^)]+)\)", printed)[0]) < 0.1, "the two sequences are learned by heart"


def test_the_two_readmes_say_the_same() -> None:
    english, korean = (read(page) for page in READMES)
    for pattern in (r"^#+ ", r"^- ", r"!\[", r"^```\w*$"):
        counts = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, korean)]
        assert counts[0] == counts[1], f"{pattern}: {counts}"
    heading_levels = [re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE) for text in (english, korean)]
    assert heading_levels[0] == heading_levels[1]
    code = [[uncommented(block) for block in blocks(page, "python")] for page in READMES]
    assert code[0] == code[1]
    commands = [[block for block in blocks(page, "") if re.match(r"make|py |itda", block)] for page in READMES]
    assert commands[0] == commands[1]
    assert len(commands[0]) == 3
    tables = [[len(row) for row in rows(prose(page))] for page in READMES]
    assert tables[0] == tables[1]
    targets = [{target.replace(".ko.md", ".md") for target in links(page)} for page in READMES]
    assert targets[0] == targets[1]
    for number, (row, other) in enumerate(zip(*(rows(prose(page)) for page in READMES), strict=True)):
        names = [set(re.findall(r"`([^`]+)`", " ".join(cells))) for cells in (row, other)]
        assert names[0] == names[1], f"row {number}"


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page: str) -> None:
    here = (ROOT / page).parent
    for target in links(page):
        if not target.startswith("https://"):
            assert (here / target.split("#")[0]).exists(), f"{page} links to {target}"
    for span in spans(page):
        if re.fullmatch(r"(src|docs|recipes|benchmarks|tests)/[\w./-]+", span):
            assert (ROOT / span).exists(), f"{page} names {span}"


@pytest.mark.parametrize("page", READMES)
def test_the_tree_is_the_tree(page: str) -> None:
    (tree,) = (block for block in blocks(page, "") if block.startswith("recipes/"))
    named = set()
    for line in tree.rstrip().split("\n"):
        folder = ROOT / "src" / "itda" if line.startswith("  ") else ROOT
        entries = list(itertools.takewhile(lambda word: re.fullmatch(r"[\w/]+(\.py|/)", word), line.split()))
        assert entries, line
        named |= {folder / entry for entry in entries[: None if folder != ROOT else 1]}
        for below in entries[1:] if folder == ROOT else ():
            assert (ROOT / entries[0] / below).is_dir(), f"{entries[0]}{below}"
    for path in named:
        assert path.exists(), path
    rooms = {
        path for path in (ROOT / "src" / "itda").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms <= named, f"rooms that the tree leaves out: {rooms - named}"


@pytest.mark.parametrize("page", READMES)
def test_functions_stand_in_the_files_that_are_named(page: str) -> None:
    checked = 0
    for line in prose(page).split("\n"):
        files = re.findall(r"`(src/itda/[\w/]+\.py)`", line)
        if not files:
            continue
        text = "\n".join(read(file) for file in files)
        for span in re.findall(r"`([A-Za-z_.]+)`", line):
            for name in span.split("."):
                if not re.fullmatch("Batch|src|tgt_in|Memory|Decoded|Sums|Found|VectorEmbedding|VectorHead", name):
                    assert re.search(rf"(def|class) {name}\b", text) or f"{name}(" in text, f"{span} in {files}"
                    checked += 1
    assert checked >= 25


def typed_lines() -> Iterator[tuple[str, str]]:
    """Every itda command that a page shows."""
    for page in PAGES:
        shown = [line for block in blocks(page, "") for line in block.split("\n")] + spans(page)
        for line in shown:
            line = line.removeprefix(".venv\\Scripts\\")
            if re.match(r"itda \w", line) and "..." not in line.removesuffix("[KEY=VALUE]..."):
                yield page, line


TYPED = sorted(set(typed_lines()))


def test_commands_are_found() -> None:
    assert len(TYPED) > 30
    assert {" ".join(shlex.split(line)[1:3]).split(" -")[0] for _, line in TYPED} >= {"demo", "train reverse"}


@pytest.mark.parametrize(("page", "line"), TYPED)
def test_every_command_shown_exists(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if words == ["VERB", "--help"]:
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    assert name in COMMANDS, f"{page}: {line}"
    options = {one for parameter in COMMANDS[name].params for one in [*parameter.opts, *parameter.secondary_opts]}
    for word in words[len(name.split()) :]:
        if word.startswith("--"):
            assert word in options | {"--debug", "--help"}, f"{page}: {line}"
        elif re.fullmatch(r"[a-z_.]+=.*", word):
            override(parse(""), word)


@pytest.mark.parametrize("page", PAGES)
def test_options_and_settings_in_prose_exist(page: str) -> None:
    options = {one for command in COMMANDS.values() for parameter in command.params for one in parameter.opts}
    for span in spans(page):
        if page.startswith("docs/design"):
            continue  # decisions may speak of what was
        if re.fullmatch(r"--[a-z-]+", span):
            assert span in options | {"--debug", "--help", "--version", "--keep-unknown"}, f"{page}: {span}"
        if re.match(r"(data|tokenizer|model|train|decode)\.[a-z_]", span) and not span.endswith(
            (".py", ".toml", ".tsv")
        ):
            for part in re.sub(r"\s*=\s*", "=", span).split():
                key, equals, _ = part.partition("=")
                assert explain(key), f"{page}: {span}"
                if equals:
                    override(parse(""), part.replace('"', ""))


def test_the_readme_describes_each_verb_as_its_help_does() -> None:
    said = {}
    for cells in rows(prose(READMES[0])):
        found = re.match(r" `itda ([a-z ]+?)(?: [\[A-Z].*)?` $", cells[0])
        if found and len(cells) == 2:
            said[found[1]] = cells[1].strip().replace("\\|", "|")
    helps = {name: " ".join(command.help.split()) for name, command in COMMANDS.items()}
    assert said == helps


def test_the_cli_reference_is_renewed() -> None:
    assert read("docs/reference/cli.md") == MAKE_CLI["page"](), "run: python docs/reference/make_cli.py"


def test_the_run_folder_page_names_each_key_of_the_metrics() -> None:
    page = read("docs/reference/run-folder.md")
    updates, validations = (
        part.split("\n## ")[0] for part in page.split('`"kind": "update"`')[1].split('`"kind": "validation"`')
    )
    for part, report in ((updates, UpdateReport), (validations, ValidationReport)):
        named = set(re.findall(r"`(\w+)`", " ".join(cells[0] for cells in rows(part) if len(cells) == 2)))
        assert named == {field.name for field in dataclasses.fields(report)}
    assert f"`{METRICS}`" in page
    assert f"`{FACTS}`" in page


def test_the_results_table_is_the_one_that_the_results_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert importlib.import_module("table").main(["--check"]) == 0


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_no_machine(page: str) -> None:
    text = read(page)
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root|mnt|Users)/", text)
    assert not re.search(r"https?://(?!pytorch\.org/get-started/|arxiv\.org/)", text), "a link that nobody chose"
