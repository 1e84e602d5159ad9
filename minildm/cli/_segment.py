"""`minildm segment`: the objects in a picture, as a mask."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from PIL import Image

from minildm import segmentation, storage, weights
from minildm.cli._painting import check_file
from minildm.data._arrays import intensities
from minildm.optional import require
from minildm.recipes.masks import PALETTE

if TYPE_CHECKING:
    import typer

FORMATS = (".png", ".tif", ".tiff", ".npy")


def add(app: "typer.Typer") -> None:
    """Add the command."""
    typer = require("typer")

    @app.command("segment")
    def command(
        image: Annotated[Path, typer.Argument(help="A picture of any depth, grey or in colour.")],
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="The mask: .png, .tif or .npy; else IMAGE-mask.png.")
        ] = None,
        model: Annotated[str, typer.Option(help="A name that ships, or a file from `minildm train masks`.")] = "nuclei",
    ):
        """Find the objects in a picture: a mask in which 0 is the background, and 1, 2, 3 and so on are the objects."""
        segment(image, out, model)


def segment(image: Path, out: Path | None = None, model: str = "nuclei") -> np.ndarray:
    """Segment a picture and write the mask; returns it, (h, w) int32.

    A .png has a palette, so that objects are seen and their numbers are its indices; of more than 255 objects it is
    grey of 16 bits, as a .tif always is.  Raises FileNotFoundError, and ValueError for another ending, a picture that
    does not fit the model, and more objects than a file can number.
    """
    out = image.with_name(f"{image.stem}-mask.png") if out is None else out
    check_file(out, FORMATS)
    network = weights.load(model)
    picture = intensities(image)
    if picture.ndim == 3 and getattr(network, "in_channels", None) == 1:
        picture = picture.mean(-1)  # as `data.pairs` makes pictures grey
    labels = segmentation.segment(network, picture)
    with storage.file(out) as part:
        _write(part, labels, out.suffix.lower())
    print(f"written: {out} ({labels.max()} objects)")
    return labels


def _write(file: Path, labels: np.ndarray, ending: str) -> None:
    most = int(labels.max())
    with open(file, "wb") as stream:
        if ending == ".npy":
            np.save(stream, labels, allow_pickle=False)
            return
        if most > 65535:
            raise ValueError(f"{most} objects are too many for the numbers in a picture of 16 bits: write a .npy file")
        if ending == ".png" and most < 256:
            mask = Image.fromarray(labels.astype(np.uint8))
            mask.putpalette(PALETTE.tobytes())
        else:
            mask = Image.fromarray(labels.astype(np.uint16))
        mask.save(stream, "PNG" if ending == ".png" else "TIFF")
