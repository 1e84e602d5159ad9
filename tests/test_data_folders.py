"""Folders of pictures, as people have them: real files of many kinds, written to a folder that goes away."""

import csv
import json
import os
import shutil
import sys
import warnings

import datasets
import numpy as np
import pytest
from PIL import Image

from minildm import data, images


def save(path, colour=(200, 40, 90), size=(12, 10), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def pixels(row):
    return np.asarray(row["image"]).astype(int)


@pytest.fixture
def classes(tmp_path):
    """Two classes of three pictures each, whose red tells which one it is."""
    for k, name in enumerate(("cat", "dog")):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", (100 * k + 10 * i, 0, 0))
    return tmp_path


def reds(found):
    return [int(pixels(row)[0, 0, 0]) for row in found]


def test_a_folder_of_pictures(tmp_path):
    for i in (2, 0, 1):
        save(tmp_path / f"{i}.png", (10 * i, 0, 0))
    found = data.images(tmp_path, size=8)
    assert isinstance(found, datasets.Dataset) and found.column_names == ["image"] and reds(found) == [0, 10, 20]
    assert (found[0]["image"].size, found[0]["image"].mode) == ((8, 8), "RGB")
    assert data.images(str(tmp_path))[0]["image"].size == (64, 64)
    grey = data.images(tmp_path, size=8, channels=1)
    assert grey[2]["image"].mode == "L" and pixels(grey[2])[0, 0] == round(0.299 * 20)


def test_labels_are_those_of_imagefolder(classes, tmp_path_factory):
    found = data.images(classes, size=8)
    assert found.column_names == ["image", "label"] and reds(found) == [0, 10, 20, 100, 110, 120]
    cache = str(tmp_path_factory.mktemp("cache"))
    theirs = datasets.load_dataset("imagefolder", data_dir=str(classes), split="train", cache_dir=cache)
    assert found.features["label"] == theirs.features["label"] and found["label"][:] == theirs["label"][:]
    assert data.images(classes, size=8, labels=False).column_names == ["image"]


KINDS = {
    "palette.png": ((255, 0, 0), lambda p: Image.new("RGB", (12, 10), (255, 0, 0)).quantize(4).save(p)),
    "UPPER.PNG": ((255, 0, 0), lambda p: save(p, (255, 0, 0))),
    "photo.JPG": ((255, 0, 0), lambda p: save(p, (255, 0, 0), quality=95)),
    "grey.png": ((90, 90, 90), lambda p: save(p, 90, mode="L")),
    "one bit.png": ((255, 255, 255), lambda p: save(p, 1, mode="1")),
    "16 bit.png": ((128, 128, 128), lambda p: save(p, 128 * 257, mode="I;16")),
    "16 bit.tif": ((128, 128, 128), lambda p: save(p, 128 * 257, mode="I;16")),
    "clear.png": ((255, 255, 255), lambda p: save(p, (0, 0, 0, 0), mode="RGBA")),
    "half.webp": ((128, 128, 255), lambda p: save(p, (0, 0, 255, 128), mode="RGBA", lossless=True)),
    "ink.jpg": ((255, 255, 255), lambda p: save(p, (0, 0, 0, 0), mode="CMYK")),
    "moving.gif": (
        (255, 0, 0),
        lambda p: save(p, (255, 0, 0), save_all=True, append_images=[Image.new("RGB", (12, 10))]),
    ),
    "old.bmp": ((9, 8, 7), lambda p: save(p, (9, 8, 7))),
    "猫 é.png": ((9, 8, 7), lambda p: save(p, (9, 8, 7))),
    "a.b.c.png": ((9, 8, 7), lambda p: save(p, (9, 8, 7))),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_has_the_colour_that_viewers_show(tmp_path, name):
    colour, write = KINDS[name]
    write(tmp_path / name)
    (row,) = data.images(tmp_path, size=4)
    assert row["image"].mode == "RGB" and np.abs(pixels(row) - colour).max() <= 3


@pytest.mark.parametrize("orientation, corner", [(1, 0), (3, 3), (6, 1), (8, 2)])
@pytest.mark.parametrize("kind, side", [("jpg", 40), ("png", 40), ("jpg", 900), ("png", 900)])
def test_pictures_stand_upright(tmp_path, orientation, corner, kind, side):
    array = np.zeros((side, side, 3), np.uint8)
    array[: side // 2, : side // 2] = 255  # the corner at the top left, which the camera turned
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(tmp_path / f"a.{kind}", exif=exif)
    (row,) = data.images(tmp_path, size=8)
    corners = pixels(row)[..., 0][[1, 1, -2, -2], [1, -2, 1, -2]]
    assert corners.argmax() == corner and corners.max() > 230 and sorted(corners)[2] < 25


@pytest.mark.parametrize("shape", [(10, 30), (30, 10), (100, 300), (999, 333), (3, 9)])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_the_largest_square_in_the_middle_is_kept(tmp_path, shape, kind):
    h, w = shape
    array = np.full((h, w, 3), 40, np.uint8)
    k = min(h, w)
    if w > h:
        array[:, : (w - k) // 2] = array[:, (w + k) // 2 :] = 240
    else:
        array[: (h - k) // 2] = array[(h + k) // 2 :] = 240
    Image.fromarray(array).save(tmp_path / f"a.{kind}", **({"quality": 100} if kind == "jpg" else {}))
    found = pixels(data.images(tmp_path, size=6)[0])
    assert np.abs(found[1:-1, 1:-1] - 40).max() < 30 and np.abs(np.median(found) - 40) < 3


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_large_pictures_are_averaged_not_sampled(tmp_path, kind):
    """Stripes one pixel wide are a mean grey from afar."""
    array = np.zeros((800, 800, 3), np.uint8)
    array[:, ::2] = 255
    Image.fromarray(array).save(tmp_path / f"a.{kind}", **({"quality": 100} if kind == "jpg" else {}))
    assert np.abs(pixels(data.images(tmp_path, size=16)[0]) - 127.5).max() < 4


@pytest.mark.parametrize(
    "kind, mode", [("png", "RGB"), ("png", "L"), ("png", "RGBA"), ("jpg", "RGB"), ("jpg", "L"), ("tif", "RGB")]
)
def test_the_fast_way_gives_nearly_what_the_slow_one_does(tmp_path, kind, mode):
    blocks = np.random.default_rng(0).integers(0, 256, (9, 12, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
    picture = Image.fromarray(np.kron(blocks, np.ones((97, 97, 1), np.uint8)).squeeze())
    picture.save(tmp_path / f"a.{kind}", **({"quality": 95} if kind == "jpg" else {}))
    slow = images.fit(tmp_path / f"a.{kind}", 32)[0].movedim(0, -1).numpy() * 255
    difference = np.abs(pixels(data.images(tmp_path, size=32)[0]) - slow)
    assert difference.max() < 20 and difference.mean() < 2


def test_what_is_no_picture_or_hidden_is_passed_over(classes):
    for name in ("Thumbs.db", "cat/notes.md", "README.txt", ".DS_Store", "cat/.hidden.png", "._x.png"):
        (classes / name).write_text("no picture")
    save(classes / ".git" / "a.png")
    save(classes / "__MACOSX" / "cat" / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reds(data.images(classes, size=8)) == [0, 10, 20, 100, 110, 120]


def truncate(path):
    path.write_bytes(path.read_bytes()[: -(path.stat().st_size // 3)])


def test_what_cannot_be_read_is_named_once_and_left_out(classes):
    rng = np.random.default_rng(0)
    for name in ("cat/cut.png", "dog/cut.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(classes / name)
        truncate(classes / name)
    (classes / "cat" / "empty.png").touch()
    (classes / "dog" / "text.jpg").write_text("no picture")
    (classes / "dog" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.warns(UserWarning) as said:
        found = data.images(classes, size=8)
    (message,) = [str(one.message) for one in said]
    assert (
        "5 of 11 files could not be read: cat/cut.png, cat/empty.png, dog/cut.jpg, dog/phone.heic, dog/text" in message
    )
    assert (
        "left out" in message and reds(found) == [0, 10, 20, 100, 110, 120] and found["label"][:] == [0, 0, 0, 1, 1, 1]
    )


def test_many_unreadable_ones_are_counted_not_listed(tmp_path):
    save(tmp_path / "good.png")
    for i in range(30):
        (tmp_path / f"bad{i:02}.png").touch()
    with pytest.warns(UserWarning, match="30 of 31 files .*bad00.png.*bad09.png and 20 more"):
        assert len(data.images(tmp_path, size=8)) == 1


def test_a_huge_picture_is_no_bomb(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", size=(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # more than twice that is an error
    with pytest.warns(UserWarning, match=r"1 of 2 files could not be read: b.png \(.*DecompressionBomb"):
        assert len(data.images(tmp_path, size=8)) == 1


def test_a_changed_folder_is_seen_and_nothing_is_kept(classes, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "MINILDM_CACHE"):
        monkeypatch.setenv(name, str(home))
    before = sorted(os.walk(classes))
    cached = sorted(os.walk(os.environ["HF_HOME"]))
    assert reds(data.images(classes, size=8)) == [0, 10, 20, 100, 110, 120]
    assert sorted(os.walk(classes)) == before and not list(home.iterdir())
    stamp = (classes / "cat" / "0.png").stat()
    save(classes / "cat" / "0.png", (55, 0, 0))
    os.utime(classes / "cat" / "0.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # even if its time says it is not
    (classes / "dog" / "2.png").unlink()
    save(classes / "dog" / "9.png", (99, 0, 0))
    assert reds(data.images(classes, size=8)) == [55, 10, 20, 100, 110, 99]
    assert sorted(os.walk(os.environ["HF_HOME"])) == cached


@pytest.mark.parametrize("wrap", ["", "pictures"])
def test_a_zip_of_the_folder_is_the_folder(classes, tmp_path_factory, wrap):
    (classes / "cat" / "0.txt").write_text("no caption for the others")
    save(classes / "__MACOSX" / "cat" / "._0.png")
    out = tmp_path_factory.mktemp("zip")
    if wrap:
        shutil.copytree(classes, out / "in" / wrap)
    file = shutil.make_archive(str(out / "a"), "zip", out / "in" if wrap else classes)
    found, same = data.images(file, size=8, captions=False), data.images(classes, size=8, captions=False)
    assert reds(found) == reds(same) and found["label"][:] == same["label"][:] and found.features == same.features
    with pytest.raises(ValueError, match="5 of 6 pictures have no caption: cat/1.png"):
        data.images(file, size=8)


def test_links_are_followed_and_end(tmp_path):
    save(tmp_path / "elsewhere" / "a.png", (1, 0, 0))
    save(tmp_path / "mine" / "b.png", (2, 0, 0))
    try:
        (tmp_path / "mine" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "mine" / "round").symlink_to(tmp_path / "mine")
    except OSError:
        pytest.skip("no links here")
    assert sorted(reds(data.images(tmp_path / "mine", size=4, labels=False))) == [1, 2]


# Splits


@pytest.fixture
def parted(tmp_path):
    for split, red in (("train", 0), ("test", 100)):
        for k, name in enumerate(("cat", "dog")):
            save(tmp_path / split / name / "0.png", (red + 10 * k, 0, 0))
    save(tmp_path / "test" / "owl" / "0.png", (190, 0, 0))
    return tmp_path


def test_splits_are_those_of_imagefolder(parted, tmp_path_factory):
    train, test = (data.images(parted, size=8, split=split) for split in ("train", "test"))
    assert reds(data.images(parted, size=8)) == reds(train) == [0, 10] and reds(test) == [100, 110, 190]
    assert train.features["label"].names == test.features["label"].names == ["cat", "dog", "owl"]
    cache = str(tmp_path_factory.mktemp("cache"))
    theirs = datasets.load_dataset("imagefolder", data_dir=str(parted), cache_dir=cache)
    assert theirs["test"].features == test.features and theirs["test"]["label"][:] == test["label"][:] == [0, 1, 2]
    assert theirs["train"]["label"][:] == train["label"][:] == [0, 1]
    assert len(data.images(parted, size=8, split="all")) == 5


@pytest.mark.parametrize("names", [("training", "val"), ("TRAIN", "Validation"), ("train", "dev")])
def test_splits_by_other_names(tmp_path, names):
    for i, name in enumerate(names):
        save(tmp_path / name / "a.png", (i, 0, 0))
    assert reds(data.images(tmp_path, size=4)) == [0]
    found = data.images(tmp_path, size=4, split="validation")
    assert reds(found) == [1] and found.column_names == ["image"]


def test_a_test_set_without_labels(tmp_path):
    for name in ("train/cat/a.png", "train/dog/a.png", "test/1.png", "test/2.png"):
        save(tmp_path / name)
    assert data.images(tmp_path, size=4).features["label"].names == ["cat", "dog"]
    assert data.images(tmp_path, size=4, split="test").column_names == ["image"]
    with pytest.raises(ValueError, match="test/1.png, test/2.png lie outside"):
        data.images(tmp_path, size=4, split="test", labels=True)


def test_a_railway_train_is_a_class(tmp_path):
    for name in ("train", "car", "bus"):
        save(tmp_path / name / "a.png")
    assert data.images(tmp_path, size=4).features["label"].names == ["bus", "car", "train"]


def test_splits_that_are_not_there(parted, tmp_path_factory):
    with pytest.raises(ValueError, match="unknown split 'tset'; expected one of 'train', 'validation', 'test', 'all'"):
        data.images(parted, split="tset")
    with pytest.raises(ValueError, match="no pictures for the split 'validation', only for test, train, or 'all'"):
        data.images(parted, split="validation")
    whole = tmp_path_factory.mktemp("whole")
    save(whole / "a.png")
    with pytest.raises(ValueError, match="no pictures for the split 'test', only for train, or 'all'"):
        data.images(whole, split="test")


def test_pictures_beside_the_splits(parted):
    save(parted / "more" / "a.png")
    with pytest.raises(ValueError, match="has the splits test, train, and pictures outside of them, in more: move"):
        data.images(parted)


# Labels


def test_one_subfolder_is_a_label_when_asked_for(tmp_path):
    save(tmp_path / "cat" / "a.png")
    assert data.images(tmp_path, size=4).column_names == ["image"]
    found = data.images(tmp_path, size=4, labels=True)
    assert found.features["label"].names == ["cat"] and found["label"][:] == [0]


def test_the_innermost_folder_is_the_label(tmp_path):
    for name in ("pets/cat/a.png", "pets/dog/a.png", "wild/owl/a.png"):
        save(tmp_path / name)
    found = data.images(tmp_path, size=4)
    assert found.features["label"].names == ["cat", "dog", "owl"] and found["label"][:] == [0, 1, 2]


@pytest.mark.parametrize(
    "names, says",
    [
        (["a.png", "b.png"], "a.png, b.png lie outside"),
        (["a.png", "cat/b.png", "dog/c.png"], "a.png lie outside"),
        (["cat/b.png", "dog/big/c.png"], "cat/b.png, dog/big/c.png lie at several depths"),
    ],
)
def test_labels_asked_for_that_are_not_there(tmp_path, names, says):
    for name in names:
        save(tmp_path / name)
    with pytest.raises(ValueError, match=f"not all pictures lie in subfolders .*{says}"):
        data.images(tmp_path, size=4, labels=True)


def test_labels_of_some_are_given_up_with_a_warning(tmp_path):
    for name in ("a.png", "cat/b.png", "dog/c.png"):
        save(tmp_path / name)
    with pytest.warns(UserWarning, match="a.png lie outside. So there are no labels"):
        assert data.images(tmp_path, size=4).column_names == ["image"]


# Captions and tables


@pytest.fixture
def loose(tmp_path):
    for i, name in enumerate(("a.png", "b.JPG", "猫.png")):
        save(tmp_path / name, (10 * i, 0, 0))
    return tmp_path


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")


def write_parquet(path, rows):
    import pyarrow

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


TABLES = pytest.mark.parametrize(
    "write, kind",
    [(write_csv, "csv"), (write_jsonl, "jsonl"), (write_parquet, "parquet")],
    ids=["csv", "jsonl", "parquet"],
)


def test_captions_from_text_files(loose):
    (loose / "a.txt").write_text("  a red\r\ncat \n", encoding="utf-8")
    (loose / "b.txt").write_text("\ufeffa dog", encoding="utf-8")
    (loose / "猫.TXT").write_text("一只猫", encoding="utf-8")
    (loose / "license.txt").write_text("no caption")
    found = data.images(loose, size=4)
    assert found.column_names == ["image", "text"] and found["text"][:] == ["a red cat", "a dog", "一只猫"]
    assert data.images(loose, size=4, captions=False).column_names == ["image"]


def test_labels_and_captions_together(classes):
    for i in range(3):
        for name in ("cat", "dog"):
            (classes / name / f"{i}.txt").write_text(f"{name} {i}")
    found = data.images(classes, size=4)
    assert found.column_names == ["image", "label", "text"]
    assert found[4]["label"] == 1 and found[4]["text"] == "dog 1"


@TABLES
def test_captions_and_labels_from_a_table(loose, write, kind):
    rows = [
        {"file_name": "猫.png", "text": "一只猫", "label": "10"},
        {"file_name": "a.png", "text": "a cat, red", "label": "9"},
        {"file_name": "./b.JPG", "text": 'a "dog"', "label": "9"},
    ]
    write(loose / f"metadata.{kind}", rows)
    found = data.images(loose, size=4)
    assert found["text"][:] == ["a cat, red", 'a "dog"', "一只猫"] and reds(found) == [0, 10, 20]
    assert found.features["label"].names == ["9", "10"] and found["label"][:] == [0, 0, 1]  # numbers by their size
    assert data.images(loose, size=4, labels=False, captions=False).column_names == ["image"]


@TABLES
def test_a_table_in_each_split(tmp_path, write, kind):
    for split in ("train", "test"):
        save(tmp_path / split / "deep" / "a.png")
        write(tmp_path / split / f"metadata.{kind}", [{"file_name": "deep/a.png", "text": split}])
    assert data.images(tmp_path, size=4)["text"][:] == ["train"]
    assert data.images(tmp_path, size=4, split="test")["text"][:] == ["test"]


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_captions_of_other_names_and_whole_numbers_as_labels(loose, column):
    names = ("a.png", "b.JPG", "猫.png")
    write_jsonl(
        loose / "metadata.jsonl", [{"file_name": n, column: f"say {n}", "label": i * 5} for i, n in enumerate(names)]
    )
    found = data.images(loose, size=4)
    assert found["text"][2] == "say 猫.png" and found.features["label"].names == ["0", "5", "10"]


def test_names_that_another_system_spells_with_accents_apart(tmp_path):
    save(tmp_path / "caf\u00e9.png")
    write_csv(tmp_path / "metadata.csv", [{"file_name": "cafe\u0301.png", "text": "coffee"}])
    assert data.images(tmp_path, size=4)["text"][:] == ["coffee"]


@pytest.mark.parametrize("captions", [None, True])
def test_captions_of_some_are_an_error_that_says_which(loose, captions):
    (loose / "a.txt").write_text("a cat")
    (loose / "b.txt").write_text(" \n")
    with pytest.raises(
        ValueError, match="2 of 3 pictures have no caption: b.JPG, 猫.png; write them, or .*captions=False"
    ):
        data.images(loose, captions=captions)


def test_captions_asked_for_that_are_not_there(loose):
    with pytest.raises(
        ValueError, match=r"no captions: write a text file beside each picture, a.txt for a.png, or a meta"
    ):
        data.images(loose, captions=True)


@pytest.mark.parametrize(
    "rows, says",
    [
        ([{"file_name": "a.png", "text": "x"}], "2 of 3 pictures have no caption: b.JPG, 猫.png"),
        ([{"file_name": "c.png", "text": "x"}], "row 1 of metadata.csv is about 'c.png', and there is no such file"),
        ([{"file_name": "../a.png", "text": "x"}], "no such file"),
        ([{"file_name": "/etc/passwd", "text": "x"}], "no such file"),
        ([{"name": "a.png", "text": "x"}], r"row 1 of metadata.csv has no file_name, only \['name', 'text'\]"),
        ([{"file_name": "a.png", "text": "x"}, {"file_name": "a.png", "text": "y"}], "row 2 .* as another row is"),
        ([{"file_name": "a.png", "label": "x"}], "2 of 3 pictures have no label in the table: b.JPG, 猫.png"),
        (
            [{"file_name": n, "label": ""} for n in ("a.png", "b.JPG")] + [{"file_name": "猫.png", "label": "x"}],
            "2 of 3",
        ),
    ],
)
def test_tables_that_do_not_fit(loose, rows, says):
    write_csv(loose / "metadata.csv", rows)
    with pytest.raises(ValueError, match=says):
        data.images(loose)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("metadata.jsonl", b'{"file_name": "a.png"', "metadata.jsonl cannot be read"),
        ("metadata.jsonl", b'["a.png"]', "metadata.jsonl cannot be read: each line must be an object"),
        ("metadata.csv", b"file_name,text\na.png,\xff\xfe\n", "metadata.csv cannot be read"),
        ("metadata.parquet", b"PAR1", "metadata.parquet cannot be read"),
        ("a.txt", b"caf\xe9", "a.txt is not written in UTF-8"),
    ],
)
def test_texts_that_cannot_be_read(loose, name, content, says):
    (loose / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        data.images(loose)


def test_captions_from_two_places(loose):
    write_csv(loose / "metadata.csv", [{"file_name": n, "text": "x"} for n in ("a.png", "b.JPG", "猫.png")])
    (loose / "a.txt").write_text("a cat")
    with pytest.raises(ValueError, match="captions twice: in the column 'text' of a table and in a.txt"):
        data.images(loose)


def test_two_pictures_of_one_name_share_no_caption(loose):
    save(loose / "a.jpg")
    (loose / "a.txt").write_text("a cat")
    with pytest.raises(ValueError, match=r"a.txt could belong to a.jpg and to a.png: give them names of their own"):
        data.images(loose)
    (loose / "a.txt").unlink()
    assert len(data.images(loose, size=4)) == 4


# What cannot be


def test_no_folder_and_no_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        data.images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there are no pictures in .*, which is empty"):
        data.images(tmp_path)
    (tmp_path / "a.doc").touch()
    (tmp_path / "Makefile").touch()
    with pytest.raises(ValueError, match="only files with .doc, no ending; expected .png"):
        data.images(tmp_path)
    with pytest.raises(ValueError, match="expected a folder or a zip archive of one, and .*a.doc is another file"):
        data.images(tmp_path / "a.doc")


@pytest.mark.parametrize("name, says", [("a.png", "cannot identify"), ("a.HEIC", "PIL knows no .heic files: convert")])
def test_nothing_but_unreadable_pictures(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=f"1 of 1 files could not be read: {name} .*{says}"):
        data.images(tmp_path)


@pytest.mark.parametrize("size", [0, -3, 6.5, "64", True, None])
def test_sizes_that_cannot_be(loose, size):
    with pytest.raises(ValueError, match="size must be a number of pixels"):
        data.images(loose, size=size)


@pytest.mark.parametrize("channels", [0, 2, 4, "RGB"])
def test_channels_that_cannot_be(loose, channels):
    with pytest.raises(ValueError, match="channels must be 3 for colour or 1 for grey"):
        data.images(loose, channels=channels)


def test_missing_package_says_how_to_install(loose, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'datasets.*pip install "minildm\[course\]"'):
        data.images(loose)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(folder=None), "path of a folder or a zip archive, got NoneType"),
        (dict(folder=5), "got int"),
        (dict(folder=["a.png"]), "got list"),
        (dict(labels=["x", "y"]), "labels says whether to take them"),
        (dict(labels="folder"), "labels says whether"),
        (dict(captions=[]), "captions says whether"),
        (dict(channels=3.0), "channels must be 3"),
    ],
)
def test_what_images_takes_for_no_setting(how, message, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        data.images(**dict(folder=tmp_path, size=8) | how)
