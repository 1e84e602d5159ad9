"""From micrograph to counted nuclei: what the U learns to predict, its loss, and from its maps to instances.

The U has two outputs: is this pixel in a nucleus (a logit), and how deep inside that nucleus it lies. The first finds
the nuclei; the second parts those that touch, for each is deep in its own middle and shallow where they meet.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.data import masks
from minildm.optional import require
from minildm.tensors import evaluating


def depth(mask: np.ndarray, scale: float = 8.0) -> np.ndarray:
    """Distance transform of each instance, squashed: tanh(distance to the instance's own edge / scale), 0 outside.

    mask: (h, w) labels as `data.masks.labels` takes them.  scale: in pixels; the middles of objects larger than that
    all near 1.  Returns (h, w) float32 in [0, 1).  Raises ValueError for what holds no labels.
    After Bai and Urtasun, "Deep watershed transform" (2017).
    """
    ndimage = require("scipy.ndimage")
    mask = masks.labels(mask)
    distance = np.zeros(mask.shape, np.float32)
    for label, box in enumerate(ndimage.find_objects(mask), start=1):
        inside = np.pad(mask[box] == label, 1)  # so that the edge of the box is an edge of the object
        distance[box] = np.maximum(distance[box], ndimage.distance_transform_edt(inside)[1:-1, 1:-1])
    return np.tanh(distance / scale)


def border_weights(mask: np.ndarray, w_0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """Weight map of the loss, what a wrong pixel costs: 1, and up to 1 + w_0 where two instances nearly touch.

    w(x) = 1 + w_0 exp(-(d_1 + d_2)² / 2 sigma²), with the distances to the nearest and the second nearest instance.
    mask: (h, w) labels as `data.masks.labels` takes them.  sigma: in pixels.  Returns (h, w) float32.
    Raises ValueError for what holds no labels.
    Source: Ronneberger et al., "U-Net" (2015), equation 2, without the balancing of classes.
    """
    ndimage = require("scipy.ndimage")
    mask = masks.labels(mask)
    nearest = np.full((2, *mask.shape), np.inf)
    for label in range(1, mask.max() + 1):
        # Of three distances at each pixel the two smallest stay, so memory does not grow with the instances.
        distance = ndimage.distance_transform_edt(mask != label)
        nearest = np.sort([*nearest, distance], axis=0)[:2]
    return (1 + w_0 * np.exp(-(nearest.sum(0) ** 2) / (2 * sigma**2))).astype(np.float32)


def normalise(image: np.ndarray) -> np.ndarray:
    """Contrast stretch of raw intensities of any numeric type, to what suits the U; float32 from -1 upwards.

    image: (h, w), or (h, w, 3) in colour, whose channels share one scale. The result has the same shape.
    The 1st percentile goes to -1 and the 95th, a bright nucleus, to 1 through asinh: a straight line near zero and a
    logarithm above, so that what is several times as bright, such as nuclei about to divide, lies not far from it. An
    image of one value gives -1 everywhere. Raises ValueError for another shape, and unless it is real and finite.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        expected = "expected one image, in colour (h, w, 3) or grey (h, w) of numbers"
        raise ValueError(f"{expected}, got shape {image.shape}, dtype {image.dtype}")
    if image.dtype.kind not in "buif":
        raise ValueError(f"expected an image of real numbers, got dtype {image.dtype}")
    if image.dtype.kind in "ui":  # exact, also where all values lie near 2**63; the difference of two fits uint64
        image = image.astype(np.uint64) - image.min().astype(np.uint64)
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        raise ValueError("expected finite intensities, got NaN or infinity: replace them, for example by np.nan_to_num")
    image = image / (np.abs(image).max() or 1)  # so that no difference overflows, nor is too small to divide by
    dark, bright = np.percentile(image, [1, 95])
    if bright <= dark:  # nearly all of the image has one value, as where a few nuclei lie in pure black
        bright = image.max()
    x = (image - dark).clip(min=0) / max(bright - dark, 1e-300)
    return (2 * np.arcsinh(5 * x) / np.arcsinh(5) - 1).astype(np.float32)


def segmentation_loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the foreground plus smooth L1 of the depth, both weighted; a scalar.

    tensors: `image` (b, c, h, w), and `depth` and `weight` (b, h, w) as the functions above make them.
    """
    logit, deep = model(tensors["image"]).float().unbind(1)  # (b, h, w) each
    inside = (tensors["depth"] > 0).float()
    error = F.binary_cross_entropy_with_logits(logit, inside, reduction="none")
    error = error + 2 * F.smooth_l1_loss(deep, tensors["depth"], beta=0.1, reduction="none")
    return (error * tensors["weight"]).mean()


@torch.no_grad()
def predict(model: nn.Module, image: np.ndarray, views: int = 8, margin: int = 16) -> np.ndarray:
    """Test-time augmentation: the two maps of one raw image, averaged over its turned and mirrored views.

    model: a network with two outputs, whose parts keep their train or eval mode.
    image: (h, w), or (h, w, 3) in colour, as `normalise` takes it. A grey one fits a network of three inputs too, and
    one in colour whose channels are equal fits a network of one input.
    views: 1 (as it is), 4 (turned) or 8 (mirrored too).  margin: pixels by which the edge is repeated
        outwards, cut off again; a mirror would make whole nuclei out of rims.
    Returns (2, h, w) float32: the probability of the foreground, in [0, 1], and the depth, about [0, 1].
    Raises ValueError for an image or a network that does not fit.
    """
    if views not in (1, 4, 8):
        raise ValueError(f"views must be 1, 4 or 8, got {views}")
    outputs = getattr(getattr(model, "head", None), "out_channels", 2)
    if outputs != 2:
        raise ValueError(f"expected a network with 2 outputs, foreground and depth, got {outputs}")
    x = normalise(_fitting(np.asarray(image), getattr(model, "in_channels", None)))
    h, w = x.shape[:2]
    x = x.reshape(h, w, -1)
    multiple = getattr(model, "multiple", 1)
    extra = [(margin, margin + -(side + 2 * margin) % multiple) for side in (h, w)]
    x = np.pad(x, [*extra, (0, 0)], mode="edge")
    parameter = next(model.parameters(), torch.zeros(()))
    x = torch.from_numpy(x).movedim(-1, 0)[None].to(parameter.device, parameter.dtype)  # (1, c, h', w')
    total = 0
    with evaluating(model):
        for view in range(views):
            turned = torch.rot90(x.mT if view >= 4 else x, view % 4, (2, 3))
            maps = torch.rot90(model(turned).float(), -(view % 4), (2, 3))
            total = total + (maps.mT if view >= 4 else maps)
    if not total.isfinite().all():
        raise ValueError(
            "the network's answers are not finite numbers: its weights are damaged, or its training failed"
        )
    logit, deep = (total / views)[0, :, margin : margin + h, margin : margin + w].cpu()
    return torch.stack([logit.sigmoid(), deep]).numpy()


def _fitting(image: np.ndarray, channels: int | None) -> np.ndarray:
    """An image with as many channels as the network has inputs, where that loses nothing: (h, w) or (h, w, 3)."""
    found = image.shape[2] if image.ndim == 3 else 1
    if channels in (None, found) or found not in (1, 3):
        return image
    if channels == 3 and image.ndim == 2:
        return np.stack([image] * 3, axis=-1)
    if channels == 1 and (image == image[..., :1]).all():
        return image[..., 0]
    raise ValueError(
        f"expected an image for a network of {channels} input channels, got one of {found}: "
        f"make it grey by image.mean(-1), or train a UNet({found}, 2, ...)"
    )


def instances(
    foreground: np.ndarray, depth: np.ndarray, threshold: float = 0.5, height: float = 0.15, least: float = 0.3
) -> np.ndarray:
    """Watershed from the summits of the depth map, which parts a foreground into instances; (h, w) int32 labels.

    0 = background, and 1 to n the instances.
    foreground: (h, w) probabilities, kept above `threshold`.  depth: (h, w); smoothed a little, a summit counts when
    the way to a higher one first leads down by `height`. What is nowhere deeper than `least` is a speck and dropped.
    Raises ValueError for maps of other shapes, and unless they are finite.
    Source: watershed from markers, Meyer and Beucher (1990).
    """
    ndimage, segmentation = require("scipy.ndimage"), require("skimage.segmentation")
    foreground, depth = np.asarray(foreground), np.asarray(depth)
    if foreground.shape != depth.shape or depth.ndim != 2:
        raise ValueError(f"expected two maps of one shape (h, w), got {foreground.shape} and {depth.shape}")
    if not (np.isfinite(foreground).all() and np.isfinite(depth).all()):
        raise ValueError("expected finite maps, got NaN or infinity")
    keep = foreground > threshold
    hills = ndimage.gaussian_filter(np.where(keep, depth, 0).astype(np.float64), 1.5)
    # In a frame of zeros: where the foreground fills the image, even its plateau stands out from something.
    tops = require("skimage.morphology").h_maxima(np.pad(hills, 1), height)[1:-1, 1:-1]
    summits, count = ndimage.label(tops, np.ones((3, 3)))
    labels = segmentation.watershed(-hills, summits, mask=keep)
    deepest = np.append(0, ndimage.maximum(hills, labels, np.arange(1, count + 1)))
    return segmentation.relabel_sequential(np.where(deepest[labels] > least, labels, 0))[0].astype(np.int32)


def segment(model: nn.Module, image: np.ndarray) -> np.ndarray:
    """Instance segmentation of one image: (h, w) int32 labels from 1, 0 = background.

    model: a `UNet(1, 2, ...)` such as `weights.load("nuclei")`, or a `UNet(3, 2, ...)` trained on colour.
    image: (h, w) raw, or (h, w, 3) in colour, of any numeric type and size.
    Raises ValueError for an image of another shape or with NaN, and for a network that does not fit.
    """
    return instances(*predict(model, image))


def classical(
    image: np.ndarray, block: int = 101, offset: float = 0.0, blur: float = 1.0, height: float = 0.75
) -> np.ndarray:
    """Classical segmentation, without learning: local threshold, distance to the edge, watershed; (h, w) int32 labels.

    image: (h, w) raw, grey.  block: side of the neighbourhood whose weighted mean is the threshold, odd; 0 takes Otsu's
    (1979) one threshold for the whole image.  offset: added to the threshold, in standard deviations.
    blur: of the image, pixels.  height: how far a summit of the distance map must stand out, pixels.
    Raises ValueError for an image that is not (h, w) or holds NaN.
    """
    ndimage, filters = require("scipy.ndimage"), require("skimage.filters")
    if np.ndim(image) != 2:
        raise ValueError(f"expected a grey image (h, w), got shape {np.shape(image)}: make it grey by image.mean(-1)")
    x = ndimage.gaussian_filter(normalise(image), blur)
    threshold = filters.threshold_local(x, block) if block else filters.threshold_otsu(x)
    keep = ndimage.binary_opening(ndimage.binary_fill_holes(x > threshold + offset * x.std()))
    return instances(keep, ndimage.distance_transform_edt(keep), height=height, least=2.0)
