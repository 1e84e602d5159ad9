"""Conversions between image files, PIL images, arrays and tensors: ranges, channels, alpha, orientation, bit depths.

Every function here takes an image, or any number of them, as one of:
    a path, read as viewers show it: turned by its EXIF orientation;
    a PIL image of any mode: 1, 8 or 16 bits, float, grey, palette, colour, CMYK, with alpha or without;
    an array (h, w), (h, w, c) or (b, h, w, c), or a tensor (h, w), (c, h, w) or (b, c, h, w);
    a list, tuple or generator of these, all of one size.

What numbers mean is said by their type, never guessed from their values: bool is 0 or 1, uint8 is divided by 255,
uint16 by 65535, floats are in [0, 1] as they are. Anything else is a ValueError, and so are NaN and infinity.
"""

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from minildm.optional import require

Images = str | os.PathLike | Image.Image | np.ndarray | Tensor | Iterable
Colour = str | tuple[int, int, int]  # as PIL names it, or red, green and blue up to 255

_TOP = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}  # white, in each type that says its range
_GREY = (0.299, 0.587, 0.114)  # red, green, blue in grey, as in PIL: ITU-R BT.601


def read(file: str | os.PathLike | BinaryIO) -> Image.Image:
    """An image file, as a PIL image that is loaded and upright. FileNotFoundError; ValueError for what is no image."""
    try:
        with Image.open(Path(file).expanduser() if isinstance(file, str) else file) as image:
            return ImageOps.exif_transpose(image)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged file may end in any error of a decoder
        raise ValueError(f"{file} is damaged, or no image that PIL can read: {error}") from error


def to_unit(images: Images, channels: int | None = 3, ground: Colour = "white") -> Tensor:
    """Images as a float32 tensor (b, c, h, w) in [0, 1]; tensors stay on their device.

    channels: 1 makes grey of colours, 3 colours of grey, None leaves each. Other numbers must be there as they are.
    ground: the colour on which transparent images are laid: those with 2 or 4 channels, where another number is asked
        for.
    An empty list is an empty batch of 64×64. Raises ValueError for other ranges, types and shapes, for different sizes,
    and for values that are not finite; FileNotFoundError.
    """
    if _are_many(images):
        return _stacked(images, lambda one: to_unit(one, channels, ground), channels)
    x = _raw(images)
    if not x.is_floating_point() and x.dtype not in _TOP:
        raise ValueError(
            f"expected images as floats in [0, 1], uint8, uint16 or bool, got {x.dtype}, which does not say its range: "
            "convert to uint8 what goes from 0 to 255"
        )
    if x.dtype in _TOP:
        x = x.to(torch.float32) / _TOP[x.dtype]
    else:
        _check_unit(x := x.to(torch.float32))
    return _with_channels(x, channels, ground)


def to_model(images: Images, channels: int | None = 3, ground: Colour = "white") -> Tensor:
    """Images as networks take them: float32 (b, c, h, w) in [-1, 1]. Arguments and errors as of `to_unit`."""
    return to_unit(images, channels, ground).mul(2).sub(1)


def from_model(x: Tensor) -> Tensor:
    """What a network or a decoder gave, in [-1, 1], as float32 in [0, 1], of any shape; what overshoots is clamped.

    Raises ValueError for integers, and for values that are not finite.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"expected a floating-point tensor in [-1, 1], got {found}")
    if not x.isfinite().all():
        raise ValueError("the image holds NaN or infinity: the network that made it, or its input, is broken")
    return x.to(torch.float32).add(1).div(2).clamp(0, 1)


def to_uint8(images: Images, channels: int | None = 3, ground: Colour = "white") -> Tensor:
    """Images as a uint8 tensor (b, c, h, w). Arguments and errors as of `to_unit`."""
    return to_unit(images, channels, ground).clamp(0, 1).mul(255).round().to(torch.uint8)


def to_pil(images: Images) -> list[Image.Image]:
    """Images as PIL images: of mode "L" where they have one channel, "RGB" where they have three.

    Errors as of `to_unit`. Of transparency nothing is left: it is on white.
    """
    x = to_uint8(images, None)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"expected images of 1 or 3 channels, got {x.shape[1]} in shape {tuple(x.shape)} (b, c, h, w)")
    arrays = x.movedim(1, -1).cpu().numpy()  # (b, h, w, c)
    return [Image.fromarray(array[..., 0] if x.shape[1] == 1 else array) for array in arrays]


def sheet(images: Images, columns: int | None = None) -> Tensor:
    """Images in rows of so many, by default as near to a square as can be: float32 (3, h', w') in [0, 1].

    Needs torchvision. Errors as of `to_unit`.
    """
    x = to_unit(images, None)
    columns = columns or math.ceil(math.sqrt(len(x)))
    return require("torchvision.utils").make_grid(x, nrow=columns, padding=2, pad_value=1)


def to_masks(masks: Images) -> Tensor:
    """Masks as float32 (b, 1, h, w) of 0 and 1: True, white and 1 are 1.

    Colours and grey are 1 from one half on. Integers, of any type, are {0, 1}, or up to white: 255, for uint16 65535.
    Three axes of a tensor are (b, h, w), and those of an array too, unless the last has at most four entries. What is
    transparent is 0. Raises ValueError as `to_unit` does, and where something is above 0 but nothing is white, as in
    instance labels.
    """
    if _are_many(masks):
        return _stacked(masks, to_masks, 1)
    if getattr(masks, "ndim", 0) == 3 and (isinstance(masks, Tensor) or masks.shape[-1] > 4):
        masks = masks[:, None] if isinstance(masks, Tensor) else masks[..., None]
    x = _raw(masks)
    if not x.is_floating_point() and x.numel():
        low, high = (bound.item() for bound in x.to(torch.int64).aminmax())
        top = 1 if high <= 1 else _TOP.get(x.dtype, 255)
        if low < 0 or high > top or (top > 1 and high * 2 < top):
            raise ValueError(
                f"expected a mask of 0 and 1, or of black and white, got integers from {low} to {high}; "
                "x > 0 makes one of instance labels"
            )
        x = x.to(torch.float32) / top
    x = x.to(torch.float32)
    _check_unit(x)
    x = _with_channels(x, 1, "black")
    return x.ge(0.5).to(torch.float32)


def fit(images: Images, size: int | Sequence[int], channels: int | None = 3, ground: Colour = "white") -> Tensor:
    """Images of any sizes, each cut to its middle and resized, as a float32 tensor (b, c, h, w) in [0, 1].

    size: (h, w), or one number for a square. As much of each image is kept as has its proportions.
    Resized by bicubic interpolation with antialiasing. The rest as in `to_unit`.
    """
    h, w = (operator.index(side) for side in (size if isinstance(size, Sequence) else (size, size)))
    if h < 1 or w < 1:
        raise ValueError(f"expected a size of at least 1×1, got {h}×{w}")
    if _are_many(images):
        return _stacked(images, lambda one: fit(one, (h, w), channels, ground), channels, (h, w))
    x = to_unit(images, channels, ground)
    scale = min(x.shape[2] / h, x.shape[3] / w)
    kept = [max(1, round(side * scale)) for side in (h, w)]
    top, left = ((there - side) // 2 for there, side in zip(x.shape[2:], kept, strict=True))
    x = x[:, :, top : top + kept[0], left : left + kept[1]]
    if kept == [h, w]:
        return x
    return F.interpolate(x, (h, w), mode="bicubic", antialias=True).clamp(0, 1)


def _are_many(images: object) -> bool:
    alone = Tensor | np.ndarray | Image.Image | str | os.PathLike | Mapping | bytes
    return isinstance(images, Iterable) and not isinstance(images, alone)


def _stacked(
    images: Iterable, convert: Callable[[Images], Tensor], channels: int | None, empty: tuple[int, int] = (64, 64)
) -> Tensor:
    """Many images, each converted to (1, c, h, w) or a batch of them, as one batch."""
    parts = []
    for i, image in enumerate(images):
        try:
            parts.append(convert(image))
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from error
        (c, *size), (d, *other) = parts[0].shape[1:], parts[i].shape[1:]
        if size != other:
            raise ValueError(
                f"expected images of one size, got {size[0]}×{size[1]} (image 0) and {other[0]}×{other[1]} (image {i}),"
                " height first; minildm.images.fit cuts and resizes them"
            )
        if c != d:
            raise ValueError(f"expected images of one kind, got {c} channels (image 0) and {d} (image {i}); ask for 3")
    if not parts:
        return torch.zeros(0, channels or 3, *empty, dtype=torch.float32, device="cpu")
    return torch.cat([part.to(parts[0].device) for part in parts])


def _raw(image: object) -> Tensor:
    """One image or batch as (b, c, h, w), in whatever type and range it has."""
    if isinstance(image, str | os.PathLike):
        image = read(image)
    if isinstance(image, Image.Image):
        image = _array(ImageOps.exif_transpose(image))
    if isinstance(image, Tensor):
        x, axes = image, "(h, w), (c, h, w) or (b, c, h, w)"
        if x.ndim in (2, 3):
            x = x[None, None] if x.ndim == 2 else x[None]
    elif isinstance(image, np.ndarray):
        x, axes = _tensor(image), "(h, w), (h, w, c) or (b, h, w, c)"
        if x.ndim in (2, 3):
            x = x[None, ..., None] if x.ndim == 2 else x[None]
        x = x.movedim(-1, 1) if x.ndim == 4 else x
    else:
        column = '; of a data set hand over the column, data["image"]' if isinstance(image, dict) else ""
        raise ValueError(
            f"expected a path, a PIL image, an array, a tensor or a list of them, got {type(image).__name__}{column}"
        )
    if x.ndim != 4 or x.is_complex() or 0 in x.shape[1:]:
        raise ValueError(f"expected an image {axes}, got shape {tuple(image.shape)} of {image.dtype}")
    return x


def _tensor(array: np.ndarray) -> Tensor:
    """A copy, since an array may be read-only, or in another machine's order of bytes."""
    kind = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    try:
        return torch.from_numpy(np.array(array, kind))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected an array of numbers, got {array.dtype}") from error


def _array(image: Image.Image) -> np.ndarray:
    """A PIL image as (h, w, c) in a type that says its range: bool, uint8, uint16 or float32."""
    if image.mode == "F":
        return np.asarray(image)
    if image.mode[0] == "I":
        array = np.asarray(image)
        if array.size and not (array.min() >= 0 and array.max() <= 65535):
            raise ValueError(f"expected grey of 16 bits, got values from {array.min()} to {array.max()}")
        array = array.astype(np.uint16)
        if (hidden := image.info.get("transparency")) is None:
            return array
        return np.stack([array, np.where(array == hidden, 0, 65535).astype(np.uint16)], -1)
    if image.has_transparency_data:
        return np.asarray(image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA"))
    return np.asarray(image if image.mode in ("1", "L", "RGB") else image.convert("RGB"))


def _check_unit(x: Tensor) -> None:
    if not x.numel():
        return
    low, high = (bound.item() for bound in x.detach().aminmax())
    if not low - high <= 0 or math.isinf(high - low):  # NaN compares false
        raise ValueError("expected pictures in [0, 1], got NaN or infinity")
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(
            f"expected pictures in [0, 1], got values from {low:.3g} to {high:.3g}; (x + 1) / 2 maps [-1, 1], x / 255 "
            "maps bytes, and x.clamp(0, 1) cuts off what overshoots"
        )


def _with_channels(x: Tensor, channels: int | None, ground: Colour) -> Tensor:
    if x.shape[1] in (2, 4) and channels in (None, 1, 3):
        colour = x.new_tensor(ImageColor.getrgb(ground)[:3] if isinstance(ground, str) else ground) / 255
        if x.shape[1] == 2:
            colour = (colour * x.new_tensor(_GREY)).sum()[None]
        alpha = x[:, -1:]
        x = x[:, :-1] * alpha + colour[:, None, None] * (1 - alpha)
    if channels is None or x.shape[1] == channels:
        return x
    if (x.shape[1], channels) == (1, 3):
        return x.repeat(1, 3, 1, 1)
    if (x.shape[1], channels) == (3, 1):
        return (x * x.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
    raise ValueError(
        f"expected {channels} channels, got {x.shape[1]} in shape {tuple(x.shape)} (b, c, h, w); the channels stand "
        "first in a tensor, (c, h, w), and last in an array, (h, w, c)"
    )
