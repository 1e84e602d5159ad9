"""What every check does: compare a function with the truth on random cases, and find the likely mistake."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._compare import NOTHING, alike, array, gap
from ._guard import Function, call, copied, look_at
from ._outcome import CheckFailed, Outcome, settle

PATIENCE = 20.0  # seconds for all cases of an exercise together


@dataclass(frozen=True)
class Exercise:
    """What a check knows of an exercise.

    truth: the right answer.  cases: tuples of arguments, of pairwise different sizes, so that no two axes can be
    exchanged unseen.  mistakes: {hint: a wrong answer that deserves it, or several}.  tolerance: largest absolute
    difference.
    run: `run(answer, *case)` -> what is compared, where that is not the answer's own result.
    own: the package's functions that are to be written here, which an answer may not call.
    errors: {part of an error's message: hint}, for mistakes that end in one.
    patience: seconds for all cases together.
    """

    truth: Function
    cases: Iterable[tuple]
    mistakes: Mapping[str, Function | Sequence[Function]] = field(default_factory=dict)
    tolerance: float = 1e-6
    run: Function | None = None
    own: Sequence[Function] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
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
    more: run, own, errors, patience, as `Exercise` has them.
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
    # First the truth: what libraries load at their first call is not the learner's time.
    right = [_result(what, what.truth, case) for case in cases]
    deadline, outputs = time.monotonic() + what.patience, []
    for case in cases:
        try:
            outputs.append(call(answer, case, deadline, what.run, what.own, what.errors))
        except CheckFailed as failure:
            raise CheckFailed(f"{failure}\n{_show(case)}") from None
    worst = 0.0
    for case, output, expected in zip(cases, outputs, right, strict=True):
        difference, complaint = gap(output, expected, what.tolerance)
        if complaint:
            shown = "" if isinstance(output, Mapping) else f"\n  yours: {_brief(output)}"
            hint = _hint(what, cases, outputs, right)
            if not hint and output is not None and NOTHING not in complaint:  # nothing is not random
                hint = _dice(answer, what, case, output, deadline)
            raise CheckFailed(f"{complaint}{hint}\nsmallest failing case:\n{_show(case)}{shown}")
        worst = max(worst, difference)
    return f"{len(cases)} random cases, largest difference {worst:.1g} (tolerance {what.tolerance:g})"


def _result(what, function, case):
    case = [copied(one) for one in case]
    return function(*case) if what.run is None else what.run(function, *case)


def _hint(what, cases, outputs, right):
    """The first mistake that explains every output, and that at least one case can tell from the truth."""

    def agree(one, other):
        return alike(one, other, max(what.tolerance, 1e-9))

    def explains(make):
        try:
            wrong = []
            for k, output in enumerate(outputs):
                wrong.append(make(k))
                if not agree(output, wrong[-1]):
                    return False
            return not all(map(agree, right, wrong))
        except Exception:  # a mistake that cannot even be made here
            return False

    for hint, ways in what.mistakes.items():
        for wrong in [ways] if callable(ways) else ways:
            if explains(lambda k, wrong=wrong: _result(what, wrong, cases[k])):
                return f"\nlikely: {hint}"
    if what.run is None:
        for n in range(len(cases[0])):
            if explains(lambda k, n=n: cases[k][n]):
                return f"\nlikely: your function returns its argument {n + 1} as it came"
    for hint, turn in _OFTEN.items():
        if explains(lambda k, turn=turn: turn(array(right[k]).astype(float), array(outputs[k]))):
            return f"\nlikely: {hint}"
    if any(isinstance(one, Tensor) and one.dtype in (torch.float16, torch.bfloat16) for one in outputs):
        return "\nlikely: it is computed in 16 bits, which is too coarse: keep the dtype of the arguments"
    return ""


def _dice(answer, what, case, output, deadline):
    """A hint where a second call with the same arguments gives something else."""
    try:
        again = call(answer, case, deadline, what.run, what.own, what.errors)
    except Exception:  # an answer that fails only now is random, too, but it was told enough
        return ""
    if alike(output, again, what.tolerance):
        return ""
    return "\nlikely: two calls with the same arguments give different results: is something drawn at random here?"


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
    """How large an argument is, to put the cases in order: numbers count by their size, a little."""
    if isinstance(argument, nn.Module):
        return sum(one.numel() for one in argument.parameters())
    if isinstance(argument, list | tuple):
        return sum(max(1, _numbers(one)) for one in argument)
    if isinstance(argument, Tensor | np.ndarray) and argument.ndim:
        return int(np.prod(argument.shape))
    return abs(float(argument)) * 1e-6 if isinstance(argument, int | float | np.generic | Tensor | np.ndarray) else 0


def _brief(value):
    if isinstance(value, nn.Module) or callable(value):
        return getattr(value, "__name__", type(value).__name__.lstrip("_"))
    if isinstance(value, list | tuple) and len(value) > 4 and all(isinstance(one, str) for one in value):
        return ", ".join(map(repr, value[:3])) + f" and {len(value) - 3} more"
    found = array(value)
    if found is None or found.dtype.kind not in "biuf" or not found.ndim:
        return repr(value) if len(repr(value)) < 200 else type(value).__name__
    found = found.astype(int) if found.dtype == bool else found
    if found.ndim > 2:  # whole pictures would bury the hint
        return f"shape {found.shape}: {np.array2string(found.ravel(), precision=3, threshold=8)}"
    return f"shape {found.shape}\n{np.array2string(found, precision=3, threshold=40)}"


def _show(case):
    return "\n".join(f"  argument {k}: {_brief(argument)}" for k, argument in enumerate(case, start=1))
