"""The command line: `minildm generate`, `evaluate`, `train` and `lab`; `minildm --help` lists them.

Here stands the parser alone. What a command does is a function in another file of this folder, so that it can be
called and tested without one. A new command is one such function and one entry in `_parser`.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import minildm
from minildm.cli import _course as course
from minildm.cli import _lessons
from minildm.cli import _painting as painting
from minildm.optional import require
from minildm.pipeline import SAMPLERS

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
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
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
        if Path(filename).is_relative_to(course.PACKAGE):
            say(f"warning: {message}", colour=33)
        else:
            show(message, category, filename, *where, **more)

    return plainly


def _parser() -> Callable:
    typer = require("typer")
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    Model = Annotated[
        str, typer.Option(help="A name that ships with minildm, or a saved pipeline: a folder or one file.")
    ]
    Steps = Annotated[int, typer.Option(min=1, help="How many steps from noise to picture.")]
    Guidance = Annotated[float | None, typer.Option(help="Scale of guidance, 1 = off; by default the model's own.")]
    Sampler = Annotated[str, typer.Option(help=f"One of: {', '.join(SAMPLERS)}.")]

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

    @app.command("generate")
    def generate_command(
        prompt: Annotated[str, typer.Argument(help='What to draw, such as "a cat left of a red heart".')] = "",
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="File to write: .png, .jpg, .webp, or .gif for the film.")
        ] = None,
        model: Model = "pocket",
        seed: Annotated[int | None, typer.Option(min=0, help="Of the noise; the same seed, the same picture.")] = None,
        steps: Steps = 25,
        guidance: Guidance = None,
        negative: Annotated[str, typer.Option(help="What to move away from.")] = "",
        sampler: Sampler = "ddim",
        size: Annotated[int | None, typer.Option(min=1, help="Height and width in pixels.")] = None,
        grid: Annotated[
            int, typer.Option(min=1, max=100, help="So many pictures in one, of this seed and the next.")
        ] = 1,
        gif: Annotated[bool, typer.Option("--gif", help="Write the film of its becoming, too.")] = False,
        scale: Annotated[int | None, typer.Option(min=1, help="Pixels to a pixel; by default 1, in a film 4.")] = None,
        label: Annotated[str | None, typer.Option(help="The class to draw, where the model knows classes.")] = None,
        image: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture to start from.")] = None,
        strength: Annotated[
            float | None, typer.Option(help="How much of the picture may change, up to 1; by default 0.8.")
        ] = None,
        mask: Annotated[
            Path | None, typer.Option(metavar="FILE", help="What to paint anew in the picture: white, of its size.")
        ] = None,
        dtype: Annotated[str, typer.Option(help="Of the networks: float32, float16 or bfloat16.")] = "float32",
        interactive: Annotated[bool, typer.Option("--interactive", help="Ask for one prompt after the other.")] = False,
    ):
        """Draw a picture: from words, in English or Chinese, from a label, or from another picture."""
        how = dict(steps=steps, guidance=guidance, negative_prompt=negative, sampler=sampler, size=size)
        how |= dict(label=label, image=image, strength=strength, mask=mask, dtype=dtype)
        brush = painting.Brush(model, out, seed=seed, grid=grid, gif=gif, scale=scale, **how)
        if prompt or not interactive:
            brush.draw(prompt)
        if interactive:
            brush.ask(complain=lambda error: say(error, colour=31))

    @app.command("evaluate")
    def evaluate_command(
        model: Model = "pocket",
        split: Annotated[
            str, typer.Option(help="Combinations seen in training, or not: train, heldout, or both.")
        ] = "both",
        language: Annotated[str, typer.Option(help="Of the prompts: en, zh, or both.")] = "en",
        per_task: Annotated[int, typer.Option(min=2, help="Prompts for each of the six tasks.")] = 100,
        seeds: Annotated[int, typer.Option(min=1, help="Pictures for each prompt.")] = 4,
        steps: Steps = 25,
        guidance: Guidance = None,
        sampler: Sampler = "ddim",
        json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all of it to this file.")] = None,
    ):
        """Measure how often the pictures show what was asked for: pocket GenEval, a table with intervals."""
        how = dict(steps=steps, guidance=guidance, sampler=sampler)
        painting.evaluate(model, split, language, per_task=per_task, seeds=seeds, json_file=json, **how)

    @app.command("lab", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def lab_command(
        context: typer.Context,
        folder: Annotated[
            str | None, typer.Argument(metavar="[FOLDER]", help="Where they are to lie; first of the arguments.")
        ] = None,
        copy_only: Annotated[
            bool, typer.Option("--copy-only", help="Bring the lessons, and do not open them.")
        ] = False,
    ):
        """Open JupyterLab at the first lesson; further options go to JupyterLab, for example --no-browser.

        In a checkout of the course its own lessons are opened. Elsewhere, or with FOLDER, they are copied there
        first (by default into minildm-lessons), never over a lesson that you have changed.
        """
        raise typer.Exit(_lessons.lab([folder] * (folder is not None) + context.args, copy_only))

    @app.command("train")
    def train_command(
        name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {course.listed(course.recipes())}.")],
        out: Annotated[Path | None, typer.Option(help="The file to write, instead of the recipe's own place.")] = None,
        steps: Annotated[int | None, typer.Option(min=1, help="Train this many steps, not the recipe's own.")] = None,
        seed: Annotated[int, typer.Option(min=0, help="The seed of all that is drawn at random.")] = 0,
        resume: Annotated[bool, typer.Option(help="Go on from the checkpoint of a run that was stopped.")] = True,
    ):
        """Train a checkpoint again by its recipe."""
        print(f"written: {course.recipe(name).run(out, steps=steps, seed=seed, resume=resume)}")

    return app
