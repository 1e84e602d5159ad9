"""Images from real files of each kind, PIL, arrays and tensors: what each pixel is worth, by hand."""

import io
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from minildm import images

LEVELS = [0, 51, 102, 255]  # in units of 255: 0, 0.2, 0.4, 1
GREY = (0.299, 0.587, 0.114)


def grey(mode="L", levels=LEVELS):
    """2 wide, 2 high."""
    image = Image.new(mode, (2, 2))
    image.putdata(levels)
    return image


def colours(*pixels, mode="RGB"):
    """One row."""
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def palette(**transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    return image


def file(image, kind="PNG", **how):
    data = io.BytesIO()
    image.save(data, kind, **how)
    data.seek(0)
    return data


def rows(x, i=0):
    """An image as the list of its pixels, in rows, each the list of its channels."""
    return x[i].movedim(0, -1).flatten(0, 1).tolist()


RED, BLUE, WHITE, BLACK, PINK = [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0.6, 0.6]
HALF_RED = (255, 0, 0, 102)  # alpha 0.4: on white 1, 0.6, 0.6
FILES = {  # what is written -> the pixels that are to be read, in colour
    "grey": (lambda: file(grey()), [[v / 255] * 3 for v in LEVELS]),
    "1 bit": (lambda: file(grey("1", [0, 255, 255, 0])), [BLACK, WHITE, WHITE, BLACK]),
    "16 bits": (lambda: file(grey("I;16", [0, 13107, 26214, 65535])), [[v] * 3 for v in (0, 0.2, 0.4, 1)]),
    "16 bits, dark": (lambda: file(grey("I;16", [0, 1, 256, 300])), [[v / 65535] * 3 for v in (0, 1, 256, 300)]),
    "16 bits, one level transparent": (
        lambda: file(grey("I;16", [0, 13107, 26214, 65535]), transparency=13107),
        [BLACK, WHITE, [0.4] * 3, WHITE],
    ),
    "TIFF of 16 bits": (
        lambda: file(grey("I;16", [0, 13107, 26214, 65535]), "TIFF"),
        [[v] * 3 for v in (0, 0.2, 0.4, 1)],
    ),
    "TIFF of floats": (lambda: file(grey("F", [0, 0.25, 0.75, 1]), "TIFF"), [[v] * 3 for v in (0, 0.25, 0.75, 1)]),
    "TIFF of 32 bits": (lambda: file(grey("I", [0, 13107, 26214, 65535]), "TIFF"), [[v] * 3 for v in (0, 0.2, 0.4, 1)]),
    "colour": (lambda: file(colours((255, 0, 0), (0, 51, 102))), [RED, [0, 0.2, 0.4]]),
    "palette": (lambda: file(palette()), [RED, BLUE]),
    "palette, one entry transparent": (lambda: file(palette(), transparency=1), [RED, WHITE]),
    "palette with alpha": (lambda: file(palette(), transparency=b"\x66\xff"), [PINK, BLUE]),
    "GIF, transparent": (lambda: file(palette(), "GIF", transparency=0), [WHITE, BLUE]),
    "alpha": (lambda: file(colours((0, 0, 0, 0), HALF_RED, mode="RGBA")), [WHITE, PINK]),
    "grey with alpha": (lambda: file(colours((0, 0), (0, 102), mode="LA")), [WHITE, [0.6] * 3]),
    "one grey transparent": (lambda: file(grey(), transparency=51), [BLACK, WHITE, [0.4] * 3, WHITE]),
    "one colour transparent": (lambda: file(colours((9, 9, 9), (255, 0, 0)), transparency=(9, 9, 9)), [WHITE, RED]),
    "WebP with alpha": (
        lambda: file(colours((0, 0, 0, 0), HALF_RED, mode="RGBA"), "WEBP", lossless=True, exact=True),
        [WHITE, PINK],
    ),
    "BMP": (lambda: file(colours((255, 0, 0), (0, 51, 102)), "BMP"), [RED, [0, 0.2, 0.4]]),
    "TIFF in CMYK": (lambda: file(colours((0, 255, 255, 0), (0, 0, 0, 255), mode="CMYK"), "TIFF"), [RED, BLACK]),
}
files = pytest.mark.parametrize("made, expected", FILES.values(), ids=FILES)


@files
def test_a_file(made, expected, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(made().read())
    opened = Image.open(made())
    for given in (str(path), path, opened, images.read(made()), [path], iter((str(path),))):
        found = images.to_unit(given)
        assert found.dtype == torch.float32 and found.ndim == 4 and len(found) == 1
        torch.testing.assert_close(
            torch.tensor(rows(found)), torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0
        )
    in_grey = [[sum(w * v for w, v in zip(GREY, pixel, strict=True))] for pixel in expected]
    torch.testing.assert_close(torch.tensor(rows(images.to_unit(path, 1))), torch.tensor(in_grey), atol=1e-6, rtol=0)
    assert images.to_unit(path, None).shape[1] == (1 if opened.mode[0] in "1LIF" else 3)
    assert torch.equal(images.to_model(path), images.to_unit(path) * 2 - 1)


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_jpeg(mode):
    """Lossy, so in one colour, and nearly."""
    colour = {"CMYK": (0, 255, 255, 0), "RGB": (255, 0, 0), "L": 102}[mode]
    found = images.to_unit(Image.open(file(Image.new(mode, (16, 16), colour), "JPEG")))
    expected = torch.tensor([0.4] * 3 if mode == "L" else [1.0, 0, 0]).view(1, 3, 1, 1)
    torch.testing.assert_close(found, expected.expand(1, 3, 16, 16), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind, orientation, tmp_path):
    """A red corner at the upper left of what a viewer shows, 32 wide and 16 high."""
    shown = Image.new("RGB", (32, 16), "white")
    shown.paste((255, 0, 0), (0, 0, 16, 8))
    turn = Image.Transpose
    back = [None, None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE, turn.ROTATE_90]
    back = [*back, turn.TRANSVERSE, turn.ROTATE_270][orientation]
    stored = shown if back is None else shown.transpose(back)
    exif = stored.getexif()
    exif[0x0112] = orientation
    how = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    path = tmp_path / "x"
    path.write_bytes((stream := file(stored, kind, exif=exif, **how)).read())
    for given in (path, Image.open(stream), images.read(path), [Image.open(stream)]):
        found = images.to_unit(given)
        assert found.shape == (1, 3, 16, 32)
        torch.testing.assert_close(found, images.to_unit(shown), atol=0.05, rtol=0)


PILS = {
    "1": (lambda: grey("1", [0, 255, 255, 0]), [BLACK, WHITE, WHITE, BLACK]),
    "I;16B": (lambda: Image.frombytes("I;16B", (2, 1), b"\x33\x33\xff\xff"), [[0.2] * 3, WHITE]),
    "RGBa": (lambda: colours(HALF_RED, mode="RGBA").convert("RGBa"), [PINK]),
    "La": (lambda: colours((0, 102), mode="LA").convert("La"), [[0.6] * 3]),
    "PA": (lambda: palette().convert("PA"), [RED, BLUE]),
    "HSV": (lambda: colours((0, 255, 255), mode="HSV"), [RED]),
    "RGBX": (lambda: colours((255, 0, 0, 7), mode="RGBX"), [RED]),
    "YCbCr": (lambda: colours((102, 128, 128), mode="YCbCr"), [[0.4] * 3]),
}


@pytest.mark.parametrize("made, expected", PILS.values(), ids=PILS)
def test_a_mode_of_pil(made, expected):
    torch.testing.assert_close(
        torch.tensor(rows(images.to_unit(made()))), torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "ground, expected", [("black", [0.4, 0, 0]), ((0, 255, 0), [0.4, 0.6, 0]), ("#0000ff", [0.4, 0, 0.6])]
)
def test_transparency_lies_on_a_ground(ground, expected):
    pil = colours(HALF_RED, mode="RGBA")
    array = np.array(pil)
    tensor = torch.from_numpy(array).movedim(-1, 0)
    for given in (pil, array, array / 255, tensor, tensor / 255, tensor[None], [pil], array[None]):
        found = images.to_unit(given, 3, ground)
        torch.testing.assert_close(torch.tensor(rows(found)), torch.tensor([expected]))
        in_grey = sum(w * v for w, v in zip(GREY, expected, strict=True))
        torch.testing.assert_close(images.to_unit(given, 1, ground), torch.full((1, 1, 1, 1), in_grey))
    assert rows(images.to_uint8(pil, 4)) == [list(HALF_RED)]  # for a network that takes alpha


ARRAYS = {
    "bool": (np.array([[False, True]]), [[0], [1]]),
    "uint8": (np.array([[0, 51]], np.uint8), [[0], [0.2]]),
    "uint16": (np.array([[0, 13107]], np.uint16), [[0], [0.2]]),
    "uint16, big-endian": (np.array([[0, 13107]], ">u2"), [[0], [0.2]]),
    "float16": (np.array([[0, 0.25]], np.float16), [[0], [0.25]]),
    "float64": (np.array([[0, 0.2]]), [[0], [0.2]]),
    "float32, big-endian": (np.array([[0, 0.2]], ">f4"), [[0], [0.2]]),
    "(h, w, 1)": (np.array([[[0], [51]]], np.uint8), [[0], [0.2]]),
    "(h, w, 3)": (np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8), [RED, BLUE]),
    "(b, h, w, 3)": (np.array([[[[255, 0, 0], [0, 0, 255]]]], np.uint8), [RED, BLUE]),
    "mirrored": (np.array([[[0, 0, 255], [255, 0, 0]]], np.uint8)[:, ::-1], [RED, BLUE]),
}


@pytest.mark.parametrize("array, expected", ARRAYS.values(), ids=ARRAYS)
def test_arrays_and_tensors(array, expected):
    array.flags.writeable = False
    tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
    given = [array, [array], tensor if array.ndim == 2 else tensor.movedim(-1, -3)]
    for one in given:
        found = images.to_unit(one, None)
        assert found.dtype == torch.float32
        torch.testing.assert_close(torch.tensor(rows(found)), torch.tensor(expected, dtype=torch.float32))
        if len(expected[0]) == 1:
            assert torch.equal(images.to_unit(one, 3), found.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_other_precision(dtype):
    assert torch.equal(images.to_unit(torch.full((3, 2, 4), 0.25, dtype=dtype)), torch.full((1, 3, 2, 4), 0.25))


def test_what_fits_is_not_copied_and_keeps_its_gradient():
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert images.to_unit(x) is x
    images.from_model(images.to_model(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert images.to_unit(torch.zeros(1, 5, 2, 2), 5).shape == (1, 5, 2, 2)


def test_many_of_any_kind(tmp_path):
    path = tmp_path / "x.png"
    grey().save(path)
    pil, array = grey(), np.array(grey())
    tensor = torch.from_numpy(array.copy())[None]
    mixed = [path, str(path), pil, pil.convert("RGBA"), array, array / 255, tensor, tensor / 255]
    for given in (mixed, tuple(mixed), (one for one in mixed)):
        found = images.to_unit(given, 1)
        assert found.shape == (8, 1, 2, 2)
        torch.testing.assert_close(found, (tensor / 255).expand(8, 1, 2, 2))
    assert images.to_unit([torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4)]).shape == (3, 3, 4, 4)
    for empty in ([], (), iter(())):
        assert images.to_unit(empty).shape == (0, 3, 64, 64) and images.to_masks(empty).shape == (0, 1, 64, 64)
    assert images.to_unit(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8) and images.to_pil([]) == []


def test_every_byte_goes_there_and_back():
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(np.asarray(images.to_pil(array)[0]), array)
    x = images.to_model(array, 1)
    assert x.min() == -1 and x.max() == 1 and torch.equal(x, torch.from_numpy(array.copy())[None, None] / 127.5 - 1)
    assert torch.equal(images.to_uint8(images.from_model(x), 1)[0, 0], torch.from_numpy(array))
    colour = np.stack([array, array[::-1], array.T], -1)
    (again,) = images.to_pil(torch.from_numpy(colour.copy()).movedim(-1, 0))
    assert again.mode == "RGB" and np.array_equal(np.asarray(again), colour)
    for mode, channels in (("L", 1), ("RGB", 3)):
        drawn = images.to_pil(torch.zeros(2, channels, 3, 5))
        assert [(one.mode, one.size) for one in drawn] == [(mode, (5, 3))] * 2
    with pytest.raises(ValueError, match=r"1 or 3 channels, got 5 in shape \(2, 5, 3, 4\)"):
        images.to_pil(torch.zeros(2, 5, 3, 4))


def test_what_a_network_gave():
    x = torch.tensor([-3.0, -1, 0, 0.5, 1, 7])
    assert images.from_model(x).tolist() == [0, 0, 0.5, 0.75, 1, 1]
    assert images.from_model(x.half()).dtype == torch.float32
    for bad in (torch.zeros(2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), np.zeros(2), [0.0]):
        with pytest.raises(ValueError, match="expected a floating-point tensor in"):
            images.from_model(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_finite_is_no_colour(value, dtype):
    x = torch.zeros(2, 3, 4, 4, dtype=dtype)
    x[1, 2, 3, 0] = value
    for convert in (images.to_unit, images.to_model, images.to_uint8, images.to_pil, lambda x: images.fit(x, 2)):
        for given in (x, list(x), x.movedim(1, -1).float().numpy()):
            with pytest.raises(ValueError, match="NaN or infinity"):
                convert(given)
    for convert in (images.from_model, lambda x: images.to_masks(x[1, 2])):
        with pytest.raises(ValueError, match="NaN or infinity"):
            convert(x)
    with pytest.raises(ValueError, match="NaN or infinity"):
        images.to_unit(grey("F", [0, 0, 1, value]))


WRONG = {
    "[-1, 1]": (torch.tensor([[[[-1.0, 1.0]]]]), r"in \[0, 1\], got values from -1 to 1; \(x \+ 1\) / 2"),
    "0 to 255 as floats": (np.array([[0.0, 255.0]]), "from 0 to 255; .*x / 255"),
    "overshoot": (torch.tensor([[0.0, 1.01]]), "from 0 to 1.01.*clamp"),
    "int64": (np.array([[0, 255]]), "int64, which does not say its range: convert to uint8"),
    "int32": (torch.zeros(3, 4, 4, dtype=torch.int32), "int32, which does not say its range"),
    "int8": (torch.zeros(3, 4, 4, dtype=torch.int8), "int8, which does not say"),
    "complex": (torch.zeros(3, 4, 4, dtype=torch.complex64), r"\(3, 4, 4\) of torch.complex64"),
    "text": (np.array([["a", "b"]]), "array of numbers"),
    "objects": (np.array([[None]]), "array of numbers, got object"),
    "None": (None, "got NoneType"),
    "bytes": (b"abc", "got bytes"),
    "a dict": ({"image": 1}, "got dict"),
    "numbers": ([[0.5, 1.0]], "image 0: image 0: .* got float"),
    "channels last": (torch.zeros(2, 8, 8, 3), r"got 8 in shape \(2, 8, 8, 3\).*first in a tensor"),
    "channels first": (np.zeros((3, 8, 8)), "got 8 in shape .*last in an array"),
    "other channels": (torch.zeros(2, 5, 8, 8), "expected 3 channels, got 5"),
    "one axis": (torch.zeros(3), r"\(c, h, w\) or \(b, c, h, w\), got shape \(3,\)"),
    "five axes": (np.zeros((1, 1, 3, 4, 4)), r"got shape \(1, 1, 3, 4, 4\)"),
    "no pixels": (torch.zeros(2, 3, 0, 8), r"got shape \(2, 3, 0, 8\)"),
    "two sizes": ([grey(), colours((1, 2, 3))], r"one size, got 2×2 \(image 0\) and 1×1 \(image 1\), .*fit"),
    "a bad one of many": ([grey(), grey(), np.zeros((2, 2), np.int64)], "image 2: expected .*int64"),
    "negative 32 bits": (grey("I", [0, 0, 0, -1]), "16 bits, got values from -1 to 0"),
    "more than 16 bits": (grey("I", [0, 0, 0, 65536]), "16 bits, got values from 0 to 65536"),
    "floats in PIL": (grey("F", [0, 1, 2, 4095]), "from 0 to 4.1e.03"),
}


@pytest.mark.parametrize("given, says", WRONG.values(), ids=WRONG)
def test_what_is_refused(given, says):
    for convert in (images.to_unit, images.to_model, images.to_uint8, lambda x: images.fit(x, 3)):
        if "one size" not in says or convert in (images.to_unit, images.to_model):
            with pytest.raises(ValueError, match=says):
                convert(given)


def test_files_that_are_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        images.to_unit([tmp_path / "none.png"])
    (tmp_path / "page.png").write_text("<!doctype html>")
    whole = file(Image.new("RGB", (64, 64), "red")).read()
    (tmp_path / "half.png").write_bytes(whole[:90])
    (tmp_path / "empty.jpg").touch()
    for name in ("page.png", "half.png", "empty.jpg"):
        with pytest.raises(ValueError, match=f"{name} is damaged, or no image that PIL can read"):
            images.read(tmp_path / name)
    with pytest.raises(ValueError, match="image 1: .*page.png is damaged"):
        images.to_unit([grey(), str(tmp_path / "page.png")])
    with pytest.raises(IsADirectoryError if os.name == "posix" else OSError):
        images.read(tmp_path)


def test_a_home_folder_in_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    grey().save(tmp_path / "x.png")
    assert images.to_unit("~/x.png").shape == (1, 3, 2, 2)


def test_damaged_exif_turns_nothing(tmp_path):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (4, 2)).save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert images.to_unit(path).shape == (1, 3, 2, 4)


# --- masks

MASKS = {
    "bool": np.array([[False, True]]),
    "uint8 of 0 and 1": np.array([[0, 1]], np.uint8),
    "uint8 of 0 and 255": np.array([[0, 255]], np.uint8),
    "soft": np.array([[127, 128]], np.uint8),
    "int64 of 0 and 1": np.array([[0, 1]]),
    "int32 of 0 and 255": np.array([[0, 255]], np.int32),
    "uint16": np.array([[0, 65535]], np.uint16),
    "float": np.array([[0.49, 0.5]]),
    "(h, w, 1)": np.array([[[0], [1]]]),
    "colours": np.array([[[9, 9, 9], [250, 255, 255]]], np.uint8),
    "transparent": np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], np.uint8),
    "PIL 1": grey("1", [0, 255, 0, 255]).crop((0, 0, 2, 1)),
    "PIL L": grey("L", [0, 255, 0, 255]).crop((0, 0, 2, 1)),
    "PIL L of 0 and 1": grey("L", [0, 1, 0, 1]).crop((0, 0, 2, 1)),
    "PIL RGB": colours((0, 0, 0), (255, 255, 255)),
    "PIL I;16": Image.frombytes("I;16", (2, 1), b"\x00\x00\xff\xff"),
    "tensor": torch.tensor([[0.0, 1.0]]),
    "tensor bool": torch.tensor([[False, True]]),
    "tensor (b, 1, h, w)": torch.tensor([[[[0, 1]]]]),
    "tensor (b, h, w)": torch.tensor([[[0, 1]]], dtype=torch.uint8),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask(mask, tmp_path):
    for given in (mask, [mask], iter([mask])):
        found = images.to_masks(given)
        assert found.dtype == torch.float32 and found.tolist() == [[[[0, 1]]]]
    if isinstance(mask, Image.Image):
        mask.save(tmp_path / "x.png")
        assert images.to_masks(tmp_path / "x.png").tolist() == [[[[0, 1]]]]


def test_many_masks():
    batch = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    for given in (batch, batch[:, None], batch.numpy(), list(batch), list(batch.numpy()), batch.int(), batch.float()):
        assert torch.equal(images.to_masks(given), batch[:, None].float())
    assert not images.to_masks(np.zeros((4, 6), np.uint8)).any() and images.to_masks(np.ones((4, 6), int)).all()


@pytest.mark.parametrize(
    "mask, says",
    [
        (np.array([[0, 1, 2, 3]]), "from 0 to 3; x > 0"),
        (np.array([[0, 300]]), "from 0 to 300"),
        (np.array([[-1, 1]]), "from -1 to 1"),
        (grey("L", [0, 1, 2, 37]), "from 0 to 37; x > 0"),
        (np.array([[0.0, 2.0]]), r"in \[0, 1\]"),
        (torch.zeros(2, 3, 4, 4)[:, :2], None),
        ([np.zeros((2, 2)), np.zeros((2, 3))], r"one size, got 2×2 \(image 0\) and 2×3 \(image 1\)"),
        (torch.zeros(2, 5, 4, 4), "expected 1 channels, got 5"),
        (None, "got NoneType"),
    ],
)
def test_masks_that_are_none(mask, says):
    if says is None:  # grey and alpha
        assert not images.to_masks(mask).any()
        return
    with pytest.raises(ValueError, match=says):
        images.to_masks(mask)


# --- fitting


def test_the_middle_is_kept():
    array = np.zeros((4, 12), np.uint8)
    array[:, 4:8] = 255
    for given in (array, array.T):
        assert torch.equal(images.fit(given, 4), torch.ones(1, 3, 4, 4))
    assert torch.equal(images.fit(array, (2, 6), 1), images.fit(array.T, (6, 2), 1).mT)
    assert images.fit(array, (4, 8), 1)[0, 0].tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]] * 4
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images.fit(x, 5), x)


def test_resizing_does_not_alias():
    stripes = np.tile(np.array([[0, 255]], np.uint8), (64, 32))
    small = images.fit(stripes, 8, 1)
    assert small[..., 1:-1].sub(0.5).abs().max() < 0.05 and small.min() >= 0 and small.max() <= 1
    flat = images.fit(Image.new("RGB", (37, 50), (51, 102, 255)), 16)
    torch.testing.assert_close(flat, torch.tensor([0.2, 0.4, 1]).view(1, 3, 1, 1).expand(1, 3, 16, 16))
    x = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(1))
    pil = images.to_pil(x)[0].crop((10, 0, 50, 40)).resize((12, 12), Image.Resampling.BICUBIC)
    torch.testing.assert_close(images.fit(x, 12), images.to_unit(pil), atol=0.01, rtol=0)


def test_many_of_all_sizes(tmp_path):
    grey().save(tmp_path / "x.png")
    given = [tmp_path / "x.png", np.zeros((9, 4, 3)), torch.zeros(3, 5, 7), Image.new("RGBA", (30, 2))]
    assert images.fit(given, 8).shape == (4, 3, 8, 8)
    assert images.fit(iter(given), (8, 6), 1).shape == (4, 1, 8, 6)
    assert images.fit([], 8).shape == (0, 3, 8, 8)
    assert images.fit(given, np.int64(8)).shape == (4, 3, 8, 8)
    for bad in (0, -3, (8, 0)):
        with pytest.raises(ValueError, match="size of at least 1×1"):
            images.fit(given, bad)


def test_the_old_name_works_on():
    with pytest.warns(DeprecationWarning, match="minildm.tensors.to_pictures is minildm.images.to_unit now"):
        from minildm.tensors import to_pictures
    assert to_pictures is images.to_unit


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_the_programs_defaults_change_nothing(device, dtype):
    rgba = colours(HALF_RED, (0, 0, 0, 0), mode="RGBA")
    x = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))

    def everything():
        return [
            *(
                images.to_unit(one, c)
                for one in (rgba, np.array(rgba) / 255, x, x.double(), [rgba, rgba])
                for c in (1, 3)
            ),
            images.to_model(grey()),
            images.from_model(x.double()),
            images.to_uint8(x),
            images.to_masks([grey("1"), grey("I;16", [0, 0, 0, 65535])]),
            images.fit([rgba, x], 5),
            torch.from_numpy(np.array(images.to_pil(x)[0])),
            images.to_unit([]),
        ]

    expected = everything()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        found = everything()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.device.type == "cpu" and torch.equal(one, other)
