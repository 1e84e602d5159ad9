"""Folders as users have them, written from OpenMoji's drawings: two classes of pictures, and files of odd kinds."""

from pathlib import Path

import numpy as np
from PIL import Image

from minildm.optional import require

from .openmoji import openmoji
from .sprites import render

SIDE = 96  # of a drawing, in pixels
LINE = 4  # as wide as an outline, in pixels
_SMILEYS = (range(0x1F600, 0x1F645), range(0x1F910, 0x1F930), range(0x1F970, 0x1F97B))


def write_pictures(folder: str | Path) -> Path:
    """An image folder with two classes, faces (92) and flags (259), as PNG files; returns its path.

    Faces are transparent around the drawing. Flags are the cloth alone, without its outline: wider than high.
    The pictures are CC BY-SA 4.0: credit OpenMoji. Raises OSError where the folder cannot be written.
    """
    require("datasets")
    for row in openmoji(32).select_columns(["name", "codepoint", "emoji"]):
        kind = _kind(row["name"], ord(row["emoji"][0]))
        if kind is None:
            continue
        drawing = render(row["codepoint"], SIDE)
        if kind == "flags":
            left, top, right, bottom = drawing.getbbox()
            drawing = drawing.crop((left + LINE, top + LINE, right - LINE, bottom - LINE))
        place = Path(folder) / kind
        place.mkdir(parents=True, exist_ok=True)
        drawing.save(place / f"{row['codepoint']}.png")
    return Path(folder)


def write_odd_files(folder: str | Path) -> Path:
    """Five files: transparent, turned by EXIF, wide, grey of 16 bits, and damaged; returns the folder's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owl, flag = render("1F989", SIDE), render("1F1F0-1F1EA", SIDE)
    white = Image.new("RGB", owl.size, "white")
    white.paste(owl, mask=owl.getchannel("A"))
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation: show me turned by 90 degrees
    owl.save(folder / "a_transparent.png")
    white.rotate(90).save(folder / "b_turned.jpg", exif=turned)
    flag.crop(flag.getbbox()).save(folder / "c_wide.png")
    Image.fromarray(np.asarray(white.convert("L")).astype(np.uint16) * 257).save(folder / "d_sixteen_bits.png")
    (folder / "e_damaged.png").write_bytes((folder / "a_transparent.png").read_bytes()[:300])
    return folder


def _kind(name: str, first: int) -> str | None:
    """The class of a drawing, from its name and first code point; None: it is not among them."""
    if 0x1F1E6 <= first <= 0x1F1FF:
        return "flags"
    return "faces" if "face" in name.split() and any(first in part for part in _SMILEYS) else None
