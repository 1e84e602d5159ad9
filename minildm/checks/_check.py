"""What every check does: compare a function with the truth on random cases, and find the likely mistake."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

Function = Callable[..., Any]


def check(
    name: str,
    answer: Function,
    truth: Function,
    cases: Iterable[tuple],
    mistakes: Mapping[str, Function] | None = None,
    tolerance: float = 1e-6,
) -> None:
    """Compare `answer` with `truth` on `cases`, tuples of arguments; says so when all agree.

    tolerance: largest absolute difference.  mistakes: {hint: a wrong function that deserves it}.
    A function that raises NotImplementedError is left alone, so that a lesson runs before it is solved.
    Raises AssertionError with the smallest failing case and the likely mistake, never with the solution.
    """
    cases = sorted(cases, key=_size)
    mistakes = {} if mistakes is None else mistakes
    worst, outputs = 0.0, []
    for case in cases:
        try:
            output = answer(*(_copy(argument) for argument in case))
        except NotImplementedError:
            print(f"– {name}: not written yet")
            return
        except Exception as error:
            raise AssertionError(
                f"{name}: your function raised {type(error).__name__}: {error}\n{_show(case)}"
            ) from error
        outputs.append(output)
    for case, output in zip(cases, outputs, strict=True):
        difference = _difference(output, truth(*case))
        if isinstance(difference, str) or not difference <= tolerance:
            raise AssertionError(
                f"{name}: {_say(difference, tolerance)}{_hint(cases, outputs, truth, mistakes, tolerance)}\n"
                f"smallest failing case:\n{_show(case)}\n  yours: {_brief(output)}"
            )
        worst = max(worst, difference)
    print(f"✓ {name}: {len(cases)} random cases, largest difference {worst:.1g} (tolerance {tolerance:g})")


def _difference(output, expected) -> float | str:
    """The largest absolute difference, or what makes the two incomparable."""
    if output is None:
        return "your function returned None: is there a return?"
    output, expected = _array(output), _array(expected)
    if output.dtype.kind not in "biuf":
        return f"expected numbers, got {output.dtype}"
    if output.shape != expected.shape:
        return f"expected a result of shape {expected.shape}, got {output.shape}"
    if not np.isfinite(output).all():
        return "there is NaN or infinity in your result: is something divided by zero?"
    return float(np.abs(output.astype(float) - expected).max(initial=0))


def _say(difference, tolerance) -> str:
    return difference if isinstance(difference, str) else f"off by {difference:.3g} (tolerance {tolerance:g})"


def _hint(cases, outputs, truth, mistakes, tolerance) -> str:
    """The first mistake that explains every output, and that at least one case can tell from the truth."""

    def equal(a, b):
        difference = _difference(a, b)
        return not isinstance(difference, str) and difference <= max(tolerance, 1e-9)

    for hint, wrong in mistakes.items():
        results = [wrong(*case) for case in cases]
        explains = all(equal(output, result) for output, result in zip(outputs, results, strict=True))
        if explains and not all(equal(truth(*case), result) for case, result in zip(cases, results, strict=True)):
            return f"\nlikely: {hint}"
    return ""


def _array(value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _size(case) -> int:
    return sum(_array(argument).size if np.ndim(argument) else abs(float(argument)) * 1e-6 for argument in case)


def _copy(argument):
    if isinstance(argument, Tensor):
        return argument.clone()
    return argument.copy() if isinstance(argument, np.ndarray) else argument


def _brief(value) -> str:
    if value is None or not np.ndim(_array(value)):
        return repr(value)
    value = _array(value)
    text = np.array2string(value.astype(int) if value.dtype == bool else value, precision=3, threshold=40)
    return f"shape {value.shape}\n{text}"


def _show(case) -> str:
    return "\n".join(f"  argument {k}: {_brief(argument)}" for k, argument in enumerate(case, start=1))
