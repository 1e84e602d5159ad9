"""Instance masks: which pixel belongs to which object, told by whole numbers of whatever type a file or program has."""

import numpy as np
from torch import Tensor

from minildm.optional import require


def labels(mask: np.ndarray | Tensor) -> np.ndarray:
    """Instance labels (h, w) of any numeric type as int32: 0 = background, 1 to n = the objects, without gaps.

    The order of the values is kept, so what has no gaps comes back as it was. Values may lie beyond any smaller type,
    as 2**32 does beyond int32, and may be floating-point numbers, as long as they are whole; True is 1.
    Raises ValueError for another number of axes, no pixel at all, and for values below 0, not whole, or not finite.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "buif":
        raise ValueError(
            f"expected labels (h, w) of whole numbers from 0, got shape {array.shape}, dtype {array.dtype}"
        )
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.floor(array))).all():
        raise ValueError(
            "expected labels (h, w) of whole numbers from 0, got fractions, NaN or infinity: "
            "compare probabilities with a threshold first, mask > 0.5"
        )
    if array.min() < 0:
        raise ValueError(
            f"expected labels (h, w) of whole numbers from 0, got {array.min()}: what does not count is background, 0"
        )
    values, place = np.unique(array, return_inverse=True)
    first = int(values[0] != 0)  # without any background the smallest value is an object too
    return (place.reshape(array.shape) + first).astype(np.int32)


def regions(mask: np.ndarray | Tensor) -> np.ndarray:
    """Connected components: the regions of one value as instance labels, (h, w) int32; 0 stays the background.

    mask: as `labels` takes it. Pixels hang together along their sides, not across corners, so that a line one pixel
    wide parts two objects, whichever way it runs.
    """
    return require("skimage.measure").label(labels(mask), connectivity=1).astype(np.int32)
