"""Pictures and captions of any `datasets` repository, streamed: for training on more than fits on the disk.

A stream is read from its start to its end; what lies in the middle is reached only by reading up to there. That is
what resuming a training costs here, and why there is no random access, no share of a task, no split over workers.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minildm.optional import require


def streamed(repository: str | Path, split: str = "train", **options) -> "Stream":
    """The stream of a repository on the Hub, or of a folder of parquet files; options are those of `Stream`.

    Raises ValueError for columns that are not there, and what `datasets.load_dataset` raises without a connection.
    """
    return Stream(require("datasets").load_dataset(str(repository), split=split, streaming=True), **options)


class Stream:
    """`stream(generator, n)` -> the next n samples, as `training.train` takes them: image, and ids with a tokenizer.

    dataset: a `datasets.IterableDataset`.  image, caption: the names of its columns.
    tokenizer: captions -> (ids, mask); None: pictures alone.
    size: the largest square in the middle of each picture, scaled to this side.
    buffer, seed: a sample is drawn from the next so many, anew in each round through the data; 1: no shuffling.

    `image` is (n, 3, size, size) in [-1, 1], `ids` (n, length) int64. The order depends on seed and data alone, not on
    the generator. `train` seeks the place of each step first, so that a training that goes on reads, without decoding,
    all that comes before. Each of several processes reads the whole stream, and takes its slice of a batch.
    """

    def __init__(
        self,
        dataset,
        tokenizer: Callable[[list[str]], tuple[Tensor, Tensor]] | None = None,
        *,
        size: int = 64,
        image: str = "image",
        caption: str = "text",
        buffer: int = 1000,
        seed: int = 0,
    ):
        columns = [image] if tokenizer is None else [image, caption]
        there = dataset.column_names or list(next(iter(dataset), {}))
        if missing := [name for name in columns if name not in there]:
            raise ValueError(f"expected the columns {columns}, but there is no {missing[0]!r}, only {there}")
        encoded = require("datasets").Image(decode=False)
        self.dataset = dataset.select_columns(columns).cast_column(image, encoded)
        if buffer > 1:
            self.dataset = self.dataset.shuffle(seed, buffer_size=buffer)
        self.tokenizer, self.size, self.image, self.caption = tokenizer, size, image, caption
        self.position, self._rows = 0, None  # how many samples were read, and what comes next

    def seek(self, position: int) -> None:
        """Go on at this sample, counted from the start of the first round."""
        if self._rows is None or position < self.position:
            self.position, self._rows = 0, self._rounds()
        while self.position < position:
            self._next()

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        if torch.utils.data.get_worker_info() is not None:
            raise ValueError("expected workers=0: a stream is one, and workers would each read their own")
        self.seek(self.position)
        rows = [self._next() for _ in range(n)]
        pictures = np.stack([self._square(row[self.image]) for row in rows])
        tensors = {"image": torch.from_numpy(pictures).movedim(-1, 1) / 127.5 - 1}
        return (
            tensors if self.tokenizer is None else tensors | {"ids": self.tokenizer([r[self.caption] for r in rows])[0]}
        )

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
                empty = False
                yield row
            if empty:
                raise ValueError("expected a data set with at least one row")
            number += 1

    def _square(self, encoded: dict) -> np.ndarray:
        source = encoded["path"] if encoded["bytes"] is None else io.BytesIO(encoded["bytes"])
        with Image.open(source) as picture:
            side = min(picture.size)
            left, top = ((length - side) // 2 for length in picture.size)
            square = picture.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((self.size, self.size), Image.Resampling.LANCZOS))
