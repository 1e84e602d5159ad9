"""What README and YOUR_PICTURES show is run as it stands there, but for the number of steps and the width."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minildm import cli

README, BY_HAND = (
    (Path(__file__).parents[1] / name).read_text(encoding="utf-8") for name in ("README.md", "YOUR_PICTURES.md")
)
SECTION = re.search(r"^## Your own pictures\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", BY_HAND, re.MULTILINE | re.DOTALL)
LABELLED, PLAIN, SEGMENTER = BLOCKS
COMMANDS = re.findall(r"^(minildm .*?)(?: +#.*)?$", SECTION, re.MULTILINE)


def run(*blocks: str, steps: int = 2) -> dict:
    """Run blocks one after the other, as in one notebook; returns the names that they leave."""
    names = {}
    for block in blocks:
        short, found = re.subn(r"\bsteps=\d+", f"steps={steps}", block)
        assert found == 1, "each block trains once"
        exec(compile(short, "README.md", "exec"), names)
    return names


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def discs(number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A picture (h, w, 3) of a few discs on a ground, and their mask (h, w)."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture, mask = np.full((*size, 3), rng.integers(0, 80, 3), np.uint8), np.zeros(size, np.uint8)
    for label in range(1, 5):
        row, column = rng.integers(6, np.array(size) - 6)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < rng.integers(4, 7) ** 2
        picture[inside], mask[inside] = rng.integers(150, 256, 3), label
    return picture, mask


@pytest.fixture
def pictures(here):
    """300 PNGs in two subfolders."""
    for kind in ("cats", "dogs"):
        (here / "pictures" / kind).mkdir(parents=True)
        for number in range(150):
            picture, _ = discs(number, (36, 40))
            Image.fromarray(picture[::-1] if kind == "dogs" else picture).save(f"pictures/{kind}/{number}.png")
    return here


@pytest.fixture
def photos(here):
    """Four pictures with their masks, named by letters."""
    for folder in ("photos", "masks"):
        (here / folder).mkdir()
    for number, name in enumerate("abcd"):
        picture, mask = discs(number, (140, 150))
        Image.fromarray(picture).save(f"photos/{name}.png")
        Image.fromarray(mask).save(f"masks/{name}.png")
    return here


def test_it_is_short():
    lines = [line for block in (LABELLED, PLAIN) for line in block.splitlines() if line]
    assert len(lines) <= 40 and len([line for line in SEGMENTER.splitlines() if line]) <= 40


def test_a_painter_of_ones_own_with_labels_and_without(pictures):
    left = run(LABELLED, PLAIN)
    assert len(left["rows"]) == 300 and left["x_0"].shape == (300, 3, 32, 32)
    for name in ("cat.png", "another.png"):
        with Image.open(name) as picture:
            assert picture.size == (32, 32) and picture.mode == "RGB"
    painter = left["painter"]
    assert painter.labels == ("cats", "dogs") or painter.labels == ["cats", "dogs"]
    assert painter.schedule == left["schedule"] and painter.guidance == 2
    cat, same, dog = (painter(y=y, seed=1, output="tensor") for y in ("cats", 0, "dogs"))
    assert cat.equal(same) and not cat.equal(dog)


def test_a_segmenter_of_ones_own(photos):
    left = run(SEGMENTER)
    assert left["objects"].shape == (140, 150) and left["objects"].dtype == np.int32
    with pytest.raises(ValueError, match="input"):
        left["segmentation"].segment(left["weights"].load("nuclei"), left["rows"][0]["image"])


def test_the_commands(pictures, photos):
    shutil.copytree("pictures/dogs", "my-dog")
    ways = ["train", "generate", "train", "segment", "adapt", "generate"]
    assert [command.split()[1] for command in COMMANDS] == ways
    for command in COMMANDS:
        short = re.sub(r"--steps \d+", "--steps 1 --width 8", command)
        short += " --steps 1" if " adapt " in command or "--lora" in command else ""
        assert cli.main(shlex.split(short)[1:]) == 0, command
    with Image.open("cat.png") as picture, Image.open("objects.png") as objects, Image.open("dog.png") as dog:
        assert picture.size == (32, 32) and objects.size == (150, 140) and dog.size == (64, 64)
