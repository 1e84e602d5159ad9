"""Some 3,940 hand-drawn colour pictures with their names: the OpenMoji project's emoji, rendered at any size."""

import re
from typing import TYPE_CHECKING

from PIL import Image

from minildm.optional import require

from ._cache import cached, png, write_rows
from .prompts import SPLITS, expect, in_share
from .sprites import render, svg, version

if TYPE_CHECKING:
    import datasets

CONTENT = 1  # raised whenever the same parameters come to mean other pixels: part of the cache key
SIZES = (16, 512)
HELD_OUT_SHARE = 0.1


def openmoji(size: int = 64, language: str = "en", split: str = "all") -> "datasets.Dataset":
    """OpenMoji's pictures on white, in the order of their code points, as a `datasets.Dataset`.

    Columns: `image` (PIL, size x size, RGB); `name` in the language, "red apple"; `codepoint`, OpenMoji's file name,
    "1F34E"; `emoji`, the character itself. language: one that the package `emoji` knows, such as "en", "zh" or "de".
    split: "train" (nine tenths), "heldout" (the rest) or "all". A hash of the English name decides; skin tones and
    genders of one drawing, all national flags, and all clock faces stay together. Rendered once a size, then read
    from the cache.

    Raises ValueError, ImportError if a package is missing, OSError if the cache folder cannot be written. The
    pictures are CC BY-SA 4.0: credit OpenMoji wherever you show them. See `data/openmoji.md`.
    """
    datasets, names = require("datasets"), require("emoji")
    expect("split", split, SPLITS)
    expect("language", language, names.LANGUAGES)
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size must lie between {SIZES[0]} and {SIZES[1]} pixels, got {size}")
    names.config.load_language(language)

    def build(folder):
        _write(folder / "openmoji.arrow", size, list(_drawings(names)), datasets)

    key = {"size": int(size), "content": CONTENT, "sprites": version(), "emoji": names.__version__}
    pictures = datasets.Dataset.from_file(str(cached("openmoji", key, build) / "openmoji.arrow"))
    # One cached file serves all languages: the names, which alone differ, are added here.
    called = [_name(names.EMOJI_DATA[character], language) for character in pictures["emoji"]]
    pictures = pictures.add_column("name", called).select_columns(["image", "name", "codepoint", "emoji"])
    if split == "all":
        return pictures
    characters = enumerate(pictures["emoji"])
    return pictures.select(
        [i for i, it in characters if _held_out(_name(names.EMOJI_DATA[it], "en"), it) == (split == "heldout")]
    )


def _drawings(names):
    """(character, codepoint) of each emoji that both packages have."""
    for character in sorted(names.EMOJI_DATA):
        if names.EMOJI_DATA[character]["status"] == names.STATUS["fully_qualified"]:
            code = "-".join(f"{ord(letter):04X}" for letter in character)
            for file in (code, code.replace("-FE0F", "")):  # some file names lack the variation selector
                if svg(file) is not None:
                    yield character, file
                    break


def _name(entry: dict, language: str) -> str:
    return entry.get(language, entry["en"]).strip(":").replace("_", " ")


# What tells twins apart: a held-out picture would be none if its twin of another skin tone were trained on.
_TWINS = re.compile(r"\b((medium-)?(light|dark|medium) skin tone|(wo)?m[ae]n|person|people|boys?|girls?)\b")


def _held_out(english: str, character: str) -> bool:
    if "\U0001f1e6" <= character[0] <= "\U0001f1ff":
        family = "flag"  # islands fly their country's flag: several are the same picture
    elif "\U0001f550" <= character <= "\U0001f567":
        family = "clock"
    else:
        family = " ".join(_TWINS.sub(" ", english).split())
    return in_share(family, HELD_OUT_SHARE)


def _write(path, size: int, drawings: list[tuple[str, str]], datasets) -> None:
    text = datasets.Value("string")
    features = datasets.Features(image=datasets.Image(), codepoint=text, emoji=text)
    rows = [
        {"image": png(_on_white(codepoint, size)), "codepoint": codepoint, "emoji": character}
        for character, codepoint in drawings
    ]
    write_rows(path, features, [rows])


def _on_white(codepoint: str, size: int) -> Image.Image:
    drawing = render(codepoint, size)
    picture = Image.new("RGB", drawing.size, "white")
    picture.paste(drawing, mask=drawing.getchannel("A"))
    return picture
