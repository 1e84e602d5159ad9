"""From micrograph to counted nuclei: what the U learns to predict, its loss, and from its maps to instances.

The U has two outputs: is this pixel in a nucleus (a logit), and how deep inside that nucleus it lies. The first finds
the nuclei; the second parts those that touch, for each is deep in its own middle and shallow where they meet.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.optional import require


def depth(mask: np.ndarray, scale: float = 8.0) -> np.ndarray:
    """How deep in its own instance each pixel lies: tanh(distance to the instance's edge / scale), 0 outside.

    mask: (h, w) int labels, 0 = background.  scale: in pixels; the middles of objects larger than that all near 1.
    Returns (h, w) float32 in [0, 1).  After Bai and Urtasun, "Deep watershed transform" (2017).
    """
    ndimage = require("scipy.ndimage")
    mask = _labels(mask)
    distance = np.zeros(mask.shape, np.float32)
    for label, box in enumerate(ndimage.find_objects(mask), start=1):
        if box is not None:  # a label that no pixel bears
            inside = np.pad(mask[box] == label, 1)  # so that the edge of the box is an edge of the object
            distance[box] = np.maximum(distance[box], ndimage.distance_transform_edt(inside)[1:-1, 1:-1])
    return np.tanh(distance / scale)


def border_weights(mask: np.ndarray, w_0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """What a wrong pixel costs: 1, and up to 1 + w_0 where two instances nearly touch.

    w(x) = 1 + w_0 exp(-(d_1 + d_2)² / 2 sigma²), with the distances to the nearest and the second nearest instance.
    mask: (h, w) int labels, 0 = background.  sigma: in pixels.  Returns (h, w) float32.
    Source: Ronneberger et al., "U-Net" (2015), equation 2, without the balancing of classes.
    """
    ndimage = require("scipy.ndimage")
    mask = _labels(mask)
    nearest = np.full((2, *mask.shape), np.inf)
    for label in np.unique(mask[mask > 0]):
        # Of three distances at each pixel the two smallest stay, so memory does not grow with the instances.
        distance = ndimage.distance_transform_edt(mask != label)
        nearest = np.sort([*nearest, distance], axis=0)[:2]
    return (1 + w_0 * np.exp(-(nearest.sum(0) ** 2) / (2 * sigma**2))).astype(np.float32)


def normalise(image: np.ndarray) -> np.ndarray:
    """Raw intensities of any numeric type on a scale that suits the U; (h, w) float32 from -1 upwards.

    The 1st percentile goes to -1 and the 95th, a bright nucleus, to 1 through asinh: a straight line near zero and
    a logarithm above, so that debris ten times as bright as a nucleus lies not far from one. An image of one value
    gives -1 everywhere. Raises ValueError unless the image is (h, w), real and finite.
    """
    image = np.asarray(image)
    if image.ndim != 2 or not image.size or image.dtype.kind not in "buif":
        raise ValueError(f"expected one grey image (h, w) of numbers, got shape {image.shape}, dtype {image.dtype}")
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        raise ValueError("expected finite intensities, got NaN or infinity: replace them, for example by np.nan_to_num")
    dark, bright = np.percentile(image, [1, 95])
    if bright <= dark:  # nearly all of the image has one value, as where a few nuclei lie in pure black
        bright = image.max()
    x = (image - dark).clip(min=0) / max(bright - dark, np.finfo(np.float32).tiny)
    return (2 * np.arcsinh(5 * x) / np.arcsinh(5) - 1).astype(np.float32)


def segmentation_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the foreground plus smooth L1 of the depth, both weighted; a scalar.

    tensors: `image` (b, 1, h, w), and `depth` and `weight` (b, h, w) as the functions above make them.
    """
    logit, deep = model(tensors["image"]).float().unbind(1)  # (b, h, w) each
    inside = (tensors["depth"] > 0).float()
    error = F.binary_cross_entropy_with_logits(logit, inside, reduction="none")
    error = error + 2 * F.smooth_l1_loss(deep, tensors["depth"], beta=0.1, reduction="none")
    return (error * tensors["weight"]).mean()


@torch.no_grad()
def predict(model: nn.Module, image: np.ndarray, views: int = 8, margin: int = 16) -> np.ndarray:
    """The two maps of one raw image (h, w), averaged over its turned and mirrored views; (2, h, w) float32.

    The maps are the probability of the foreground, in [0, 1], and the depth, about [0, 1].
    views: 1 (as it is), 4 (turned) or 8 (mirrored too).  margin: pixels of mirrored surroundings, cut off again.
    """
    if views not in (1, 4, 8):
        raise ValueError(f"views must be 1, 4 or 8, got {views}")
    outputs = getattr(getattr(model, "head", None), "out_channels", 2)
    if outputs != 2:
        raise ValueError(f"expected a network with 2 outputs, foreground and depth, got {outputs}")
    x = normalise(image)
    h, w = x.shape
    multiple = getattr(model, "multiple", 1)
    extra = [(margin, margin + -(side + 2 * margin) % multiple) for side in (h, w)]
    x = np.pad(x, extra, mode="reflect" if min(h, w) > 1 else "edge")
    parameter = next(model.parameters())
    x = torch.from_numpy(x)[None, None].to(parameter.device, parameter.dtype)  # (1, 1, h', w')
    training = model.training
    model.eval()
    total = 0
    for view in range(views):
        turned = torch.rot90(x.mT if view >= 4 else x, view % 4, (2, 3))
        maps = torch.rot90(model(turned), -(view % 4), (2, 3))
        total = total + (maps.mT if view >= 4 else maps)
    model.train(training)
    logit, deep = (total / views)[0, :, margin : margin + h, margin : margin + w].float().cpu()
    return torch.stack([logit.sigmoid(), deep]).numpy()


def instances(
    foreground: np.ndarray, depth: np.ndarray, threshold: float = 0.5, height: float = 0.1, least: float = 0.25
) -> np.ndarray:
    """Part a foreground into instances: each summit of the depth map floods its basin; (h, w) int32, 0 = background.

    foreground: (h, w) probabilities, kept above `threshold`.  depth: (h, w); smoothed a little, a summit counts when
    the way to a higher one first leads down by `height`. What is nowhere deeper than `least` is a speck and dropped.
    Source: watershed from markers, Meyer and Beucher (1990).
    """
    ndimage, segmentation = require("scipy.ndimage"), require("skimage.segmentation")
    keep = np.asarray(foreground) > threshold
    hills = ndimage.gaussian_filter(np.where(keep, depth, 0).astype(np.float64), 1.5)
    summits, count = ndimage.label(require("skimage.morphology").h_maxima(hills, height), np.ones((3, 3)))
    labels = segmentation.watershed(-hills, summits, mask=keep)
    deepest = np.append(0, ndimage.maximum(hills, labels, np.arange(1, count + 1)))
    return segmentation.relabel_sequential(np.where(deepest[labels] > least, labels, 0))[0].astype(np.int32)


def segment(model: nn.Module, image: np.ndarray) -> np.ndarray:
    """Find the nuclei in a micrograph: (h, w) int32 instance labels from 1, 0 = background.

    model: a `UNet(1, 2, ...)` such as `weights.load("nuclei")`.  image: (h, w) raw, any numeric type and size.
    Raises ValueError for an image that is not (h, w) or holds NaN, and for a network with other outputs.
    """
    return instances(*predict(model, image))


def classical(
    image: np.ndarray, block: int = 101, offset: float = 0.0, blur: float = 1.0, height: float = 0.75
) -> np.ndarray:
    """The same job without learning: local threshold, distance to the edge, watershed; (h, w) int32 labels.

    image: (h, w) raw.  block: side of the neighbourhood whose weighted mean is the threshold, odd; 0 takes Otsu's
    (1979) one threshold for the whole image.  offset: added to the threshold, in standard deviations.
    blur: of the image, pixels.  height: how far a summit of the distance map must stand out, pixels.
    """
    ndimage, filters = require("scipy.ndimage"), require("skimage.filters")
    x = ndimage.gaussian_filter(normalise(image), blur)
    threshold = filters.threshold_local(x, block) if block else filters.threshold_otsu(x)
    keep = ndimage.binary_opening(ndimage.binary_fill_holes(x > threshold + offset * x.std()))
    return instances(keep, ndimage.distance_transform_edt(keep), height=height, least=2.0)


def _labels(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "bui" or (mask.size and mask.min() < 0):
        raise ValueError(f"expected labels (h, w) of whole numbers from 0, got shape {mask.shape}, dtype {mask.dtype}")
    return mask.astype(np.int32)
