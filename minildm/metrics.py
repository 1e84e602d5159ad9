"""How good is it? Overlap of masks, instances and maps, likeness of two pictures, distance between sets of pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minildm.data.masks import labels
from minildm.images import Images, to_unit
from minildm.optional import require


def _label_pair(true: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    true, pred = labels(true), labels(pred)
    if true.shape != pred.shape:
        raise ValueError(f"expected two masks of one shape (h, w), got {true.shape} and {pred.shape}")
    return true, pred


def dice(true: np.ndarray, pred: np.ndarray) -> float:
    """Dice coefficient of two foregrounds, 2|A∩B| / (|A| + |B|), between 0 and 1; 1 when both are empty.

    It is the F1 score of the pixels: the harmonic mean of precision |A∩B| / |pred| and recall |A∩B| / |true|.
    true, pred: (h, w) bool, or labels as `data.masks.labels` takes them, 0 = background.
    Raises ValueError for two shapes, and for what holds no labels, such as probabilities.  Source: Dice (1945).
    """
    true, pred = (mask > 0 for mask in _label_pair(true, pred))
    total = true.sum() + pred.sum()
    return float(2 * (true & pred).sum() / total) if total else 1.0


def average_precision(true: np.ndarray, pred: np.ndarray, iou: float = 0.5) -> float:
    """Average precision at one threshold as the 2018 Data Science Bowl defined it, TP / (TP + FP + FN).

    Elsewhere this is the threat score; it is no area under a curve of precision and recall, and at most either of
    them, which are TP / (TP + FP) and TP / (TP + FN). Between 0 and 1; 1 when neither mask holds an instance.
    true, pred: (h, w) labels as `data.masks.labels` takes them. A predicted instance is a true positive (TP) when its
    intersection over union with a true one is at least `iou`, in (0, 1], each counted once.
    Raises ValueError for two shapes, for what holds no labels, and another `iou`.  Computed by `stardist.matching`.
    """
    matching = require("stardist.matching").matching
    true, pred = _label_pair(true, pred)
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be above 0 and at most 1, got {iou}")
    if not true.any() and not pred.any():
        return 1.0
    return float(matching(true, pred, thresh=iou).accuracy)


def border_f1(true: np.ndarray, pred: np.ndarray, tolerance: float = 1.0) -> float:
    """Boundary F1 score: how precisely the outlines agree, between 0 and 1.

    The harmonic mean of precision, the share of predicted outline pixels that lie within `tolerance` pixels of a true
    one, and of recall, the share of true ones that lie so near a predicted one. The outline of an instance is made of
    its outermost pixels; the edge of the picture is no outline. Where neither mask has an outline, because nothing or
    one instance fills the picture, it is 1 if the foregrounds agree and 0 if not; where one has none, 0.
    true, pred: (h, w) labels as `data.masks.labels` takes them.
    Raises ValueError for two shapes, for what holds no labels, and a tolerance below 0.
    Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?" (2013).
    """
    distance = require("scipy.ndimage").distance_transform_edt
    find_boundaries = require("skimage.segmentation").find_boundaries
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0 pixels, got {tolerance}")
    true, pred = _label_pair(true, pred)
    true_line, pred_line = (find_boundaries(mask, mode="inner") for mask in (true, pred))
    if not true_line.any() and not pred_line.any():
        return float(np.array_equal(true > 0, pred > 0))
    if not true_line.any() or not pred_line.any():
        return 0.0
    precision = (distance(~true_line)[pred_line] <= tolerance).mean()
    recall = (distance(~pred_line)[true_line] <= tolerance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def pointing_game(maps: Tensor, masks: Tensor, margin: float = 0) -> Tensor:
    """Pointing game: whether each map is largest inside its mask, or at most `margin` pixels away. -> (b,) bool

    maps: (b, h, w), finite, of any range; of several largest pixels the first counts.
    masks: (b, h, w) bool, none of them empty.
    A pixel chosen at random wins as often as it covers of the picture: the mask, grown by the margin.
    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop" (2016), section 4.2.
    Raises ValueError for other shapes, for maps that are not finite, and for an empty mask.
    """
    maps, masks = _maps(maps, masks)
    distance = require("scipy.ndimage").distance_transform_edt
    at = maps.flatten(1).argmax(1)
    away = [distance(~mask.cpu().numpy()).flat[i] for mask, i in zip(masks, at.tolist(), strict=True)]
    return torch.tensor(away, device=maps.device) <= margin


def map_iou(maps: Tensor, masks: Tensor, quantile: float = 0.9) -> Tensor:
    """Intersection over union of the bright part of each map and its mask, from 0 to 1. -> (b,)

    maps, masks: as in `pointing_game`.  quantile: what exceeds this quantile of its own map is bright: 0.9 is the
    brightest tenth of a picture, wherever it lies and however faint it is. Of a map that is equal everywhere, nothing.
    Raises ValueError for other shapes, for maps that are not finite, an empty mask, and a quantile outside [0, 1].
    """
    maps, masks = _maps(maps, masks)
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie in [0, 1], got {quantile}")
    if not len(maps):
        return maps.new_zeros(0)
    bright = maps > maps.flatten(1).quantile(quantile, dim=1)[:, None, None]
    return (bright & masks).sum((1, 2)) / (bright | masks).sum((1, 2))


def _maps(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if maps.shape != masks.shape or maps.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"expected maps and masks of one shape (b, h, w), the masks bool, got {tuple(maps.shape)} and "
            f"{tuple(masks.shape)} of {masks.dtype}"
        )
    if not masks.flatten(1).any(1).all():
        raise ValueError("expected masks that hold something: leave out what is not in the picture")
    if not maps.isfinite().all():
        raise ValueError(f"expected finite maps, got {(~maps.isfinite()).sum()} values that are not")
    return maps.float(), masks


def psnr(true: Images, pred: Images) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, -10 log10 of its mean squared error; inf for an equal picture.

    true, pred: (b, c, h, w) in [0, 1], so that the peak is 1, or whatever `images` takes. The error is averaged over a
    picture's pixels and channels; pictures are not averaged: the mean of what is returned weighs them equally, and is
    inf if one is.
    -> (b,).  Computed by `torchmetrics`.  Raises ValueError for other shapes or ranges.
    """
    true, pred = _pictures_of_one_shape(true, pred)
    functional = require("torchmetrics.functional.image")
    return functional.peak_signal_noise_ratio(pred, true, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(true: Images, pred: Images) -> Tensor:
    """Structural similarity of each picture, at most 1, for equal ones: do brightness, contrast and pattern agree?

    true, pred: (b, c, h, w) in [0, 1], at least 6×6. It is taken in a Gaussian window (sigma 1.5) around each pixel,
    which the picture's mirror image fills at the border, and averaged over pixels and channels. -> (b,)
    Computed by `torchmetrics`.  Source: Wang et al., "Image quality assessment" (2004).  Raises ValueError.
    """
    true, pred = _pictures_of_one_shape(true, pred)
    if min(true.shape[2:]) < 6:
        h, w = true.shape[2:]
        raise ValueError(f"expected pictures of at least 6×6, half of SSIM's window, got {h}×{w}")
    functional = require("torchmetrics.functional.image")
    return functional.structural_similarity_index_measure(pred, true, data_range=1.0, reduction="none")


def _pictures_of_one_shape(true: Images, pred: Images) -> tuple[Tensor, Tensor]:
    true, pred = (to_unit(x, x.shape[1] if isinstance(x, Tensor) and x.ndim == 4 else None) for x in (true, pred))
    if true.shape != pred.shape or not len(true):
        raise ValueError(
            f"expected two batches of pictures of one shape (b, c, h, w), got {tuple(true.shape)} and "
            f"{tuple(pred.shape)}"
        )
    return true, pred


def frechet_distance(made: Tensor, real: Tensor) -> float:
    """Fréchet distance of two sets of features, as if they were normally distributed; 0 if their moments are equal.

    made: (n, d), real: (m, d) features of pictures, as from `judge.features`, at least two of each.
    |mean - mean'|² + tr(C + C' - 2 (C C')^½), where C, C' are the covariances. The fewer the pictures, the larger it
    comes out: compare distances of equal n and m alone, such as the floor beside it in `compare`.
    Raises ValueError for features of another shape, and for what is not finite or too large to be squared.
    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017), equation 6; there with Inception's
    features, here with those that are given.
    """
    made, real = _features(made, real)
    shift = (made.mean(0) - real.mean(0)).square().sum()
    # With C = R^T R and C' = R'^T R', the trace of (C C')^½ is the sum of the singular values of R R'^T. So neither a
    # product of covariances nor its root is formed, and fewer pictures than features do no harm.
    roots = [torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r").R for x in (made, real)]
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    total = sum(root.square().sum() for root in roots)  # the trace of C is the sum of R's squares
    return max(0.0, _finite(shift + total - 2 * shared))


def kernel_distance(made: Tensor, real: Tensor) -> float:
    """Kernel distance (MMD²) of two sets of features: 0, on average, for two samples of one distribution.

    made: (n, d), real: (m, d) features of pictures, as from `judge.features`, at least two of each. Both are shifted
    and scaled so that the real ones have mean 0 and standard deviation 1 in each feature.
    The estimate does not grow or shrink with n and m, only its scatter does, so it can fall below 0. It means nothing
    without its extractor, and little without the same distance between two halves of the real set beside it.
    Raises ValueError for features of another shape, and for what is not finite or too large to be cubed.
    Source: Binkowski et al., "Demystifying MMD GANs" (2018), section 3, cubic kernel.
    """
    made, real = _features(made, real)
    mean, std = real.mean(0), real.std(0).clamp_min(1e-6)
    made, real = (made - mean) / std, (real - mean) / std

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):  # the mean over pairs of two different pictures
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return _finite(within(made) + within(real) - 2 * kernel(made, real).mean())


def _finite(distance: Tensor) -> float:
    if not distance.isfinite():
        raise ValueError("the features are so large that the distance is no finite number: scale both sets down")
    return float(distance)


def _features(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    if made.ndim != 2 or real.ndim != 2 or made.shape[1] != real.shape[1] or min(len(made), len(real)) < 2:
        raise ValueError(
            f"expected features (n, d) and (m, d) of at least two pictures each, got {tuple(made.shape)} and "
            f"{tuple(real.shape)}"
        )
    for name, x in (("made", made), ("real", real)):
        if not x.isfinite().all():
            raise ValueError(f"expected finite features, got {(~x.isfinite()).sum()} that are not, in {name}")
    return made.double(), real.double()


class Comparison(NamedTuple):
    """Both distances of a set of pictures from real ones, and the floor of each; printed, it is one honest line."""

    frechet: float
    frechet_floor: float  # what as many real pictures get
    kernel: float
    kernel_floor: float
    made: int  # how many pictures were measured, and as many real ones for the floor
    real: int  # how many real ones both were measured against
    extractor: str  # what the features are

    def __str__(self):
        return (
            f"Fréchet {self.frechet:.4g} (floor {self.frechet_floor:.4g}), "
            f"kernel {self.kernel:.4f} (floor {self.kernel_floor:.4f}): "
            f"{self.made} samples against {self.real} real pictures, {self.extractor}"
        )


def compare(made: Tensor, real: Tensor, extractor: str) -> Comparison:
    """Fréchet and kernel distance of pictures from real ones, and the floor of both: as many real ones, measured alike.

    made: (n, d) features of the pictures.  real: (m, d) those of m >= 2 n real pictures: n of them, drawn at random
    and always the same, are measured for the floor; the other m - n are what both are measured against.
    extractor: what made the features, in words, such as "features of scenes-judge".
    Raises ValueError for features of another shape, and for fewer real pictures.
    """
    made, real = _features(made, real)
    n, m = len(made), len(real)
    if m < 2 * n:
        raise ValueError(
            f"expected at least twice as many real pictures as samples, {n} for the floor and {n} to compare with, "
            f"got {m}: add real pictures, or measure {m // 2} samples"
        )
    order = torch.randperm(m, generator=torch.Generator().manual_seed(0)).to(real.device)
    held, against = real[order[:n]], real[order[n:]]
    distances = [measure(x, against) for measure in (frechet_distance, kernel_distance) for x in (made, held)]
    return Comparison(*distances, made=n, real=m - n, extractor=extractor)


class Interval(NamedTuple):
    """A mean and the interval around it."""

    mean: float
    low: float
    high: float


def paired_interval(one: Sequence[float], other: Sequence[float], level: float = 0.95) -> Interval:
    """Confidence interval of the mean difference other - one between measurements that belong together in pairs.

    one, other: n >= 2 figures each; the k-th of both come from the same conditions, such as seed and data.
    level: the share of such intervals that hold the true mean, if differences are normally distributed.
    Source: Student, "The probable error of a mean" (1908); n - 1 degrees of freedom.
    Raises ValueError for lists of two lengths, fewer than two pairs, figures that are not finite, and other levels.
    """
    one, other = np.asarray(one, float), np.asarray(other, float)
    if one.shape != other.shape or one.ndim != 1 or len(one) < 2:
        raise ValueError(f"expected two rows of n figures each, n from 2, got shapes {one.shape} and {other.shape}")
    difference = other - one
    if not np.isfinite(difference).all() or not 0 < level < 1:
        raise ValueError(f"expected finite figures and a level between 0 and 1, got {one}, {other} and {level}")
    half = require("scipy.stats").t.ppf((1 + level) / 2, len(one) - 1) * difference.std(ddof=1) / len(one) ** 0.5
    mean = difference.mean()
    return Interval(float(mean), float(mean - half), float(mean + half))
