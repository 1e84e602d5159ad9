"""What nbgrader shows to students, in notebooks and in feedback: the preprocessors in `nbgrader_config.py`."""

import re
from collections.abc import Iterable
from typing import Any

from minildm.optional import require

BEGIN, END = "BEGIN HIDDEN TESTS", "END HIDDEN TESTS"
INSTEAD = "# More tests ran here; what they say is below."
MASK = "(hidden)"


def feedback_preprocessors() -> list[type]:
    """The preprocessors of `nbgrader generate_feedback`: its own, and one that masks hidden tests.

    nbgrader's own feedback shows the hidden tests, and tracebacks with their lines.
    Raises ImportError where nbgrader is missing.
    """
    preprocessors = require("nbgrader.preprocessors", extra="homework")
    from_nbconvert = require("nbconvert.preprocessors", extra="homework")

    class HideHiddenTests(preprocessors.NbGraderPreprocessor):
        """Replaces the hidden region of each cell, and what its outputs say of it."""

        def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
            mask(cell)
            return cell, resources

    return [preprocessors.GetGrades, HideHiddenTests, from_nbconvert.CSSHTMLHeaderPreprocessor]


def release_preprocessors() -> list[type]:
    """The preprocessors of `nbgrader generate_assignment`: its own, and one that ends each cell with its last line.

    nbgrader takes hidden tests out, and leaves the empty lines before them. The cell in the gradebook stays whole.
    Raises ImportError where nbgrader is missing.
    """
    preprocessors = require("nbgrader.preprocessors", extra="homework")
    assignment = require("nbgrader.converters", extra="homework").GenerateAssignment

    class EndWithTheLastLine(preprocessors.NbGraderPreprocessor):
        """Takes empty lines from the end of each cell; before the checksum of what is handed out is computed."""

        def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
            cell.source = cell.source.rstrip()
            return cell, resources

    own = list(assignment.preprocessors.make_dynamic_default())
    place = own.index(preprocessors.ClearHiddenTests) + 1
    return [*own[:place], EndWithTheLastLine, *own[place:]]


def mask(cell: Any) -> None:
    """Take the hidden tests out of one executed cell, in place: a cell of nbformat.

    Of an error its message stays, not its traceback. Of what is printed or said, lines of the hidden tests are masked:
    a student's function can read the cell that calls it.
    """
    shown, secret = divide(cell.source)
    if cell.cell_type != "code" or not secret:
        return
    cell.source = "\n".join(shown)
    for output in cell.outputs:
        if output.output_type == "error":
            said = output.evalue if output.ename == "CheckFailed" else f"{output.ename}: {output.evalue}"
            output.evalue = without(said, secret)
            output.traceback = [f"✗ {output.evalue}"]
        elif output.output_type == "stream":
            output.text = without(output.text, secret)
        else:  # a value or a figure: no hidden test shows one
            output.data = type(output.data)({"text/plain": MASK})


def divide(source: str) -> tuple[list[str], list[str]]:
    """The lines of a cell: those to show, with one that stands for the hidden region, and the hidden ones."""
    shown, secret, hidden = [], [], False
    for line in source.splitlines():
        if BEGIN in line:
            hidden = True
            shown.append(INSTEAD)
        elif END in line:
            hidden = False
        else:
            (secret if hidden else shown).append(line)
    return shown, secret


def without(text: str, secret: Iterable[str]) -> str:
    """A text in which each hidden line of some length is masked, whatever its spaces are, and as `repr` writes it."""
    for line in sorted({line.strip() for line in secret}, key=len, reverse=True):
        if len(line) >= 12:
            words = [re.sub("['\"]", r"\\\\*['\"]", re.escape(word)) for word in line.split()]
            text = re.sub(r"(?:\s|\\[nt])+".join(words), MASK, text)
    return text
