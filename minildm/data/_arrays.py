"""Image files as the numbers in them: intensities of any depth for a segmenter, and what the file of a mask says."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minildm import images
from minildm.optional import require

from ._files import ending


def intensities(path: Path) -> np.ndarray:
    """A picture's own numbers, upright: (h, w), or (h, w, 3) in colour, in the type that its file has.

    Where something is transparent, it is laid on white, and the numbers are floats in [0, 1].
    Raises what a decoder raises, and ValueError for a stack of pictures.
    """
    array = _numbers(path, palette=False)
    if array.ndim == 2 or array.shape[2] == 3:
        return array
    colours, alpha = array[..., :-1], array[..., -1]
    if array.dtype.kind == "u" and (alpha == np.iinfo(array.dtype).max).all():
        return colours if array.shape[2] == 4 else colours[..., 0]
    on_white = images.to_unit(array, None)[0].movedim(0, -1).numpy()
    return on_white if array.shape[2] == 4 else on_white[..., 0]


def codes(path: Path) -> np.ndarray:
    """A mask's own numbers (h, w): grey values, indices of a palette, or colours as red·2¹⁶ + green·2⁸ + blue.

    What is transparent is 0, and so is black. Raises what a decoder raises, and ValueError for a stack of pictures.
    """
    array = _numbers(path, palette=True)
    if array.ndim == 2:
        return array
    colours = array if array.shape[2] == 3 else array[..., :-1]
    if (colours == colours[..., :1]).all():
        found = colours[..., 0]
    elif colours.dtype.kind == "u":
        bits = 8 * colours.dtype.itemsize
        red, green, blue = np.moveaxis(colours.astype(np.uint64), -1, 0)
        found = (red << 2 * bits) + (green << bits) + blue
    else:
        raise ValueError(f"expected a mask of whole numbers or of colours, got {colours.dtype}")
    return found if array.shape[2] in (1, 3) else np.where(array[..., -1] > 0, found, 0)


def _numbers(path: Path, palette: bool) -> np.ndarray:
    """(h, w), (h, w, 2), (h, w, 3) or (h, w, 4); 2 and 4 with alpha."""
    if ending(path.name) == ".npy":
        array = np.load(path, allow_pickle=False)
    elif ending(path.name) in (".tif", ".tiff"):
        array = _tiff(path, palette)
    else:
        array = _picture(path, palette)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > 4) or not array.size:
        raise ValueError(f"expected one picture (h, w) or (h, w, 3), got shape {array.shape}: a stack of several?")
    if array.dtype.kind not in "buif":
        raise ValueError(f"expected numbers, got dtype {array.dtype}")
    return array


def _tiff(path: Path, palette: bool) -> np.ndarray:
    """By tifffile, which knows all types of numbers; by PIL what has a palette, or a compression the other lacks."""
    try:
        with Image.open(path) as picture:
            if picture.mode in ("P", "PA"):
                return _array(picture, palette)
    except Exception:  # PIL knows fewer kinds
        return require("skimage.io").imread(str(path))
    try:
        return require("skimage.io").imread(str(path))
    except (ValueError, ImportError):
        return _picture(path, palette)


def _picture(path: Path, palette: bool) -> np.ndarray:
    with Image.open(path) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise ValueError(f"expected one picture, got a stack of {picture.n_frames}: save them one by one")
        if picture.format == "PNG" and picture.mode != "I;16" and "16B" in str(picture.tile):
            raise ValueError("of colours of 16 bits in a PNG, PIL would drop half of the bits: save it as .tif")
        return _array(picture, palette)


def _array(picture: Image.Image, palette: bool) -> np.ndarray:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("P", "PA") and palette:
        return np.asarray(picture.getchannel(0) if picture.mode == "PA" else picture)
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode[0] != "I" and picture.mode not in ("1", "L", "LA", "F", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    return np.asarray(picture)
