"""`minildm homework`: what students get, and a course folder for nbgrader."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from minildm import homework
from minildm.optional import require

if TYPE_CHECKING:
    import typer


def add(app: "typer.Typer") -> None:
    """Add the commands."""
    typer = require("typer")
    group = typer.Typer(no_args_is_help=True, help="For instructors: hand out and grade homework with nbgrader.")
    app.add_typer(group, name="homework")
    out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")]
    only = Annotated[list[str] | None, typer.Option(help="Of these assignments alone: 1, or 1_touching_cells.")]
    source = Annotated[Path | None, typer.Option(help="Where the instructor's notebooks lie, if not in a checkout.")]

    @group.command("release")
    def release(out: out, only: only = None, source: source = None):
        """Write what students get: notebooks without solutions, hidden tests and outputs, and a page about them."""
        _say(out, homework.release(out, source, only or ()))
        if not (out / homework.wheel()).is_file():
            print(f"next, in the checkout: python -m pip wheel . --no-deps -w {out} (the file that students install)")

    @group.command("course")
    def course(out: out, only: only = None, source: source = None):
        """Write a course folder in which nbgrader's own commands grade: source, release, settings, gradebook."""
        _say(out, homework.course(out, source, only or ()))
        print(f"next: put what was handed in into {out / 'submitted'}, and see {out / 'README.md'}")


def _say(out: Path, written: list[Path]) -> None:
    print(f"written: {len(written)} notebooks in {out} ({', '.join(path.stem for path in written)})")
