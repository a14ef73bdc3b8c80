"""The `itda` command: finds the verb, and turns every way of failing into one line and an exit code."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import importlib
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

from itda.errors import ItdaError, UserError

# Each verb is a file of its own with an `app`, imported when it is asked for.
VERBS = {
    "demo": "itda.cli.demo",
    "train": "itda.cli.train",
    "generate": "itda.cli.generate",
    "evaluate": "itda.cli.evaluate",
    "score": "itda.cli.score",
    "explain": "itda.cli.explain",
    "shortlist": "itda.cli.shortlist",
    "runs": "itda.cli.runs",
    "data": "itda.cli.data",
    "config": "itda.cli.config",
}

# typer carries click inside; its UsageError is reached through the one name that typer makes public
UsageError: type[Any] = typer.BadParameter.__mro__[1]


class Verbs(typer.core.TyperGroup):
    """The group of all verbs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the verbs whose files are there, in the order of the table."""
        return [name for name, module in VERBS.items() if importlib.util.find_spec(module)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one verb; an unknown name is answered with the nearest."""
        names = self.list_commands(ctx)
        if cmd_name not in names:
            near = difflib.get_close_matches(cmd_name, names, n=1)
            ctx.fail(f"no verb '{cmd_name}'; {f'did you mean {near[0]!r}?' if near else 'verbs: ' + ', '.join(names)}")
        command = typer.main.get_command(importlib.import_module(VERBS[cmd_name]).app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=Verbs, no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
)


def print_version(wanted: bool) -> bool:
    """Print the version and stop, where that was asked for."""
    if wanted:
        from importlib.metadata import version

        print(f"itda {version('itda')}")
        raise typer.Exit
    return wanted


@app.callback()
def itda(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """itda joins one sequence to another: train, use and look inside sequence-to-sequence models."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    restart_in_utf8()
    make_streams_safe()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code: 0 done, 1 a failure of ours or the machine, 2 the user's input."""
    words, debug = take_debug(arguments)
    try:
        if sys.stdout is None:  # `>&-`: what a verb answers would be lost, or land in a file that it opens
            raise UserError("standard output is closed; send it somewhere, such as > answers.txt or > /dev/null")
        code = app(words, prog_name="itda", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return close_stdout()
    except SystemExit as error:  # typer's own answer to a broken pipe
        close_stdout()
        return error.code if isinstance(error.code, int) else 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = verdict(error)
        if message:
            with contextlib.suppress(BrokenPipeError):
                print(f"itda: {message}", file=sys.stderr, flush=True)
        return code


def verdict(error: BaseException) -> tuple[str, int]:
    """Say what went wrong in one line, and with which exit code to end."""
    if isinstance(error, UsageError):
        message = one_line(error.format_message()).rstrip(".")  # empty where typer has just printed the help
        path = error.ctx.command_path if error.ctx else "itda"
        return message and f"{message}; see {path} --help", 2
    if isinstance(error, ItdaError):
        return one_line(str(error)) or type(error).__name__, error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted", 130
    if isinstance(error, OSError):
        return f"{one_line(str(error))} (the machine refused; --debug shows where)", 1
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and out_of_memory(str(error))):
        return "not enough memory; use smaller batches, a smaller model or a narrower beam", 1
    # the last line of defence: a bug of ours is one line for its user too
    said = one_line(f"{type(error).__name__}: {error}")
    return f"internal error, {said}; run again with --debug for the traceback, and please report it", 1


def out_of_memory(said: str) -> bool:
    """Recognise how PyTorch says that it got no memory, on the CPU and on a GPU."""
    signs = ("not enough memory", "can't allocate memory", "out of memory", "Storage size calculation overflowed")
    return any(sign in said for sign in signs)


def take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take --debug out of the arguments, wherever it stands, so that it can be added to the end of a failed line."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    words = [word for word in arguments[:end] if word != "--debug"]
    return [*words, *arguments[end:]], len(words) < end


def one_line(text: str) -> str:
    """Bring a message onto a single line."""
    return " ".join(text.split())


def close_stdout() -> int:
    """Let go of a pipe whose reader has left (`itda ... | head`), so that Python's own last flush stays quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def restart_in_utf8() -> None:
    """Start Python anew in its UTF-8 mode where it took file names for ASCII (the C locale, mode switched off).

    In such a process no path with Hangul in it, from a recipe or a run folder, could be opened.
    """
    if os.name == "posix" and codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        if os.environ.get("PYTHONUTF8") == "1":
            return  # already restarted, and `-X utf8=0` stands above it
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})


def make_streams_safe() -> None:
    """Let any text be printed anywhere: data leaves as UTF-8, and a console shows escapes for what it cannot write."""
    if sys.stderr is None:  # `2>&-`: print would take standard output for it
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open to the end of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="backslashreplace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
