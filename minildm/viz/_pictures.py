"""Images of any kind as arrays that matplotlib shows."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minildm.images import Images, from_model, to_uint8

# What matplotlib's functions take and give; it is imported only where it is used.
Axes = Any
Figure = Any


def pixels(images: Images) -> np.ndarray:
    """Images as networks and samplers give them, as pixels: uint8 (b, h, w, 3), or (h, w, 3) for a single one.

    images: floating-point numbers in [-1, 1]; what lies outside is cut. Tensors (b, c, h, w) or (c, h, w), arrays with
        the channels last or first. Bytes, booleans, PIL images and paths, which know their own range, as they are.
        Or any number of single images, all of one size.
    Raises ValueError for other than 1 or 3 channels, for different sizes, for none, and for what is not finite.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        images = _channels_first(images)
    if isinstance(images, Tensor):
        return _from_tensor(images)
    if isinstance(images, np.ndarray):
        drawn = _last(to_uint8(images))
        return drawn if images.ndim == 4 else drawn[0]
    if isinstance(images, Image.Image | str | os.PathLike):
        return _last(to_uint8(images))[0]
    if not isinstance(images, Iterable) or isinstance(images, Mapping | bytes):
        raise ValueError(f"expected images, got {type(images).__name__}")
    drawn = [pixels(one) for one in images]
    sizes = {one.shape for one in drawn}
    if len(sizes) != 1 or drawn[0].ndim != 3:
        raise ValueError(
            f"expected single images of one size, and at least one, got shapes {sorted(sizes) or 'of none'}"
        )
    return np.stack(drawn)


def latent_colours(z: Tensor, scale: int = 8) -> Tensor:
    """Latents as mosaics: the first three numbers of each place as red, green and blue. (b, 3, scale·h, scale·w)

    z: (b, c, h, w), of standard deviation about 1, as a denoiser sees them; from -2, dark, to 2, bright.
    scale: the side of a place in pixels.  Raises ValueError for fewer than three channels.
    """
    if z.ndim != 4 or z.shape[1] < 3:
        raise ValueError(f"expected latents (b, c, h, w) with at least 3 channels, got {tuple(z.shape)}")
    return (z[:, :3] / 2).clamp(-1, 1).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


def array(image: Images) -> np.ndarray:
    """An image of any kind as an array for `imshow`: (h, w), or (h, w, 3) in colour; numbers keep their range.

    image: a tensor (h, w) or (c, h, w), an array (h, w) or (h, w, c), which may have alpha, a PIL image or a path.
    Raises ValueError for other than 1 or 3 channels, and for a batch.
    """
    if isinstance(image, Image.Image | str | os.PathLike):
        image = to_uint8(image, None)[0]
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
        channels = (1, 3)
    else:
        image, channels = np.asarray(image), (1, 3, 4)  # with an array's alpha matplotlib does the right thing
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or image.ndim == 3 and image.shape[2] not in channels:
        raise ValueError(
            f"expected one image, (h, w) or with 1 or 3 channels, got shape {image.shape} with the channels last; of a "
            "batch take one, a latent is decoded first"
        )
    return image


def _from_tensor(x):
    if x.ndim not in (3, 4) or x.shape[-3] not in (1, 3):
        raise ValueError(
            f"expected pictures (b, c, h, w) or (c, h, w) with 1 or 3 channels, got {tuple(x.shape)}; "
            "a latent is decoded first"
        )
    x = x.detach().cpu()
    drawn = _last(to_uint8(from_model(x) if x.is_floating_point() else x))
    return drawn if x.ndim == 4 else drawn[0]


def _channels_first(x):
    """An array of floating-point numbers as a tensor (b, c, h, w) or (c, h, w)."""
    x = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    if x.ndim == 2:
        return x[None]
    return x.movedim(-1, -3) if x.shape[-1] in (1, 3) else x


def _last(x):
    return x.movedim(1, -1).numpy()
