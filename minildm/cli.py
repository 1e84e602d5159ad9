"""The command line: `minildm lab` opens the lessons, `minildm train` repeats the training of a checkpoint.

What a command does stands in a function of its own above the parser, so that it can be called and tested without
one. A new command is one such function and one entry in `_parser`.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated

import minildm
from minildm.optional import require

# What the package raises on purpose, each with a message that says what to do. Anything else is a defect of ours,
# and its traceback is the useful thing to show.
EXPECTED = (ValueError, OSError, ImportError, ArithmeticError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments (by default the program's own); returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _parser()(arguments, prog_name="minildm")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except EXPECTED as error:
        if arguments[:1] == ["--debug"]:
            raise
        print(_red(f"minildm: {' '.join(str(error).split())}"), file=sys.stderr)
        return 1
    return 0


def recipes() -> list[str]:
    """The names that `minildm train` takes: one for each file of minildm/recipes."""
    folder = Path(__file__).parent / "recipes"
    return sorted(file.stem.replace("_", "-") for file in folder.glob("[a-z]*.py"))


def recipe(name: str) -> ModuleType:
    """The module of a recipe; ValueError with the names that exist for any other."""
    if name not in recipes():
        raise ValueError(f"there is no recipe {name!r}; there are: {_listed(recipes())}")
    return importlib.import_module(f"minildm.recipes.{name.replace('-', '_')}")


def lessons() -> list[Path]:
    """The notebooks of the lessons in their order: of the checkout that this package is part of, or that one is in.

    Raises FileNotFoundError outside a checkout: the lessons are not part of the installed package.
    """
    for root in (Path(__file__).parents[1], Path.cwd()):
        if found := sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            return found
    raise FileNotFoundError(
        "the lessons are not here: they come with the course's repository, not with the package; "
        "run this in a checkout of it, the folder that holds notebooks/"
    )


def lab(options: Sequence[str] = ()) -> int:
    """Open JupyterLab at the first lesson and wait until it is closed; `options` go to JupyterLab as they are."""
    require("jupyterlab")
    first = lessons()[0]
    here = ["--ServerApp.root_dir", str(first.parents[1])]
    there = ["--LabApp.default_url", f"/lab/tree/{first.parent.name}/{first.name}"]
    return subprocess.call([sys.executable, "-m", "jupyterlab", *here, *there, *options])


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

    @app.command("lab", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def lab_command(context: typer.Context):
        """Open JupyterLab at the first lesson. Further options go to JupyterLab, for example --no-browser."""
        raise typer.Exit(lab(context.args))

    @app.command("train")
    def train_command(
        name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {_listed(recipes())}.")],
        out: Annotated[Path | None, typer.Option(help="The file to write, instead of the recipe's own place.")] = None,
        steps: Annotated[int | None, typer.Option(min=1, help="Train this many steps, not the recipe's own.")] = None,
        seed: Annotated[int, typer.Option(min=0, help="The seed of all that is drawn at random.")] = 0,
        resume: Annotated[bool, typer.Option(help="Go on from the checkpoint of a run that was stopped.")] = True,
    ):
        """Train a checkpoint again by its recipe."""
        print(f"written: {recipe(name).train(out, steps=steps, seed=seed, resume=resume)}")

    return app


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none yet"


def _red(text: str) -> str:
    return f"\033[31m{text}\033[0m" if sys.stderr.isatty() else text
