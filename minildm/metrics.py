"""How good is it? Overlap of masks and of instances, distance between sets of pictures."""

import numpy as np
from torch import Tensor

from minildm.optional import require


def _same_shape(true: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    true, pred = np.asarray(true), np.asarray(pred)
    if true.shape != pred.shape or true.ndim != 2:
        raise ValueError(f"expected two masks of one shape (h, w), got {true.shape} and {pred.shape}")
    return true, pred


def dice(true: np.ndarray, pred: np.ndarray) -> float:
    """Overlap of two foregrounds, 2|A∩B| / (|A| + |B|), between 0 and 1; 1 when both are empty.

    true, pred: (h, w) bool, or labels with 0 = background.  Source: Dice (1945).
    """
    true, pred = (mask > 0 for mask in _same_shape(true, pred))
    total = true.sum() + pred.sum()
    return float(2 * (true & pred).sum() / total) if total else 1.0


def average_precision(true: np.ndarray, pred: np.ndarray, iou: float = 0.5) -> float:
    """Share of instances found, TP / (TP + FP + FN): the 2018 Data Science Bowl's precision at one threshold.

    true, pred: (h, w) int labels, 0 = background. A predicted instance is a true positive (TP) when its
    intersection over union with a true one is at least `iou`, each counted once. Computed by `stardist.matching`.
    """
    matching = require("stardist.matching").matching
    true, pred = _same_shape(true, pred)
    return float(matching(true.astype(np.int32), pred.astype(np.int32), thresh=iou).accuracy)


def border_f1(true: np.ndarray, pred: np.ndarray, tolerance: float = 1.0) -> float:
    """How precisely the outlines agree: F1 of outline pixels that lie within `tolerance` pixels of the other's.

    true, pred: (h, w) int labels, 0 = background. The outline of an instance is made of its outermost pixels.
    Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?" (2013).
    """
    distance = require("scipy.ndimage").distance_transform_edt
    find_boundaries = require("skimage.segmentation").find_boundaries
    outlines = [find_boundaries(mask, mode="inner") for mask in _same_shape(true, pred)]
    if not all(outline.any() for outline in outlines):
        return float(not any(outline.any() for outline in outlines))
    true_line, pred_line = outlines
    precision = (distance(~true_line)[pred_line] <= tolerance).mean()
    recall = (distance(~pred_line)[true_line] <= tolerance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def kernel_distance(made: Tensor, real: Tensor) -> float:
    """How far a set of pictures is from a set of real ones, by their features: 0 for two samples of one distribution.

    made: (n, d), real: (m, d) features of pictures, as from `judge.features`, at least two of each. Both are shifted
    and scaled so that the real ones have mean 0 and standard deviation 1 in each feature.
    The estimate does not grow or shrink with n and m, only its scatter does, so it can fall below 0. It means nothing
    without its extractor, and little without the same distance between two halves of the real set beside it.
    Raises ValueError for features of another shape.
    Source: Binkowski et al., "Demystifying MMD GANs" (2018), section 3, cubic kernel.
    """
    if made.ndim != 2 or real.ndim != 2 or made.shape[1] != real.shape[1] or min(len(made), len(real)) < 2:
        raise ValueError(
            f"expected features (n, d) and (m, d) of at least two pictures each, got {tuple(made.shape)} and "
            f"{tuple(real.shape)}"
        )
    made, real = made.double(), real.double()
    mean, std = real.mean(0), real.std(0).clamp_min(1e-6)
    made, real = (made - mean) / std, (real - mean) / std

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):  # the mean over pairs of two different pictures
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return float(within(made) + within(real) - 2 * kernel(made, real).mean())
