"""What the tests of homework share: an instructor's notebook, its cells, and one answer exchanged in it."""

import contextlib
import functools
import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from minildm import checks, homework
from minildm.checks import CheckFailed
from minildm.homework._feedback import BEGIN, END

FOLDER = Path(__file__).parents[1] / "notebooks" / "homework"


class Assignment:
    """An instructor's notebook by its name, such as "1_touching_cells"; it is read, and run, when it is first needed.

    What is run are the cells tagged "setup" and the solutions that are not tagged "heavy".
    """

    def __init__(self, name: str):
        self.path = FOLDER / f"{name}.ipynb"

    @functools.cached_property
    def cells(self) -> list:
        return nbformat.read(self.path, as_version=4).cells

    @functools.cached_property
    def names(self) -> dict:
        """What the notebook has defined before its tests run."""
        names = {"__name__": "__main__"}
        for cell in self.cells:
            tags = cell.metadata.get("tags", [])
            solution = is_marked(cell, "solution") and "heavy" not in tags
            if cell.cell_type == "code" and ("setup" in tags or solution):
                run(cell.source, names)
        return names

    def test(self, part: str) -> str:
        """The source of a part's test cell."""
        (found,) = [one for one in self.cells if named(one) == f"test-{part}"]
        return found.source

    def handed_out(self, folder: Path, solved: Sequence[str] = ()) -> str:
        """Run all cells of the students' notebook, with the solutions of these parts; returns what is printed."""
        homework.release(folder, only=[self.path.stem.partition("_")[0]])
        answers = {part: one.source for one in self.cells for part in solved if named(one) == part}
        assert set(answers) == set(solved)
        said, names = io.StringIO(), {"__name__": "__main__"}
        with contextlib.redirect_stdout(said):
            for cell in nbformat.read(folder / self.path.name, as_version=4).cells:
                if cell.cell_type == "code":
                    exec(compile(answers.get(named(cell), cell.source), "<cell>", "exec"), names)
        plt.close("all")
        return said.getvalue()

    def accepts(self, part: str, **answers: object) -> None:
        """A part's tests, hidden ones too, pass with these names in place of the solution's."""
        run(self.test(part), self.names | answers)

    def refuses(self, part: str, hint: str, **answers: object) -> None:
        """A part's tests fail with these names, and the message fits the hint, a regular expression."""
        with pytest.raises((CheckFailed, AssertionError), match=re.compile(hint, re.DOTALL)):
            run(self.test(part), self.names | answers)

    def visible(self, part: str, **answers: object) -> None:
        """Run what a student sees of a part's tests, and no more."""
        source, hidden = [], False
        for line in self.test(part).splitlines():
            hidden = (hidden or BEGIN in line) and END not in line
            source += [] if hidden or END in line else [line]
        run("\n".join(source), self.names | answers)


def named(cell) -> str | None:
    """A cell's name in nbgrader's metadata, such as "test-compress"."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_marked(cell, mark: str) -> bool:
    """Whether nbgrader's metadata say so of a cell: "solution", "grade" or "locked"."""
    return bool(cell.metadata.get("nbgrader", {}).get(mark))


def run(source: str, names: dict) -> None:
    """Run the source of a cell in these names, in silence."""
    with contextlib.redirect_stdout(io.StringIO()), checks.strict():
        exec(compile(source, "<cell>", "exec"), names)
