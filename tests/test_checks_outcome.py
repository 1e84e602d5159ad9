"""How a check ends: in a lesson, for a grader, in a notebook, in plain Python."""

import contextlib
import re
import subprocess
import sys
import textwrap

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from minildm import checks
from minildm.checks._check import EXERCISES

NAMES = ["three_of_a_kind", *EXERCISES]
SOLUTION = re.compile(r"2 \* \(a & b\)|metrics\.dice|truth|mistakes|lesson_01")  # of dice, and how it is found


def stub(*arguments):
    raise NotImplementedError


def good_dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_every_check_is_an_attribute():
    assert set(NAMES) | {"check", "strict", "CheckFailed", "Outcome"} == set(checks.__all__)
    for name in NAMES:
        check = getattr(checks, name)
        assert check.__name__ == name and "`answer(" in check.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_in_a_lesson_a_stub_is_not_written_yet_and_never_right(name, capsys):
    outcome = getattr(checks, name)(stub)
    assert capsys.readouterr().out == f"– {name}: not written yet\n"
    assert not outcome and outcome != True and repr(outcome) == "not written yet"  # noqa: E712


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_fails_for_a_grader(name):
    check = getattr(checks, name)
    with pytest.raises(checks.CheckFailed, match=f"^{name}: not written yet$"):
        check(stub, strict=True)
    with checks.strict(), pytest.raises(AssertionError, match="not written yet"):
        check(stub)


def test_strict_ends_with_its_block_and_a_call_can_say_otherwise(capsys):
    with checks.strict():
        assert not checks.dice(stub, strict=False)
        with checks.strict(False):
            assert not checks.dice(stub)
        with pytest.raises(checks.CheckFailed):
            checks.dice(stub)
        assert checks.dice(good_dice)
    assert not checks.dice(stub)
    assert capsys.readouterr().out.count("not written yet") == 3


def test_strict_holds_from_a_plain_call_on():
    before = checks.strict()
    try:
        with pytest.raises(checks.CheckFailed):
            checks.dice(stub)
    finally:
        before.__exit__(None, None, None)
    assert not checks.dice(stub)


def test_strict_ends_where_its_block_is_left_by_an_error():
    with pytest.raises(ValueError), checks.strict():
        raise ValueError
    assert not checks.dice(stub)


@pytest.mark.parametrize(
    "unwritten",
    [..., NotImplementedError, lambda a, b: ..., lambda a, b: NotImplemented],
    ids=["dots", "the error", "returns dots", "returns NotImplemented"],
)
def test_other_stubs_are_not_written_yet_either(unwritten):
    assert not checks.dice(unwritten)
    with pytest.raises(checks.CheckFailed, match="not written yet"):
        checks.dice(unwritten, strict=True)


def test_what_a_stub_says_is_shown(capsys):
    def todo(a, b):
        raise NotImplementedError("count the overlap first")

    assert not checks.dice(todo)
    assert capsys.readouterr().out == "– dice: not written yet (count the overlap first)\n"


def test_a_stub_in_one_branch_is_not_right():
    def half(a, b):
        if not a.any():
            raise NotImplementedError
        return good_dice(a, b)

    assert not checks.dice(half)


def test_a_right_answer_is_true():
    outcome = checks.dice(good_dice, strict=True)
    assert outcome and repr(outcome) == "passed"


def test_the_error_carries_nothing_of_how_it_was_found():
    with pytest.raises(checks.CheckFailed) as info:
        checks.dice(lambda a, b: a.foo)
    error, frames = info.value, 0
    assert error.__cause__ is None and error.__context__ is None
    step = error.__traceback__
    while step is not None:
        frames, step = frames + 1, step.tb_next
    assert frames == 3  # this test, the check, and where it is raised


def test_plain_python_shows_a_short_traceback():
    program = "from minildm import checks\nchecks.dice(lambda a, b: (a & b).sum() / (a | b).sum())\n"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr
    assert "likely: this is intersection over union" in said
    before = said.split("CheckFailed:")[0]
    assert len(before.splitlines()) < 12 and not SOLUTION.search(before)


CELL = "from minildm import checks\nchecks.dice(lambda a, b: (a & b).sum() / (a | b).sum())"


def test_ipython_shows_the_message_and_nothing_else(capsys):
    shell = InteractiveShell()
    try:
        result = shell.run_cell(CELL)
    finally:
        shell.history_manager.end_session()
    assert isinstance(result.error_in_exec, checks.CheckFailed)
    shown = capsys.readouterr().out
    assert shown.startswith("✗ dice: off by") and "likely: this is intersection over union" in shown
    assert "Traceback" not in shown and "line" not in shown and not SOLUTION.search(shown)


@contextlib.contextmanager
def kernel():
    """A kernel as `run(source, strict=False)` -> the outputs of a cell; where it is strict, an error is raised."""
    client = NotebookClient(nbformat.v4.new_notebook(), kernel_name="python3", timeout=120)

    def run(source, strict=False):
        client.allow_errors = not strict
        client.nb.cells.append(nbformat.v4.new_code_cell(textwrap.dedent(source)))
        return client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1).outputs

    with client.setup_kernel():
        yield run


@pytest.mark.filterwarnings("ignore")  # of the kernel's sockets
def test_a_notebook_shows_the_message_and_a_grader_sees_an_error():
    unsolved = """
        from minildm import checks

        def my_dice(true, pred):
            raise NotImplementedError

        checks.dice(my_dice)
    """
    with kernel() as run:
        (error,) = run(CELL)
        assert error.output_type == "error" and error.ename == "CheckFailed"
        shown = "\n".join(error.traceback)
        assert shown.startswith("✗ dice: off by") and len(error.traceback) < 20 and not SOLUTION.search(shown)

        (line,) = run(unsolved)  # and no value of the cell beside it
        assert line.text == "– dice: not written yet\n"
        with pytest.raises(CellExecutionError, match="dice: not written yet"):
            run(unsolved.replace("(my_dice)", "(my_dice, strict=True)"), strict=True)
        with pytest.raises(CellExecutionError, match="AssertionError"):
            run(unsolved.replace("checks.dice(my_dice)", "assert checks.dice(my_dice)"), strict=True)
