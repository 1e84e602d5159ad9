"""What the tests of homework share: an instructor's notebook, its cells, and one answer exchanged in it."""

import contextlib
import functools
import io
import re
from pathlib import Path

import nbformat
import pytest

from minildm import checks
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
        (found,) = [one for one in self.cells if one.metadata.get("nbgrader", {}).get("grade_id") == f"test-{part}"]
        return found.source

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


def is_marked(cell, mark: str) -> bool:
    """Whether nbgrader's metadata say so of a cell: "solution", "grade" or "locked"."""
    return bool(cell.metadata.get("nbgrader", {}).get(mark))


def run(source: str, names: dict) -> None:
    """Run the source of a cell in these names, in silence."""
    with contextlib.redirect_stdout(io.StringIO()), checks.strict():
        exec(compile(source, "<cell>", "exec"), names)
