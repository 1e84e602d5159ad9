"""One real fluorescence micrograph with its nuclei outlined by hand: the data of lesson 01."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from minildm.optional import require

from ._cache import package_folder

if TYPE_CHECKING:
    import datasets

_DTYPES = {"image": np.uint16, "mask": np.int32}


def nuclei() -> "datasets.Dataset":
    """The micrograph and its instance mask, as a `datasets.Dataset` of one row that gives numpy arrays.

    Columns: `image` (512, 512) uint16, raw intensities; `mask` (512, 512) int32, 0 = background, every other
    value is one nucleus (125 of them; the labels have gaps). Raises ImportError if `datasets` or `stardist` is
    missing. Source: stage1_train of the 2018 Data Science Bowl (Caicedo et al., Nature Methods 16, 2019), as
    `stardist.data.test_image_nuclei_2d` ships it; see `data/nuclei.md`.
    """
    datasets = require("datasets")
    # The two files are read directly: importing stardist for them would cost seconds and print warnings.
    folder = package_folder("stardist") / "data" / "images"
    row = {}
    for column, file in (("image", "img2d.tif"), ("mask", "mask2d.tif")):
        with Image.open(folder / file) as picture:
            row[column] = [np.array(picture, _DTYPES[column])]
    features = datasets.Features(
        {column: datasets.Array2D(rows[0].shape, str(rows[0].dtype)) for column, rows in row.items()}
    )
    return datasets.Dataset.from_dict(row, features=features).with_transform(_as_stored)


def _as_stored(batch: dict) -> dict:
    # The format "numpy" of `datasets` would turn every integer into int64.
    return {name: [np.asarray(rows, _DTYPES[name]) for rows in columns] for name, columns in batch.items()}


Pair = tuple[np.ndarray, np.ndarray]


def nuclei_strips(image: np.ndarray, mask: np.ndarray, folds: int = 4) -> Iterator[tuple[list[Pair], Pair]]:
    """Yield `(train, test)` for cross-validation over `folds` vertical strips of equal width, left to right.

    image, mask: (h, w). `test` is the strip's `(image, mask)`; `train` lists the `(image, mask)` pieces that remain:
    one beside an outer strip, two around an inner one. They are separate pieces so that no crop, deformation or
    padding can reach across the gap: a nucleus on the edge of a strip is cut there, and no pixel of a test strip
    is ever seen in training. All are views of the arguments. Raises ValueError if the width cannot be split so.
    """
    if image.ndim != 2 or image.shape != mask.shape:
        raise ValueError(f"expected image and mask of one shape (h, w), got {image.shape} and {mask.shape}")
    width = image.shape[1]
    if folds < 2 or width % folds:
        raise ValueError(f"folds must be at least 2 and divide the width {width}, got {folds}")
    step = width // folds
    for left in range(0, width, step):
        right = left + step
        train = [
            (image[:, columns], mask[:, columns])
            for columns in (slice(0, left), slice(right, width))
            if columns.start < columns.stop
        ]
        yield train, (image[:, left:right], mask[:, left:right])
