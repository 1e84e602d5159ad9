"""Checks of homework: what must be true of an answer, said without the answer.

A lesson's check compares with the right function, which therefore stands in the package. Homework is graded, and a
student has the package; so a probe asks for properties instead: closed forms, round trips, sums, limits.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ._check import PATIENCE
from ._compare import NOTHING, array, gap
from ._guard import Function, call, look_at
from ._outcome import CheckFailed, Outcome, settle


class Probe:
    """What a check of homework asks an answer with: `ask(*arguments)` calls it, `ask.need` says what must hold.

    rng: a generator of NumPy, of the same seed in each check.
    """

    def __init__(self, answer: Function, own: Sequence[Function] = (), patience: float = PATIENCE, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.calls = self.facts = 0
        self._answer, self._own, self._deadline = answer, own, time.monotonic() + patience

    def __call__(self, *arguments: Any, run: Function | None = None) -> np.ndarray:
        """The answer's result for copies of these arguments, as an array in float64.

        run: `run(answer, *arguments)` -> what is returned here, where that is not the answer's own result.
        Raises NotWritten for a stub, and CheckFailed for what a function may not do (see `_guard.call`), and for a
        result that is None, no numbers, or not finite.
        """
        result = self.raw(*arguments, run=run)
        found = array(result)
        # `gap` with itself says what is wrong with a result whatever is expected.
        _, complaint = gap(result, np.zeros_like(found) if _numbers(found) else 0.0, np.inf)
        if complaint:
            raise CheckFailed(complaint)
        return found.astype(np.float64)

    def raw(self, *arguments: Any, run: Function | None = None) -> Any:
        """The answer's result as it came, of whatever kind; None is refused. Raises as a call does."""
        self.calls += 1
        with np.errstate(all="ignore"):  # the extremes asked for overflow in right answers, too; wrong ones get a hint
            result = call(self._answer, arguments, self._deadline, run, self._own)
        if result is None:
            raise CheckFailed(NOTHING)
        return result

    def need(self, fact: Any, hint: str) -> None:
        """Raise CheckFailed with the hint unless the fact holds."""
        self.facts += 1
        if not fact:
            raise CheckFailed(hint)

    def near(self, found: Any, expected: Any, hint: str, tolerance: float = 1e-6) -> None:
        """Raise CheckFailed unless both are the same up to a largest absolute difference; it says how far off.

        Where one of the two is in float32, its rounding is no difference.
        """
        __tracebackhide__ = True
        _, complaint = gap(found, expected, tolerance)
        self.need(not complaint, f"{complaint}\nlikely: {hint}")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers in float64, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _numbers(found):
    return found is not None and found.dtype.kind in "biuf"


def probe(own: Sequence[Function] = (), patience: float = PATIENCE) -> Callable[[Callable], Callable[..., Outcome]]:
    """Make a check of a function that probes an answer: `check(answer, strict=None)`, with its name and docstring.

    own: the package's functions that are to be written here, which an answer may not call, by whatever name.
    patience: seconds for all calls together.
    The check prints what it found and returns a true `Outcome`, or a false one for an answer that is not written yet;
    if strict, that fails too (None: as `checks.strict` has it). Raises CheckFailed with a hint.
    """

    def make(ask_all):
        def work(answer):
            look_at(answer, own)
            ask = Probe(answer, own, patience)
            ask_all(ask)
            return f"{ask.facts} facts in {ask.calls} calls"

        @functools.wraps(ask_all)
        def check(answer, *, strict=None):
            __tracebackhide__ = True  # for pytest
            return settle(ask_all.__name__, lambda: work(answer), strict)

        del check.__wrapped__  # its signature is not that of the description
        return check

    return make
