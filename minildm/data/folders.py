"""Pictures of your own: a folder of them as a data set, with labels and captions where the folder has them."""

import os
import warnings
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from PIL import Image, ImageOps
from tqdm.auto import tqdm

from minildm import images as conversions
from minildm.optional import require

from . import _tables
from ._cache import png
from ._files import Files, reason, some

if TYPE_CHECKING:
    import datasets

# The names of folders that part the pictures, as `datasets` knows them.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def images(
    folder: str | os.PathLike,
    size: int = 64,
    *,
    channels: int = 3,
    split: str = "train",
    labels: bool | None = None,
    captions: bool | None = None,
) -> "datasets.Dataset":
    """Image folder: the pictures in a folder, or in a zip archive of one, as a `datasets.Dataset` in memory.

    Columns: `image` (PIL, size x size): the largest square in the middle of each picture, antialiased, upright, what
    is transparent on white; `label` (ClassLabel) where there are labels; `text` where there are captions.

    The conventions are those of the `imagefolder` of `datasets`:
    - labels: the names of the subfolders that the pictures lie in, in alphabetical order; or the column `label` of a
      table. With labels=None they are taken where there are two or more.
    - captions: a text file beside each picture, `7.txt` for `7.png`; or the column `text` of a table. With
      captions=None they are taken where there are any.
    - a table: `metadata.csv`, `.jsonl` or `.parquet`, whose column `file_name` says which picture a row is about.
    - splits: where the folder holds nothing but folders called `train`, `validation` and `test`, each is one split.

    channels: 3, or 1 for grey.  split: "train", "validation" or "test"; a folder without splits is all "train". "all"
    takes everything. The order is that of the names. Files that are no pictures, and hidden ones, are passed over.
    Pictures that cannot be read are left out and named in a warning. Nothing is kept on the disk: each call reads anew.

    Raises FileNotFoundError where there is no folder; ValueError where it has no picture, or where labels=True or
    captions=True asks for what is not there, and for captions or labels of some pictures only.
    """
    datasets = require("datasets")
    _check(size, channels, split, labels, captions)
    files = Files(folder)
    everything = files.pictures()
    parts, inside = _split(files, everything)
    chosen = everything if split == "all" else [name for name in everything if parts[name] == split]
    if not chosen:
        there = ", ".join(sorted(set(parts.values())))
        raise ValueError(f"{files.path} has no pictures for the split {split!r}, only for {there}, or 'all'")
    rows = {} if labels is False and captions is False else _tables.table(files)
    classes = None if labels is False else _classes(files, chosen, everything, inside, rows, asked=bool(labels))
    texts = None if captions is False else _tables.captions(files, chosen, rows)
    if captions and texts is None:
        raise ValueError(
            f"{files.path} has no captions: write a text file beside each picture, {_stem(chosen[0])}.txt for "
            f"{chosen[0]}, or a metadata.csv with the columns file_name and text"
        )
    pictures, reasons = _read(files, chosen, size, channels)
    report(files.path, reasons, len(chosen))
    columns = {"image": [png(picture) for picture in pictures.values()]}
    features = {"image": datasets.Image()}
    if classes is not None:
        names, label_of = classes
        columns["label"] = [names.index(label_of[name]) for name in pictures]
        features["label"] = datasets.ClassLabel(names=names)
    if texts is not None:
        text_of = dict(zip(chosen, texts, strict=True))
        columns["text"] = [text_of[name] for name in pictures]
        features["text"] = datasets.Value("string")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def report(path: os.PathLike, reasons: dict[str, str], total: int, what: str = "files") -> None:
    """Warn that some of the files could not be read, by their names and for which reasons; ValueError if it is all."""
    if not reasons:
        return
    first = next(iter(reasons.values()))
    said = f"{path}: {len(reasons)} of {total} {what} could not be read: {some([*reasons])} (the first: {first})"
    if len(reasons) == total:
        raise ValueError(said)
    warnings.warn(f"{said}; they are left out", stacklevel=3)


def _check(size: int, channels: int, split: str, labels: bool | None, captions: bool | None) -> None:
    for name, value in (("labels", labels), ("captions", captions)):
        if value is not None and not isinstance(value, bool):
            raise ValueError(
                f"{name} says whether to take them, True, False or None; what they are is found in the folder"
            )
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, got {size!r}")
    if channels not in (1, 3) or not isinstance(channels, int):
        raise ValueError(f"channels must be 3 for colour or 1 for grey, got {channels!r}")
    if split not in (*SPLITS, "all"):
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(map(repr, [*SPLITS, 'all']))}")


def _split(files: Files, pictures: Sequence[str]) -> tuple[dict[str, str], int]:
    """The split of each picture, and how many folders it lies in that say nothing but the split: 1 or 0."""
    tops = {name: PurePosixPath(name).parts[0] if "/" in name else "" for name in pictures}
    known = {top: split for split, names in SPLITS.items() for top in set(tops.values()) if top.lower() in names}
    others = sorted(set(tops.values()) - known.keys())
    if not others:
        return {name: known[top] for name, top in tops.items()}, 1
    if len(set(known.values())) > 1:  # one alone may be the name of a class, as of railway trains
        raise ValueError(
            f"{files.path} has the splits {', '.join(sorted(known))}, and pictures outside of them, in "
            f"{some([top or 'the folder itself' for top in others], 3)}: move those into a split"
        )
    return dict.fromkeys(pictures, "train"), 0


def _classes(
    files: Files, chosen: Sequence[str], everything: Sequence[str], inside: int, rows: dict[str, dict], asked: bool
) -> tuple[list[str], dict[str, str]] | None:
    """The classes of all splits, so that a class has one number in each; and that of each picture. None: no labels."""
    told = _tables.labels(files, chosen, rows)
    if told is not None:
        return sorted(set(told.values()), key=_in_order), told
    folders = {name: PurePosixPath(name).parts[inside:-1] for name in everything}
    loose = [name for name in chosen if not folders[name]]
    if not asked and len(loose) == len(chosen):
        return None
    depths = {len(folders[name]): name for name in chosen}
    if loose or len(depths) > 1:
        example = f"{some(loose, 3)} lie outside" if loose else f"{some([*depths.values()], 3)} lie at several depths"
        said = f"{files.path}: not all pictures lie in subfolders whose names could be their labels: {example}"
        if asked:
            raise ValueError(said)
        warnings.warn(f"{said}. So there are no labels", stacklevel=3)
        return None
    found = {name: above[-1] for name, above in folders.items() if len(above) in depths}
    names = sorted(set(found.values()))
    return (names, found) if asked or len(names) > 1 else None


def _in_order(label: str) -> tuple[bool, int, str]:
    """Numbers by their size, then words by the alphabet."""
    return not label.isdecimal(), int(label) if label.isdecimal() else 0, label


def _read(
    files: Files, names: Sequence[str], size: int, channels: int
) -> tuple[dict[str, Image.Image], dict[str, str]]:
    """The pictures that can be read, and why others cannot."""
    pictures, reasons = {}, {}
    for name in tqdm(names, desc="read", unit="picture", delay=3, leave=False):
        try:
            with files.open(name) as file, Image.open(file) as picture:
                pictures[name] = fitted(picture, size, channels)
        except Exception as error:  # a damaged file may end in any error of a decoder
            reasons[name] = reason(name, error)
    return pictures, reasons


def fitted(picture: Image.Image, size: int, channels: int = 3) -> Image.Image:
    """`minildm.images.fit` for photographs: 20 times as fast, and within some ten grey levels of 255 at hard edges.

    picture: as `Image.open` returns it, not loaded yet. It is decoded small where its format can, then shrunk by a
    whole number, so that four pixels are left for each that is asked for along a side.
    """
    enough = 4 * size
    picture.draft(None, (enough, enough))
    picture = ImageOps.exif_transpose(picture)
    factor = min(picture.size) // enough
    if factor > 1 and picture.mode in ("L", "RGB", "RGBA"):
        picture = picture.reduce(factor)
    (fitted,) = conversions.to_pil(conversions.fit(picture, size, channels))
    return fitted


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
