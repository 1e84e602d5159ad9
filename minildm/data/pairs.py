"""Pictures and masks of your own: twin folders as a data set for segmentation."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minildm import images as conversions
from minildm.optional import require

from . import masks as labelling
from ._arrays import codes, intensities
from ._files import Files, ending, reason, some
from .folders import report

if TYPE_CHECKING:
    import datasets

INSTANCES = ("labels", "connected")
# What the name of a mask may have after the name of its picture.
SUFFIXES = ("mask", "masks", "label", "labels", "seg", "segmentation", "instances", "gt")


def pairs(
    images: str | os.PathLike, masks: str | os.PathLike, *, channels: int | None = None, instances: str | None = None
) -> "datasets.Dataset":
    """Segmentation data set: pictures and their masks, from two folders, as a `datasets.Dataset` of numpy arrays.

    images, masks: folders with one mask for each picture: `images/a.png` and `masks/a.tif`, in subfolders too. After
    the picture's name a mask's may have `_mask` or `_label`. Any kind that PIL reads, and `.npy`, `.tif` of any depth.
    Columns: `image` (h, w), or (h, w, 3) in colour, as the file has it, of 8 or 16 bits or floating point; `mask`
    (h, w) int32, 0 = background, 1 to n = the objects. Pictures may differ in size.

    channels: 1 makes all pictures grey, the mean of the channels; 3 all of them colour; None leaves them, where they
        all agree.
    instances: how a mask says what one object is.
        "labels": each value, each index of a palette, or each colour is one object; 0 or black is the background.
        "connected": a mask is black and white, and each region of white that hangs together is one object.
        None: "connected" where the masks of the whole folder have one value besides 0, and a warning says so, since
        objects that touch become one; else "labels".

    Pairs that cannot be read are left out and named in a warning. Nothing is kept on the disk.
    Raises FileNotFoundError where there is no folder; ValueError for pictures or masks without a twin, for twins of
    two sizes, for names that fit twice, and for masks that are neither of both. Use: `segmentation`, `recipes.nuclei`.
    """
    datasets = require("datasets")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 for grey, 3 for colour or None, got {channels!r}")
    if instances not in (None, *INSTANCES):
        raise ValueError(f"unknown instances {instances!r}; expected 'labels', 'connected' or None")
    pictures, found = _folder(images), _folder(masks)
    names = _twins(pictures, found)
    arrays, drawn, reasons = {}, {}, {}
    for name, twin in names.items():
        at = pictures.path / name
        try:
            array = intensities(at)
            at = found.path / twin
            mask = codes(at)
            labelling.labels(mask)
        except Exception as error:  # a damaged file may end in any error of a decoder
            reasons[f"{at.parent.name}/{at.name}"] = reason(at.name, error)
            continue
        arrays[name], drawn[name] = array, mask
    report(pictures.path, reasons, len(names), "pairs")
    _check_sizes(arrays, drawn, names)
    arrays = _of_one_kind(arrays, channels, pictures.path)
    drawn = _instances(drawn, instances, found.path, lossy=[names[name] for name in names if _lossy(names[name])])
    columns = {"image": [_pack(arrays[name]) for name in arrays], "mask": [_pack(drawn[name]) for name in arrays]}
    binary = datasets.Value("binary")
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(image=binary, mask=binary))
    return dataset.with_transform(_unpacked)


def _folder(path: str | os.PathLike) -> Files:
    files = Files(path)
    if not files.path.is_dir():
        raise ValueError(f"expected a folder, and {files.path} is a file: unpack it first")
    return files


def _twins(pictures: Files, masks: Files) -> dict[str, str]:
    """The mask of each picture, by names."""
    of_pictures, of_masks = (_by_stem(files) for files in (pictures, masks))
    matched = {_without_suffix(stem, of_pictures): name for stem, name in of_masks.items()}
    lonely = [name for stem, name in of_pictures.items() if stem not in matched]
    extra = [name for stem, name in matched.items() if stem not in of_pictures]
    if lonely or extra:
        said = [f"no mask in {masks.path} for {some(lonely)}"] if lonely else []
        said += [f"no picture in {pictures.path} for {some(extra)}"] if extra else []
        raise ValueError(f"expected pictures and masks of the same names, and there is {', and '.join(said)}")
    return {name: matched[stem] for stem, name in of_pictures.items()}


def _by_stem(files: Files) -> dict[str, str]:
    found = {}
    for name in files.pictures(also=[".npy"]):
        stem = name.rpartition(".")[0]
        if stem in found:
            raise ValueError(f"{files.path} has {found[stem]} and {name}, which fit the same twin: keep one of both")
        found[stem] = name
    return found


def _without_suffix(stem: str, known: dict[str, str]) -> str:
    if stem in known:
        return stem
    for suffix in SUFFIXES:
        for sign in "_-":
            if stem.lower().endswith(sign + suffix):
                return stem[: -len(sign + suffix)]
    return stem


def _lossy(name: str) -> bool:
    return ending(name) in (".jpg", ".jpeg", ".jpe", ".jfif")


def _check_sizes(arrays: dict[str, np.ndarray], drawn: dict[str, np.ndarray], names: dict[str, str]) -> None:
    wrong = [
        f"{name} {_size(arrays[name])} and {names[name]} {_size(drawn[name])}"
        for name in arrays
        if arrays[name].shape[:2] != drawn[name].shape
    ]
    if wrong:
        raise ValueError(f"expected a mask of the size of its picture, got {some(wrong, 5)} (height × width)")


def _size(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape[:2]))


def _of_one_kind(arrays: dict[str, np.ndarray], channels: int | None, path: Path) -> dict[str, np.ndarray]:
    colour = [name for name, array in arrays.items() if array.ndim == 3]
    if channels is None and 0 < len(colour) < len(arrays):
        grey = [name for name, array in arrays.items() if array.ndim == 2]
        raise ValueError(
            f"{path} has grey pictures ({some(grey, 3)}) and colour ones ({some(colour, 3)}): say channels=1 or "
            "channels=3, and all are made alike"
        )
    return {name: _converted(array, channels) for name, array in arrays.items()}


def _converted(array: np.ndarray, channels: int | None) -> np.ndarray:
    if channels == 3 and array.ndim == 2:
        return np.stack([array] * 3, axis=-1)
    if channels != 1 or array.ndim == 2:
        return array
    if (array == array[..., :1]).all():
        return array[..., 0]
    return array.mean(axis=-1)


def _instances(
    drawn: dict[str, np.ndarray], how: str | None, path: Path, lossy: Sequence[str]
) -> dict[str, np.ndarray]:
    """The masks as labels 1 to n."""
    values = [np.unique(mask) for mask in drawn.values()]
    objects = [v[v != 0] for v in values]
    two = max(len(v) for v in objects) <= 1 and len(set(np.concatenate(objects).tolist())) <= 1
    if how is None and not two and lossy:
        raise ValueError(
            f"{path}: {some(lossy, 3)} are JPEG files, which change numbers: save masks as .png, or, if they are black "
            "and white, say instances='connected'"
        )
    if how is None and not any(0 in v for v in values):
        raise ValueError(
            f"expected 0 or black as the background of the masks, and none in {path} has any; say instances='labels' "
            "if objects cover all pictures"
        )
    if how == "labels" or (how is None and not two):
        found = {name: labelling.labels(mask) for name, mask in drawn.items()}
        if how is None:
            _check_instances(found, path)
        return found
    if how is None:
        warnings.warn(
            f"{path}: the masks are black and white, so each region that hangs together counts as one object, and "
            "those that touch are one; instances='connected' says that this is meant, 'labels' that each mask is one "
            "object",
            stacklevel=3,
        )
    return {name: labelling.regions(mask != 0 if two else _white(mask, name)) for name, mask in drawn.items()}


def _check_instances(found: dict[str, np.ndarray], path: Path) -> None:
    """An object is one region, or a few; what lies in many is a class, or the grey along a blurred edge."""
    objects = sum(int(mask.max()) for mask in found.values())
    parts = sum(int(labelling.regions(mask).max()) for mask in found.values())
    if parts > 3 * objects:
        raise ValueError(
            f"{path}: the masks' {objects} values lie in {parts} separate regions, so they hardly stand for one object "
            "each. If black and white are blurred, say instances='connected'; if each value is an object all the same, "
            "instances='labels'; if values are classes, number the objects first"
        )


def _white(mask: np.ndarray, name: str) -> np.ndarray:
    try:
        return conversions.to_masks(mask.astype(np.uint8) if mask.max() <= 255 else mask)[0, 0].numpy() > 0
    except ValueError as error:
        raise ValueError(f"the mask of {name}: {error}; instances='connected' is for black and white") from error


def _pack(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _unpacked(batch: dict) -> dict:
    return {name: [np.load(io.BytesIO(row), allow_pickle=False) for row in rows] for name, rows in batch.items()}
