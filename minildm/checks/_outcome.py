"""How a check ends: passed, not written yet, or an error that tells nothing but what is wrong."""

import os
from collections.abc import Callable
from types import TracebackType


class CheckFailed(AssertionError):
    """A wrong answer; in strict mode also one that is not written yet.

    It is shown as its message alone: a traceback would lead through the package, and past the solution.
    """

    def _render_traceback_(self) -> list[str]:  # IPython, and so every notebook, shows these lines instead of its own
        return f"✗ {self}".splitlines()


class NotWritten(Exception):
    """The answer is a stub still; the message, if any, is the stub's own."""


class Outcome(int):
    """True for passed, false for not written yet. (A wrong answer raises `CheckFailed` instead.)"""

    def __repr__(self) -> str:
        return "passed" if self else "not written yet"

    def _ipython_display_(self) -> None:
        """Nothing: as the last value of a cell it would repeat the line that was printed."""


class strict:
    """In strict mode an exercise that is not written yet fails, as a grader needs it; else it says so and goes on.

    on: False turns the mode off again. `checks.strict()` holds from there on, `with checks.strict():` inside the block,
    and `checks.dice(answer, strict=True)` for one call. Where nbgrader runs the notebook, it is on from the beginning.
    """

    now = "NBGRADER_EXECUTION" in os.environ  # set by nbgrader where it validates or grades a notebook

    def __init__(self, on: bool = True):
        self._before, strict.now = strict.now, on

    def __enter__(self) -> "strict":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        strict.now = self._before


def settle(name: str, work: Callable[[], str], as_strict: bool | None = None) -> Outcome:
    """Do the work of a check, which returns what was found or raises, and say how it ended.

    as_strict: None: as `strict` has it.  Raises CheckFailed, without the frames that it went through.
    """
    __tracebackhide__ = True  # for pytest
    try:
        said, failure = work(), None
    except NotWritten as stub:
        said = f"not written yet ({stub})" if str(stub) else "not written yet"
        failure = CheckFailed(f"{name}: {said}") if (strict.now if as_strict is None else as_strict) else None
        if failure is None:
            print(f"– {name}: {said}")
            return Outcome(False)
    except CheckFailed as error:
        failure = CheckFailed(f"{name}: {error}")
    if failure is not None:  # here, outside of the handlers, it carries none of what led to it
        raise failure from None
    print(f"✓ {name}: {said}")
    return Outcome(True)
