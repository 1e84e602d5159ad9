"""Pictures and captions of any `datasets` repository, streamed: for training on more than fits on the disk.

A stream is read from its start to its end; what lies in the middle is reached only by reading up to there. That is
what resuming a training costs here, and why there is no random access, no share of a task, no split over workers.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minildm import images
from minildm.optional import require

from .folders import fitted

if TYPE_CHECKING:
    import datasets

_NOTHING = "expected a data set with at least one row that has a picture"
# What the columns of pictures and captions are called, the likeliest first.
IMAGE = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
TEXT = ("text", "caption", "txt", "prompt")


def streamed(repository: str | Path, split: str = "train", **options: object) -> "Stream":
    """Streaming data set: a repository on the Hub, or a folder of parquet files, pictures or zips, or a single zip.

    split: which of its splits.  options: those of `Stream`.
    Raises ValueError for columns that are not there, and what `datasets.load_dataset` raises without a connection.
    """
    load = require("datasets").load_dataset
    if Path(repository).suffix.lower() == ".zip" and Path(repository).is_file():
        return Stream(load("imagefolder", data_files=str(repository), split=split, streaming=True), **options)
    return Stream(load(str(repository), split=split, streaming=True), **options)


class Stream:
    """Batches of a streaming data set, as `training.train` takes them: `stream(generator, n)` -> the next n samples.

    dataset: a `datasets.IterableDataset` or `datasets.Dataset`.
    image, caption: the names of its columns; None looks for one of pictures, and one called "text" or "caption".
        Pictures are files of any kind as bytes or paths, as in a column of `datasets.Image`, or PIL pictures.
    tokenizer: captions -> (ids, mask); None: pictures alone.
    size: the largest square in the middle of each picture, upright and on white, scaled to this side.
    buffer, seed: a sample is drawn from the next so many, anew in each round through the data; 1: no shuffling.

    `image` is (n, 3, size, size) in [-1, 1], `ids` (n, length) int64. The order depends on seed and data alone, not on
    the generator. `train` seeks the place of each step first, so that a training that goes on reads, without decoding,
    all that comes before. Each of several processes reads the whole stream, and takes its slice of a batch.

    Rows without a picture or a caption are passed over; `skipped` counts them. A picture that cannot be read is
    replaced by the next of the same batch that can; `unreadable` counts them. The first of either is a warning.
    Raises ValueError for columns that are not there, for data without any picture, and for captions that are no text.
    """

    def __init__(
        self,
        dataset: "datasets.IterableDataset | datasets.Dataset",
        tokenizer: Callable[[list[str]], tuple[Tensor, Tensor]] | None = None,
        *,
        size: int = 64,
        image: str | None = None,
        caption: str | None = None,
        buffer: int = 1000,
        seed: int = 0,
    ):
        datasets = require("datasets")
        if isinstance(dataset, dict):
            raise ValueError(f"expected one split, got {', '.join(dataset)}: choose one, as by dataset['train']")
        if isinstance(dataset, datasets.Dataset):
            if not len(dataset):
                raise ValueError(_NOTHING)
            dataset = dataset.to_iterable_dataset()
        there = dataset.column_names or list(next(iter(dataset), {}))
        pictures = [name for name, kind in (dataset.features or {}).items() if isinstance(kind, datasets.Image)]
        self.image = image or _column(there, pictures if len(pictures) == 1 else [], IMAGE)
        self.caption = None if tokenizer is None else caption or _column(there, [], TEXT)
        columns = [self.image] if self.caption is None else [self.image, self.caption]
        if missing := [name for name in columns if name not in there]:
            raise ValueError(f"expected the columns {columns}, but there is no {missing[0]!r}, only {there}")
        self.dataset = dataset.select_columns(columns)
        if isinstance((dataset.features or {}).get(self.image), datasets.Image):
            self.dataset = self.dataset.cast_column(self.image, datasets.Image(decode=False))
        if buffer > 1:
            self.dataset = self.dataset.shuffle(seed, buffer_size=buffer)
        self.tokenizer, self.size = tokenizer, size
        self.skipped = self.unreadable = 0
        self.position, self._rows = 0, None  # how many samples were read, and what comes next

    def seek(self, position: int) -> None:
        """Go on at this sample, counted from the start of the first round."""
        if self._rows is None or position < self.position:
            self.position, self.skipped, self._rows = 0, 0, self._rounds()
        while self.position < position:
            self._next()

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        if torch.utils.data.get_worker_info() is not None:
            raise ValueError("expected workers=0: a stream is one, and workers would each read their own")
        self.seek(self.position)
        rows, pictures = self._readable([self._next() for _ in range(n)])
        tensors = {"image": images.to_model(pictures)}
        if self.tokenizer is None:
            return tensors
        return tensors | {"ids": self.tokenizer([self._said(row[self.caption]) for row in rows])[0]}

    def __getstate__(self):
        return self.__dict__ | {"position": 0, "_rows": None}  # a place in a stream cannot be copied

    def _next(self):
        row = next(self._rows)
        self.position += 1
        return row

    def _rounds(self) -> Iterator[dict]:
        """All rows, again and again."""
        number = 0
        while True:
            self.dataset.set_epoch(number)
            empty = True
            for row in self.dataset:
                if self._is_whole(row):
                    empty = False
                    yield row
                else:
                    self.skipped += 1
                    self._complain(
                        self.skipped, "a row has no picture or no caption: such rows are skipped and counted"
                    )
            if empty:
                raise ValueError(_NOTHING)
            number += 1

    def _is_whole(self, row: dict) -> bool:
        value = row[self.image]
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        there = value is not None and not (isinstance(value, bytes | str) and not value)
        return there and (self.caption is None or row[self.caption] is not None)

    def _said(self, caption) -> str:
        if not isinstance(caption, str):
            raise ValueError(f"expected a text in the column {self.caption!r}, got {type(caption).__name__}")
        return caption

    def _readable(self, rows: list[dict]) -> tuple[list[dict], list[Image.Image]]:
        """Rows with their pictures; in the place of one that cannot be read, the next that can."""
        pictures, error = [], None
        for row in rows:
            try:
                pictures.append(fitted(_opened(row[self.image]), self.size))
            except Exception as why:  # a damaged file may end in any error of a decoder
                pictures.append(None)
                error = why
                self.unreadable += 1
                self._complain(self.unreadable, f"a picture cannot be read ({why}): others take such pictures' places")
        good = [i for i, picture in enumerate(pictures) if picture is not None]
        if error and not good:
            raise ValueError(f"none of {len(rows)} pictures can be read, the last one because of: {error}") from error
        chosen = [next((j for j in good if j >= i), good[0]) for i in range(len(rows))]
        return [rows[i] for i in chosen], [pictures[i] for i in chosen]

    @staticmethod
    def _complain(count: int, what: str) -> None:
        if count == 1:
            warnings.warn(what, stacklevel=4)


def _column(there: list[str], sure: list[str], names: Sequence[str]) -> str:
    """The first of some names that is there; if none is, the likeliest, so that an error can tell."""
    return next(iter(sure or [name for name in names if name in there]), names[0])


def _opened(value) -> Image.Image:
    """A picture that is not loaded yet, if possible, from what a row of any data set holds."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, bytes):
        return Image.open(io.BytesIO(value))
    if isinstance(value, dict) and value.get("bytes") is not None:
        return Image.open(io.BytesIO(value["bytes"]))
    if isinstance(value, dict):
        return require("datasets").Image().decode_example(value)  # which knows the insides of archives, and the Hub
    if isinstance(value, str):
        return require("datasets").Image().decode_example({"path": value, "bytes": None})
    # In a column of lists numbers have lost their type: they are bytes, or this is an error.
    (picture,) = images.to_pil(np.asarray(value, np.uint8) if isinstance(value, list) else value)
    return picture
