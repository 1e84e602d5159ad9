"""The command line: `minildm generate`, `evaluate`, `train`, `adapt`, `segment`, `lab`, `figures`, `homework`.

`minildm --help` lists them.

Each file beside this one holds a command or two: its options, in `add(app)`, and what it does, where that is more than
a call. A new command is one such file and one line in `_parser`.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import minildm
from minildm.cli import _adapt, _figures, _generate, _homework, _lessons, _segment, _train
from minildm.optional import require

PACKAGE = Path(minildm.__file__).parent
# What the package raises on purpose, each with a message that says what to do. Anything else is a defect of ours,
# and its traceback is the useful thing to show.
EXPECTED = (ValueError, OSError, ImportError, ArithmeticError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments (by default the program's own); returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _plainly(warnings.showwarning)
            _parser()(arguments, prog_name="minildm")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as stop:
        print(f"\ninterrupted{f': {stop}' if str(stop) else ''}", file=sys.stderr)
        return 130
    except EXPECTED as error:
        if arguments[:1] == ["--debug"]:
            raise
        say(error, colour=31)
        return 1
    return 0


def say(message: object, colour: int) -> None:
    """One line on the error stream, in colour (an ANSI code) where it is a terminal."""
    line = f"minildm: {' '.join(str(message).split())}"
    print(f"\033[{colour}m{line}\033[0m" if sys.stderr.isatty() else line, file=sys.stderr)


def _plainly(show: Callable) -> Callable:
    """Show warnings of this package as one line, without the place in its code; others as before."""

    def plainly(message, category, filename, *where, **more):
        if Path(filename).is_relative_to(PACKAGE):
            say(f"warning: {message}", colour=33)
        else:
            show(message, category, filename, *where, **more)

    return plainly


def _parser() -> Callable:
    typer = require("typer")
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    def say_version(wanted: bool):
        if wanted:
            print(f"minildm {minildm.__version__}")
            raise typer.Exit()

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say the version.")
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Put first: on an error, show where it happened.")] = False,
    ):
        """One U-Net, four jobs: segment, remove noise, paint from words, and judge the paintings."""

    _generate.add(app, complain=lambda error: say(error, colour=31))
    _train.add(app)
    _adapt.add(app)
    _segment.add(app)
    _lessons.add(app)
    _figures.add(app)
    _homework.add(app)
    return app
