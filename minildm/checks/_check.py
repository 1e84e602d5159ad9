"""What every check does: compare a function with the truth on random cases, and find the likely mistake."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._compare import array, gap
from ._guard import Function, call, copied, look_at
from ._outcome import CheckFailed, Outcome, settle

PATIENCE = 10.0  # seconds for all cases of an exercise together


@dataclass(frozen=True)
class Exercise:
    """What a check knows of an exercise.

    truth: the right answer.  cases: tuples of arguments, of pairwise different sizes, so that no two axes can be
    exchanged unseen.  mistakes: {hint: a wrong answer that deserves it, or several}.  tolerance: largest absolute
    difference.
    run: `run(answer, *case)` -> what is compared, where that is not the answer's own result.
    own: the package's functions that are to be written here, which an answer may not call.
    patience: seconds for all cases together.
    """

    truth: Function
    cases: Iterable[tuple]
    mistakes: Mapping[str, Function | Sequence[Function]] = field(default_factory=dict)
    tolerance: float = 1e-6
    run: Function | None = None
    own: Sequence[Function] = ()
    patience: float = PATIENCE


EXERCISES: dict[str, Callable[[], Exercise]] = {}  # all that there are, by the names of their checks


def exercise(describe: Callable[[], Exercise]) -> Callable[..., Outcome]:
    """Make a check of a function that describes an exercise: `check(answer, strict=None)`, with its name and docstring.

    The check prints what it found and returns a true `Outcome`, or a false one for an answer that is not written yet;
    if strict, that fails too (None: as `checks.strict` has it). Raises CheckFailed with the smallest case that fails
    and the likely mistake, never with the solution.
    """
    name = describe.__name__
    EXERCISES[name] = describe

    def check(answer: Function, *, strict: bool | None = None) -> Outcome:
        __tracebackhide__ = True  # for pytest
        return settle(name, lambda: compare(answer, describe()), strict)

    check.__name__, check.__qualname__, check.__doc__ = name, name, describe.__doc__
    check.__module__ = describe.__module__
    return check


def check(
    name: str,
    answer: Function,
    truth: Function,
    cases: Iterable[tuple],
    mistakes: Mapping[str, Function | Sequence[Function]] | None = None,
    tolerance: float = 1e-6,
    *,
    strict: bool | None = None,
    **more: Any,
) -> Outcome:
    """Compare `answer` with `truth` on `cases`, tuples of arguments; says so when all agree: a check of your own.

    tolerance: largest absolute difference.  mistakes: {hint: a wrong function that deserves it, or several}.
    strict: whether an answer that is not written yet fails; None: as `checks.strict` has it.
    more: run, own, patience, as `Exercise` has them.
    Raises CheckFailed, an AssertionError, with the smallest failing case and the likely mistake, never the solution.
    """
    __tracebackhide__ = True  # for pytest
    described = Exercise(truth, cases, mistakes or {}, tolerance, **more)
    return settle(name, functools.partial(compare, answer, described), strict)


def compare(answer: Function, what: Exercise) -> str:
    """Try an answer on all cases; returns what was found in words, raises NotWritten or CheckFailed."""
    look_at(answer, what.own)
    cases = sorted(what.cases, key=_size)
    if not cases:
        raise ValueError("expected at least one case to try the answer on, got none")
    deadline, outputs = time.monotonic() + what.patience, []
    for case in cases:
        try:
            outputs.append(call(answer, case, deadline, what.run, what.own))
        except CheckFailed as failure:
            raise CheckFailed(f"{failure}\n{_show(case)}") from None
    right = _results(what, what.truth, cases)
    worst = 0.0
    for case, output, expected in zip(cases, outputs, right, strict=True):
        difference, complaint = gap(output, expected, what.tolerance)
        if complaint:
            shown = "" if isinstance(output, Mapping) else f"\n  yours: {_brief(output)}"
            hint = _hint(what, cases, outputs, right)
            raise CheckFailed(f"{complaint}{hint}\nsmallest failing case:\n{_show(case)}{shown}")
        worst = max(worst, difference)
    return f"{len(cases)} random cases, largest difference {worst:.1g} (tolerance {what.tolerance:g})"


def _results(what, function, cases):
    copies = [[copied(one) for one in case] for case in cases]
    return [function(*case) if what.run is None else what.run(function, *case) for case in copies]


def _hint(what, cases, outputs, right):
    """The first mistake that explains every output, and that at least one case can tell from the truth."""

    def agree(some, others):
        return all(not gap(one, other, max(what.tolerance, 1e-9))[1] for one, other in zip(some, others, strict=True))

    def explains(make):
        try:
            wrong = make()
            return agree(outputs, wrong) and not agree(right, wrong)
        except Exception:  # a mistake that cannot even be made here
            return False

    for hint, ways in what.mistakes.items():
        for wrong in [ways] if callable(ways) else ways:
            if explains(lambda wrong=wrong: _results(what, wrong, cases)):
                return f"\nlikely: {hint}"
    if what.run is None:
        for k in range(len(cases[0])):
            if explains(lambda k=k: [case[k] for case in cases]):
                return f"\nlikely: your function returns its argument {k + 1} as it came"
    pairs = list(zip(right, outputs, strict=True))
    for hint, turn in _OFTEN.items():
        if explains(lambda turn=turn: [turn(array(one).astype(float), array(o)) for one, o in pairs]):
            return f"\nlikely: {hint}"
    if any(isinstance(one, Tensor) and one.dtype in (torch.float16, torch.bfloat16) for one in outputs):
        return "\nlikely: it is computed in 16 bits, which is too coarse: keep the dtype of the arguments"
    return ""


# What often happens to a right answer at the end, from it and the output.
_OFTEN = {
    "right numbers in another shape: look for an axis of size 1 too many or too few": lambda x, out: (
        x.reshape(out.shape) if np.squeeze(out).shape == np.squeeze(x).shape else None
    ),
    "two axes of the result are exchanged": lambda x, out: np.swapaxes(x, -1, -2),
    "cut to whole numbers: are they integers somewhere?": lambda x, out: np.trunc(x),
    "the sign is turned around": lambda x, out: -x,
}


def _size(case):
    return sum(_numbers(one) for one in case)


def _numbers(argument):
    """How large an argument is, to put the cases in order."""
    if isinstance(argument, nn.Module):
        return sum(one.numel() for one in argument.parameters())
    if isinstance(argument, list | tuple) and any(map(np.ndim, argument)):
        return sum(map(_numbers, argument))
    if np.ndim(argument):
        return array(argument).size
    return abs(float(argument)) * 1e-6 if isinstance(argument, int | float | np.generic | Tensor) else 0


def _brief(value):
    if isinstance(value, nn.Module) or callable(value):
        return getattr(value, "__name__", type(value).__name__)
    found = array(value)
    if found is None or found.dtype.kind not in "biuf" or not found.ndim:
        return repr(value) if len(repr(value)) < 200 else type(value).__name__
    text = np.array2string(found.astype(int) if found.dtype == bool else found, precision=3, threshold=40)
    return f"shape {found.shape}\n{text}"


def _show(case):
    return "\n".join(f"  argument {k}: {_brief(argument)}" for k, argument in enumerate(case, start=1))
