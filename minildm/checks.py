"""Checks of the exercises: each tries your function on random cases and, where it fails, hints at the likely mistake.

A hint is found by trying well-known wrong answers: if yours agrees with one of them, that is probably what happened.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from minildm import metrics

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


def dice(answer: Function) -> None:
    """Lesson 01, exercise 2: `answer(true, pred)`, two boolean arrays (h, w) -> Dice."""
    rng = np.random.default_rng(1)
    cases = [tuple(rng.random((2, h, w)) < p) for h, w, p in [(2, 3, 0.5), (4, 5, 0.4), (7, 6, 0.7), (9, 16, 0.2)]]
    cases += [(np.ones((3, 8), bool), np.ones((3, 8), bool)), (np.zeros((5, 2), bool), np.ones((5, 2), bool))]

    def ratio(top, bottom):
        return lambda a, b: float(top(a, b) / max(bottom(a, b), 1))

    mistakes = {
        "this is intersection over union; Dice counts the overlap twice": ratio(
            lambda a, b: (a & b).sum(), lambda a, b: (a | b).sum()
        ),
        "it can never exceed 1: does the denominator count each mask on its own, or their union?": ratio(
            lambda a, b: 2 * (a & b).sum(), lambda a, b: (a | b).sum()
        ),
        "half of what it should be: two equal masks must give 1": ratio(
            lambda a, b: (a & b).sum(), lambda a, b: a.sum() + b.sum()
        ),
        "this counts background that agrees, too; Dice looks at the foreground alone": lambda a, b: float(
            (a == b).mean()
        ),
    }
    check("dice", answer, metrics.dice, cases, mistakes)


def border_weight(answer: Function) -> None:
    """Lesson 01, exercise 3: `answer(d_1, d_2, w_0, sigma)`, distances (h, w) -> weights (h, w)."""
    rng = np.random.default_rng(2)
    cases = []
    for h, w, w_0, sigma in [(1, 2, 10.0, 5.0), (3, 4, 2.0, 3.0), (6, 5, 7.0, 8.0)]:
        d = np.sort(rng.uniform(0, 12, (2, h, w)), axis=0)
        cases.append((d[0], d[1], w_0, sigma))

    def formula(square=lambda a, b: (a + b) ** 2, sign=-1, two=2, power=2, one=1):
        return lambda a, b, w_0, sigma: one + w_0 * np.exp(sign * square(a, b) / (two * sigma**power))

    mistakes = {
        "the sum of the distances is squared, not each distance": formula(square=lambda a, b: a**2 + b**2),
        "the sum of the distances is not squared yet": formula(square=lambda a, b: a + b),
        "the weight grows with the distance: look at the sign of the exponent": formula(sign=1),
        "a factor is missing below the fraction bar": formula(two=1),
        "sigma is squared below the fraction bar": formula(power=1),
        "far from any border a pixel must still count once": formula(one=0),
    }
    check("border_weight", answer, formula(), cases, mistakes)


def valid_size(answer: Function) -> None:
    """Lesson 01, exercise 1: `answer(size, levels)`, the side of the output of a U without padding."""

    def side(size, levels, lost=4, last=True):
        for _ in range(levels - 1):
            size = (size - lost) // 2
        size -= lost if last else 0
        for _ in range(levels - 1):
            size = 2 * size - lost
        return size

    cases = [(side, levels) for side, levels in [(572, 5), (188, 3), (92, 2), (60, 1), (252, 4), (124, 3)]]
    mistakes = {
        "that is the output of the padded network; without padding each 3×3 convolution loses a border": lambda s, _: s,
        "a 3×3 convolution loses one pixel on each side, and a block has two of them": lambda s, n: side(s, n, lost=2),
        "the block at the bottom of the U loses pixels too": lambda s, n: side(s, n, last=False),
    }
    check("valid_size", answer, side, cases, mistakes, tolerance=0)


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
    return sum(np.size(argument) if np.ndim(argument) else abs(float(argument)) * 1e-6 for argument in case)


def _copy(argument):
    return argument.copy() if isinstance(argument, np.ndarray) else argument


def _brief(value) -> str:
    if value is None or not np.ndim(_array(value)):
        return repr(value)
    value = _array(value)
    text = np.array2string(value.astype(int) if value.dtype == bool else value, precision=3, threshold=40)
    return f"shape {value.shape}\n{text}"


def _show(case) -> str:
    return "\n".join(f"  argument {k}: {_brief(argument)}" for k, argument in enumerate(case, start=1))
