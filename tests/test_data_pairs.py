"""Folders of pictures and masks, as people have them: real files of many kinds, written to a folder that goes away."""

import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from minildm import UNet, data, segmentation
from minildm.data.augment import Crops
from minildm.data.masks import regions
from minildm.recipes import nuclei
from minildm.tensors import seeded
from minildm.training import train

LABELS = np.kron([[0, 1, 1, 0, 0], [0, 1, 0, 2, 2], [3, 0, 0, 2, 2]], np.ones((4, 4), int)).astype(np.int32)  # (12, 20)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 200, 0], [9, 0, 255]], np.uint8)  # of the labels, in some order
H, W = LABELS.shape


def put(path, array, **options):
    """A file of these numbers, in the kind that its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, **options)
    elif array.dtype == np.uint16 and array.ndim == 3:
        path.write_bytes(deep_png(array))
    else:
        Image.fromarray(array).save(path, **options)
    return path


def deep_png(array):
    """A PNG of 16 bits a channel, which PIL does not write."""
    h, w, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", w, h, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def random(shape=(H, W), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 2 ** (8 * np.dtype(dtype).itemsize) - 1, shape, dtype)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "images", tmp_path / "masks"


def single(folders, image=None, mask=None, **options):
    """The only row of two folders, after what is given was written to them."""
    names = {"image": folders[0] / "a.png", "mask": folders[1] / "a.png"}
    for (column, path), given in zip(names.items(), (image, mask), strict=True):
        if isinstance(given, tuple):
            put(path.with_suffix(given[0]), given[1])
        else:
            put(path, (random() if column == "image" else LABELS.astype(np.uint8)) if given is None else given)
    (row,) = data.pairs(*folders, **options)
    return row


def test_twins_of_several_sizes(folders):
    for i, (h, w) in enumerate([(12, 20), (30, 9), (5, 5)]):
        put(folders[0] / "deep" / f"{i}.png", np.full((h, w), i, np.uint8))
        mask = np.zeros((h, w), np.uint8)
        mask[:2, :2], mask[3:, 3:] = 4, 200
        put(folders[1] / "deep" / f"{i}.png", mask)
    found = data.pairs(*map(str, folders))
    assert found.column_names == ["image", "mask"] and len(found) == 3
    for i, row in enumerate(found):
        assert row["image"].dtype == np.uint8 and (row["image"] == i).all() and row["mask"].dtype == np.int32
        assert row["image"].shape == row["mask"].shape and sorted(np.unique(row["mask"])) == [0, 1, 2]
    assert [mask.shape for mask in found["mask"]] == [(12, 20), (30, 9), (5, 5)]
    some = found.select([2, 0])
    assert some[0]["image"].shape == (5, 5) and some[:]["mask"][1].shape == (12, 20)
    assert {part[0]["image"].dtype for part in found.train_test_split(1, seed=0).values()} == {np.dtype(np.uint8)}


IMAGES = {
    "uint8": (".png", random()),
    "uint16": (".png", random(dtype=np.uint16)),
    "colour": (".png", random((H, W, 3))),
    "colour of 16 bits, tif": (".tif", random((H, W, 3), np.uint16)),
    "uint16 tif": (".tif", random(dtype=np.uint16)),
    "uint32 tif": (".tif", random(dtype=np.uint32)),
    "int16 tif": (".tif", random(dtype=np.uint16).astype(np.int16)),
    "float32 tif": (".tif", random().astype(np.float32) / 7 - 3),
    "float64 tif": (".tif", random().astype(np.float64) * 1e9),
    "npy": (".npy", random(dtype=np.uint16)),
    "colour npy": (".npy", random((H, W, 3)).astype(np.float32)),
    "one channel npy": (".npy", random((H, W, 1))),
}


@pytest.mark.parametrize("name", IMAGES)
def test_intensities_are_those_of_the_file(folders, name):
    ending, array = IMAGES[name]
    found = single(folders, image=(ending, array))["image"]
    assert found.dtype == array.dtype and np.array_equal(found, array.reshape(found.shape))
    assert found.ndim == (3 if array.shape[2:] == (3,) else 2)


def test_pictures_that_are_not_stored_as_they_look(folders):
    grey, colour = random(), random((H, W, 3))
    opaque = np.full((H, W, 1), 255, np.uint8)
    assert np.array_equal(single(folders, image=np.concatenate([colour, opaque], -1))["image"], colour)
    assert np.array_equal(single(folders, image=np.concatenate([grey[..., None], opaque], -1))["image"], grey)
    deep = random((H, W, 3), np.uint16)
    with_alpha = np.concatenate([deep, np.full((H, W, 1), 65535, np.uint16)], -1)
    (folders[0] / "a.png").unlink()
    assert np.array_equal(single(folders, image=(".npy", with_alpha))["image"], deep)
    (folders[0] / "a.npy").unlink()
    clear = np.concatenate([colour, 0 * opaque], -1)
    clear[0, 0, 3] = 255
    laid = single(folders, image=clear)["image"]
    assert laid.shape == (H, W, 3) and (laid[1:] == 1).all() and np.abs(laid[0, 0] - colour[0, 0] / 255).max() < 1e-6
    few = Image.fromarray(COLOURS[LABELS]).quantize(4)
    few.save(folders[0] / "a.png")
    assert np.array_equal(data.pairs(*folders)[0]["image"], COLOURS[LABELS])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_lose_no_bits_in_silence(folders, channels):
    with pytest.raises(ValueError, match="PIL would drop half of the bits: save it as .tif"):
        single(folders, image=random((H, W, channels), np.uint16))


def test_pictures_stand_upright(folders):
    array = random((W, H, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    put(folders[0] / "a.png", array, exif=exif)
    put(folders[1] / "a.png", LABELS.astype(np.uint8))
    assert np.array_equal(data.pairs(*folders)[0]["image"], np.rot90(array, -1))


CODED = COLOURS[[0, 3, 2, 1]][LABELS]
ALPHA = np.full((H, W, 1), 255, np.uint8)
ON_CLEAR = np.concatenate([COLOURS[[1, 3, 2, 1]][LABELS], np.where(LABELS, 255, 0)[..., None]], -1).astype(np.uint8)
MASKS = {
    "uint8": (".png", LABELS.astype(np.uint8)),
    "gaps": (".png", np.array([0, 7, 90, 255], np.uint8)[LABELS]),
    "uint16": (".png", np.array([0, 7, 300, 65535], np.uint16)[LABELS]),
    "int32 tif": (".tif", np.array([0, 7, 70000, 2**31 - 1], np.int32)[LABELS]),
    "uint64 tif": (".tif", np.array([0, 7, 2**32, 2**63 + 5], np.uint64)[LABELS]),
    "float tif": (".tif", LABELS.astype(np.float32)),
    "int64 npy": (".npy", LABELS.astype(np.int64)),
    "colours": (".png", CODED),
    "colours with alpha": (".png", np.concatenate([CODED, ALPHA], -1)),
    "colours on a transparent ground": (".png", ON_CLEAR),
    "colours of 16 bits": (".tif", CODED.astype(np.uint16) * 256),
    "colours in npy": (".npy", CODED),
    "grey in colour": (".png", np.stack([LABELS.astype(np.uint8) * 60] * 3, -1)),
    "grey with alpha": (".png", np.concatenate([LABELS.astype(np.uint8)[..., None], ALPHA], -1)),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind(folders, name):
    found = single(folders, mask=MASKS[name])["mask"]
    assert found.dtype == np.int32 and found.shape == (H, W) and ((found == 0) == (LABELS == 0)).all()
    same = {(k, int(other)) for k in (1, 2, 3) for other in np.unique(found[LABELS == k])}  # noqa: SIM300
    assert len(same) == 3 and sorted(other for _, other in same) == [1, 2, 3]
    if "colours" not in name:  # whose order is that of their numbers
        assert np.array_equal(found, LABELS)


def test_a_palette_gives_indices_not_colours(folders):
    put(folders[0] / "a.png", random())
    image = Image.fromarray(LABELS.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0] * 256)  # all of them black
    folders[1].mkdir()
    image.save(folders[1] / "a.png")
    assert np.array_equal(data.pairs(*folders)[0]["mask"], LABELS)


BINARY = {
    "255": (".png", 255 * (LABELS > 0).astype(np.uint8)),
    "1": (".png", (LABELS > 0).astype(np.uint8)),
    "one bit": (".png", LABELS > 0),
    "uint16": (".png", 65535 * (LABELS > 0).astype(np.uint16)),
    "a value in between": (".png", 77 * (LABELS > 0).astype(np.uint8)),
    "red": (".png", np.array([[0, 0, 0], [255, 0, 0]], np.uint8)[(LABELS > 0).astype(int)]),
    "bool npy": (".npy", LABELS > 0),
    "float tif": (".tif", (LABELS > 0).astype(np.float32)),
}


@pytest.mark.parametrize("name", BINARY)
def test_black_and_white_is_parted_into_regions_and_said(folders, name):
    with pytest.warns(UserWarning, match="masks are black and white, so each region .* one object, .* touch are one"):
        found = single(folders, mask=BINARY[name])["mask"]
    assert np.array_equal(found > 0, LABELS > 0) and len(np.unique(found)) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (same,) = data.pairs(*folders, instances="connected")
        assert np.array_equal(same["mask"], found)
        (whole,) = data.pairs(*folders, instances="labels")
        assert np.array_equal(whole["mask"], (LABELS > 0).astype(int))


def test_the_whole_folder_tells_whether_masks_are_black_and_white(folders):
    for i in range(3):
        put(folders[0] / f"{i}.png", random())
        put(
            folders[1] / f"{i}.png", ((LABELS > 0) * (i + 1)).astype(np.uint8)
        )  # one object each, but of another number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(row["mask"].max() == 1 for row in data.pairs(*folders))
    put(folders[1] / "1.png", np.zeros((H, W), np.uint8))
    put(folders[1] / "2.png", (LABELS > 0).astype(np.uint8))
    with pytest.warns(UserWarning, match="black and white"):
        assert [int(row["mask"].max()) for row in data.pairs(*folders)] == [3, 0, 3]


def test_objects_that_meet_in_a_corner_are_two():
    corner = np.kron([[1, 0], [0, 1]], np.ones((3, 3), int))
    assert regions(corner).max() == 2 and regions(corner * 9)[0, 0] == 1
    assert regions(np.array([[1, 2, 0, 1]])).tolist() == [[1, 2, 0, 3]]
    assert regions(np.zeros((2, 2), bool)).max() == 0 and (regions(np.full((2, 2), 2**40)) == 1).all()


def blurred():
    soft = torch.nn.functional.avg_pool2d(torch.from_numpy(255.0 * (LABELS > 0))[None, None], 3, 1, 1)[0, 0]
    return soft.numpy().astype(np.uint8)


def test_blurred_black_and_white_is_noticed(folders):
    with pytest.raises(ValueError, match="values lie in .* separate regions.*instances='connected'"):
        single(folders, mask=blurred())
    found = single(folders, mask=blurred(), instances="connected")["mask"]
    assert len(np.unique(found)) == 4 and ((found > 0) == (blurred() > 127)).all()


def test_jpeg_masks(folders):
    put(folders[0] / "a.png", random())
    put(folders[1] / "a.jpg", 255 * (LABELS > 0).astype(np.uint8), quality=80)
    with pytest.raises(ValueError, match="a.jpg are JPEG files, which change numbers: save masks as .png, or"):
        data.pairs(*folders)
    (row,) = data.pairs(*folders, instances="connected")
    assert np.array_equal(row["mask"] > 0, LABELS > 0) and row["mask"].max() == 3


def test_classes_are_no_instances(folders):
    many = np.kron(np.indices((6, 10)).sum(0) % 2 * (1 + np.indices((6, 10))[0] % 2), np.ones((2, 2), int))
    with pytest.raises(ValueError, match="the masks' 2 values lie in 30 separate regions.*number the objects first"):
        single(folders, mask=many.astype(np.uint8))
    assert single(folders, mask=many.astype(np.uint8), instances="labels")["mask"].max() == 2
    with pytest.raises(ValueError, match="the mask of a.png: .*instances='connected' is for black and white"):
        single(folders, mask=many.astype(np.uint8), instances="connected")


def test_masks_need_a_background(folders):
    for mask in (LABELS + 1, np.where(LABELS, 255, 128), np.full((H, W), 255)):
        with pytest.raises(ValueError, match="expected 0 or black as the background"):
            single(folders, mask=mask.astype(np.uint8))
    with pytest.raises(ValueError, match="expected 0 or black"):
        single(folders, mask=np.where(LABELS[..., None] == 0, 255, COLOURS[LABELS]).astype(np.uint8))
    assert np.array_equal(single(folders, mask=(LABELS + 1).astype(np.uint8), instances="labels")["mask"], LABELS + 1)


def test_empty_masks(folders):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert single(folders, mask=np.zeros((H, W), np.uint8))["mask"].max() == 0


# Names


@pytest.mark.parametrize(
    "mask", ["a.tif", "A.PNG", "a_mask.png", "a-mask.png", "a_masks.png", "a_label.png", "a_Labels.png", "a_seg.gif"]
)
def test_names_that_fit(folders, mask):
    stem = "A" if mask[0] == "A" else "a"
    put(folders[0] / f"{stem}.jpg", random())
    put(folders[1] / mask, LABELS.astype(np.uint8))
    (row,) = data.pairs(*folders)
    assert np.array_equal(row["mask"], LABELS)


def test_a_picture_whose_own_name_ends_in_mask(folders):
    for name in ("a", "a_mask"):
        put(folders[0] / f"{name}.png", random())
        put(folders[1] / f"{name}.png", (LABELS * (2 if name == "a" else 1) % 4).astype(np.uint8))
    assert len(data.pairs(*folders)) == 2


def test_pictures_and_masks_without_a_twin(folders):
    for name in ("a", "b", "c"):
        put(folders[0] / f"{name}.png", random())
    for name in ("b", "猫"):
        put(folders[1] / f"{name}.png", LABELS.astype(np.uint8))
    with pytest.raises(ValueError, match="no mask in .*masks for a.png, c.png, and no picture in .*images for 猫.png"):
        data.pairs(*folders)
    (folders[1] / "猫.png").unlink()
    with pytest.raises(ValueError, match="no mask in .* for a.png, c.png$"):
        data.pairs(*folders)


@pytest.mark.parametrize("which", [0, 1])
def test_two_files_of_one_name(folders, which):
    put(folders[0] / "a.png", random())
    put(folders[1] / "a.png", LABELS.astype(np.uint8))
    put(folders[which] / "a.tif", LABELS.astype(np.uint8))
    with pytest.raises(ValueError, match="has a.png and a.tif, which fit the same twin"):
        data.pairs(*folders)


def test_twins_of_two_sizes(folders):
    for name, shape in (("a", (W, H)), ("b", (H, W)), ("c", (H + 1, W, 3))):
        put(folders[0] / f"{name}.png", random(shape))
        put(folders[1] / f"{name}.tif", LABELS)
    with pytest.raises(ValueError, match="a.png 20×12 and a.tif 12×20, c.png 13×20 and c.tif 12×20"):
        data.pairs(*folders)


def test_what_cannot_be_read_is_named_and_left_out(folders):
    for name in "abcdefg":
        put(folders[0] / f"{name}.png", random())
        put(folders[1] / f"{name}.png", LABELS.astype(np.uint8))
    (folders[0] / "a.png").write_bytes(b"no picture")
    content = (folders[1] / "b.png").read_bytes()
    (folders[1] / "b.png").write_bytes(content[:50])
    put((folders[1] / "c.png").with_suffix(".tif"), LABELS / 2)
    (folders[1] / "c.png").unlink()
    put((folders[1] / "d.png").with_suffix(".npy"), np.full((H, W), -1))
    (folders[1] / "d.png").unlink()
    put((folders[0] / "e.png").with_suffix(".tif"), np.zeros((3, 7, H, W), np.uint8), photometric="minisblack")
    (folders[0] / "e.png").unlink()
    with pytest.warns(UserWarning, match="5 of 7 pairs could not be read") as said:
        found = data.pairs(*folders)
    message = next(str(one.message) for one in said if "could not" in str(one.message))
    assert all(name in message for name in ("a.png", "b.png", "c.tif", "d.npy", "e.tif")) and "f.png" not in message
    assert len(found) == 2
    np.save(folders[1] / "d.npy", np.array([{}], object), allow_pickle=True)
    with pytest.warns(UserWarning, match="5 of 7 pairs could not be read"):  # nothing unpickles
        data.pairs(*folders)


def test_grey_and_colour(folders):
    grey, colour = random(), random((H, W, 3))
    put(folders[0] / "a.png", grey)
    put(folders[0] / "b.png", colour)
    for name in "ab":
        put(folders[1] / f"{name}.png", LABELS.astype(np.uint8))
    with pytest.raises(
        ValueError, match=r"grey pictures \(a.png\) and colour ones \(b.png\): say channels=1 or channels=3"
    ):
        data.pairs(*folders)
    one, two = data.pairs(*folders, channels=3)
    assert np.array_equal(one["image"], np.stack([grey] * 3, -1)) and np.array_equal(two["image"], colour)
    one, two = data.pairs(*folders, channels=1)
    assert np.array_equal(one["image"], grey) and np.allclose(two["image"], colour.mean(-1))
    put(folders[0] / "b.png", np.stack([grey] * 3, -1))
    assert np.array_equal(data.pairs(*folders, channels=1)[1]["image"], grey)


@pytest.mark.parametrize(
    "options, says", [({"channels": 4}, "channels must be"), ({"instances": "binary"}, "'connected'")]
)
def test_options_that_cannot_be(folders, options, says):
    with pytest.raises(ValueError, match=says):
        single(folders, **options)


def test_no_folder(folders, tmp_path):
    put(folders[0] / "a.png", random())
    with pytest.raises(FileNotFoundError, match="there is no folder .*masks"):
        data.pairs(*folders)
    folders[1].mkdir()
    with pytest.raises(ValueError, match="there are no pictures in .*masks, which is empty"):
        data.pairs(*folders)
    with pytest.raises(ValueError, match="is another file"):
        data.pairs(folders[0] / "a.png", folders[1])


def test_a_changed_folder_is_seen(folders):
    first = single(folders)["image"]
    put(folders[0] / "a.png", 255 - first)
    assert np.array_equal(data.pairs(*folders)[0]["image"], 255 - first)


# All the way


@pytest.mark.parametrize("channels", [1, 3])
def test_a_segmenter_learns_from_pairs_of_several_sizes(folders, channels):
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate([(60, 80), (48, 100), (70, 70)]):
        mask = np.zeros((h, w), np.uint16)
        for k in range(6):
            y, x = rng.integers(8, h - 8), rng.integers(8, w - 8)
            mask[np.hypot(*(np.indices((h, w)) - np.array([y, x])[:, None, None])) < 7] = k + 1
        image = rng.normal(40, 4, (h, w, channels)) + np.array([120, 20, 60])[:channels] * (mask > 0)[..., None]
        put(folders[0] / f"{i}.png", image.squeeze().clip(0, 255).astype(np.uint8))
        put(folders[1] / f"{i}.png", mask)
    found = data.pairs(*folders)
    with seeded(0):
        model = UNet(channels, 2, (8, 16))
    crops = Crops([nuclei.maps(row["image"], row["mask"]) for row in found], size=32)
    train(model, crops, segmentation.segmentation_loss, steps=40, batch_size=4, lr=1e-2, progress=False)
    row = found[0]
    foreground, _ = segmentation.predict(model, row["image"], views=1)
    assert ((foreground > 0.5) == (row["mask"] > 0)).mean() > 0.9
    assert segmentation.segment(model, row["image"]).shape == row["mask"].shape


def test_what_the_card_shows_runs(tmp_path, monkeypatch):
    card = (Path(__file__).parents[1] / "data" / "yours.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    assert "steps=500" in code and code.count("data.") == 2
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "photos" / "1.jpg", random((H, W, 3)))
    put(tmp_path / "images" / "a.png", random((64, 80)))
    put(tmp_path / "masks" / "a.tif", np.pad(LABELS, ((0, 52), (0, 60))).astype(np.uint16))
    names = {}
    exec(code.replace("steps=500", "steps=2, progress=False"), names)
    assert names["labels"].shape == (64, 80) and names["pictures"][0]["image"].size == (64, 64)
