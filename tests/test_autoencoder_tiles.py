"""Tiles against the whole."""

import numpy as np
import pytest
import torch
from compare import assert_equal, random, randomized
from test_autoencoder import SMALL

from minildm.autoencoder import (
    AutoencoderKL,
    tiled_decode,
    tiled_encode,
)

TILED = [
    (dict(channels=(12, 24), blocks_per_level=1, groups=6), (22, 30), 12),
    (dict(channels=(6, 8, 12), blocks_per_level=(0, 1, 1), groups=2), (17, 14), 16),
    (dict(channels=(8, 12), blocks_per_level=1, patch=2), (19, 26), 8),
]


@pytest.mark.parametrize(("config", "size", "tile"), TILED, ids=["two levels", "three levels", "patches"])
def test_tiles_equal_the_whole(config, size, tile):
    model = randomized(AutoencoderKL(3, 5, **config))
    f, half = model.multiple, size[1] // 2
    uneven = torch.linspace(0, 2, size[1])  # its two halves have other statistics
    x, z = random(2, 3, size[0] * f, size[1] * f), random(2, 5, *size, seed=2) * uneven
    x = x * uneven.repeat_interleave(f)
    with torch.no_grad():
        encoded, whole = model.encode(x), model.decode(z)
        found = tiled_encode(model, x, tile)
        assert_equal(tiled_decode(model, z, tile), whole)
        part = model.decode(z[..., :half])
        assert (part - whole[..., : half * f])[..., : half * f // 2].abs().max() > 1e-3  # it is not done by cutting
    assert_equal(found.mean, encoded.mean)
    assert_equal(found.logvar, encoded.logvar)
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]  # all is as it was


def test_tiles_bound_the_maps():
    """The largest map is that of a tile, however large the picture."""
    model = randomized(AutoencoderKL(3, 5, (8, 12), groups=2))
    largest = {}

    def note(layer, args, y):
        largest[layer] = max(largest.get(layer, 0), y.shape[2] * y.shape[3])

    for layer in (model.encoder.stem, model.decoder.head):
        layer.register_forward_hook(note)
    found = []
    for width in (20, 40):
        largest.clear()
        tiled_encode(model, random(1, 3, 36, 2 * width), 8)
        tiled_decode(model, random(1, 5, 18, width), 8)
        found.append(list(largest.values()))
        assert max(found[-1]) < 36 * 40 / 2
    assert found[0] == found[1]


def test_small_pictures_are_not_tiled():
    model = randomized(AutoencoderKL(**SMALL))
    calls = []
    model.decoder.head.register_forward_hook(lambda *_: calls.append(1))
    model.encoder.stem.register_forward_hook(lambda *_: calls.append(1))
    x, z = random(2, 3, 16, 12), random(2, 5, 4, 3)
    with torch.no_grad():
        assert torch.equal(tiled_encode(model, x).mean, model.encode(x).mean)
        assert torch.equal(tiled_decode(model, z), model.decode(z))
    assert len(calls) == 4


def test_tiles_leave_no_hooks_behind_after_an_error():
    model = AutoencoderKL(**SMALL)

    def fail(*_):
        raise RuntimeError("on purpose")

    broken = model.decoder.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        tiled_decode(model, random(1, 5, 12, 9), 8)
    broken.remove()
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_an_empty_batch_in_tiles():
    model = AutoencoderKL(**SMALL)
    for size in (8, 64):  # small enough to be whole, and not
        x, z = torch.zeros(0, 3, size, size), torch.zeros(0, 5, size // 4, size // 4)
        assert tiled_encode(model, x, 8).mean.shape == model.encode(x).mean.shape == z.shape
        assert tiled_decode(model, z, 8).shape == model.decode(z).shape == x.shape


@pytest.mark.parametrize("tile", [0, -4, 512.0, "512", None])
def test_a_tile_is_a_whole_number_of_pixels(tile):
    model = AutoencoderKL(**SMALL)
    for call in (
        lambda: tiled_encode(model, torch.zeros(1, 3, 8, 12), tile),
        lambda: tiled_decode(model, torch.zeros(1, 5, 9, 12), tile),
    ):
        with pytest.raises(ValueError, match=f"whole tile of at least 1 pixel, got {tile!r}"):
            call()
    x = random(1, 3, 24, 32)
    assert torch.equal(tiled_encode(model, x, np.int64(8)).mean, tiled_encode(model, x, 8).mean)
