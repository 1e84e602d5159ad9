"""Whether two results are the same: numbers, arrays, tensors, or several of them by name or in a row."""

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOTHING = "your function returned None: is there a return?"  # what a forgotten return is told
SINGLE = float(np.finfo(np.float32).eps)  # float32 rounds by up to half of this, as a share of the number


def gap(output: Any, expected: Any, tolerance: float) -> tuple[float, str]:
    """The largest absolute difference, and what is wrong with the output, "" if nothing is.

    expected: a number, array or tensor; a mapping of them by name; or a tuple of arrays.  tolerance: the largest
    difference that is none; where one of the two is in float32, its rounding is none either, unless tolerance is 0.
    """
    if expected is True:
        return (0.0, "") if output is True else (1.0, "no")
    if isinstance(expected, str):
        return (0.0, "") if output == expected else (1.0, f"expected {expected}; found {output}")
    if isinstance(expected, Mapping):
        if not isinstance(output, Mapping):
            return np.inf, NOTHING if output is None else f"expected a dictionary, got {type(output).__name__}"
        return _gaps({key: (output.get(key), value) for key, value in expected.items()}, tolerance)
    if isinstance(expected, tuple) and any(np.ndim(one) for one in expected):
        if not isinstance(output, Sequence) or len(output) != len(expected):
            found = f"{len(output)} of them" if isinstance(output, Sequence) else type(output).__name__
            return np.inf, f"expected {len(expected)} results, as in return a, b; got {found}"
        names = [f"result {k}" for k in range(1, len(expected) + 1)]
        return _gaps(dict(zip(names, zip(output, expected, strict=True), strict=True)), tolerance)
    if output is None:
        return np.inf, NOTHING
    found, expected = array(output), array(expected)
    if found is None or found.dtype.kind not in "biuf":
        kind = type(output).__name__ if found is None or not found.ndim else found.dtype
        return np.inf, f"expected numbers, got {kind}"
    if found.shape != expected.shape:
        return np.inf, f"expected a result of shape {expected.shape}, got {found.shape}"
    return _difference(found, expected, tolerance)


def alike(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two outputs are the same; NaN and infinity are the same only as themselves, at the same places.

    So a mistake that ends in NaN is found again by its NaN. The arguments are as in `gap`.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key], tolerance) for key in one)
    left, right = array(one), array(other)
    if all(side is not None and side.dtype.kind in "biuf" for side in (left, right)) and left.shape == right.shape:
        odd = ~np.isfinite(right)
        if odd.any() or not np.isfinite(left).all():
            if not np.array_equal(left[odd], right[odd], equal_nan=True):
                return False
            one, other = (np.where(odd, side.dtype.type(0), side) for side in (left, right))
    return not gap(one, other, tolerance)[1]


def array(value: Any) -> np.ndarray | None:
    """Anything that holds numbers as an array on the CPU; None where that cannot be."""
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu().resolve_conj()
            value = value if value.layout == torch.strided else value.to_dense()
            return (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).numpy()
        if isinstance(value, list | tuple):
            return np.asarray([array(one) for one in value])
        if isinstance(value, Number) and not isinstance(value, int | float | complex | np.generic):
            value = float(value)  # a Fraction, say
        return np.asarray(value)
    except Exception:  # whatever a learner's object does when it is asked for its numbers
        return None


def _difference(output, expected, tolerance):
    single = any(one.dtype.kind == "f" and one.dtype.itemsize <= 4 for one in (output, expected))
    output, expected = output.astype(float), expected.astype(float)
    endless = np.isinf(expected) & (output == expected)
    if not (np.isfinite(output) | endless).all():
        return np.inf, "there is NaN or infinity in your result: is something divided by zero?"
    if (np.isinf(expected) & ~endless).any():
        return np.inf, "off by infinity"
    output, expected = (np.where(endless, 0, one) for one in (output, expected))
    allowed = max(tolerance, 64 * SINGLE * np.abs(expected).max(initial=1)) if single and tolerance else tolerance
    difference = float(np.abs(output - expected).max(initial=0))
    return difference, "" if difference <= allowed else f"off by {difference:.3g} (tolerance {allowed:.3g})"


def _gaps(pairs, tolerance):
    """The gaps of several results, each with its name."""
    found = {name: gap(*pair, tolerance) for name, pair in pairs.items()}
    complaints = [f"{name}: {complaint}" for name, (_, complaint) in found.items() if complaint]
    return max(difference for difference, _ in found.values()), complaints[0] if complaints else ""
