import numpy as np
import pytest
import torch

from minildm.data.augment import Crops, elastic_grid, sample


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(h, w):
    """A picture whose values tell where they come from: x + 1000 y."""
    y, x = np.indices((h, w))
    return (x + 1000 * y).astype(np.float32)


def test_straight_grid_is_the_identity():
    grid = elastic_grid(rng(), 2, 6, bend=0, turn=False, zoom=0)
    assert torch.equal(grid[0, 0, 0], torch.tensor([-2.5, -2.5])) and torch.equal(
        grid[1, 1, 5], torch.tensor([2.5, -1.5])
    )
    maps = torch.from_numpy(ramp(9, 11))[None]
    middle = sample(maps, grid + torch.tensor([5.5, 4.5]))
    assert torch.equal(middle[1], maps[:, 2:8, 3:9])


def test_turning_keeps_distances_and_bending_does_not():
    def steps(grid):  # lengths of the steps from pixel to pixel
        return (grid[:, :, 1:] - grid[:, :, :-1]).norm(dim=-1)

    assert (steps(elastic_grid(rng(), 5, 32, bend=0, zoom=0)) - 1).abs().max() < 1e-4
    bent = steps(elastic_grid(rng(), 5, 32, bend=3.0, zoom=0))
    assert bent.std() > 0.05 and bent.min() > 0


def test_zoom_changes_the_size_by_at_most_its_factor():
    grid = elastic_grid(rng(), 100, 4, bend=0, turn=False, zoom=0.5)
    factors = grid[:, 0, 1, 0] - grid[:, 0, 0, 0]
    assert 0.6 < factors.min() < 0.7 and 1.5 < factors.max() < 1.65  # exp(±0.5)


def test_half_of_the_grids_are_mirrored():
    g = elastic_grid(rng(), 200, 4, bend=0, zoom=0)
    right, down = g[:, 0, 1] - g[:, 0, 0], g[:, 1, 0] - g[:, 0, 0]
    orientation = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]
    assert torch.allclose(orientation.abs(), torch.ones(200), atol=1e-4)
    assert 70 < (orientation < 0).sum() < 130


def test_sample_mirrors_beyond_the_edge():
    maps = torch.tensor([[[1.0, 2.0, 3.0]]])
    points = torch.tensor([[[[-1.0, 0.0], [3.0, 0.0], [0.4, 0.0]]]])
    assert sample(maps, points).tolist() == [[[[1.0, 3.0, 1.0]]]]
    assert sample(maps, points, "bilinear").flatten().tolist() == pytest.approx([1.0, 3.0, 1.4])


def test_all_maps_of_a_crop_come_from_the_same_place():
    piece = {"depth": ramp(40, 60), "image": ramp(40, 60), "weight": ramp(40, 60) + 0.5}
    tensors = Crops([piece], size=16, light=0, zoom=0)(rng(), 7)
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {
        "image": (7, 1, 16, 16), "depth": (7, 16, 16), "weight": (7, 16, 16)
    }  # fmt: skip
    assert torch.equal(tensors["weight"], tensors["depth"] + 0.5)
    # bilinear against nearest: at most half a pixel apart in x and in y
    assert (tensors["image"][:, 0] - tensors["depth"]).abs().quantile(0.95) <= 0.5 * 1001


def test_nothing_of_another_piece_is_seen():
    pieces = [{"image": np.full((50, 30), value, np.float32)} for value in (1.0, 3.0)]
    tensors = Crops(pieces, size=24, light=0)(rng(), 40)
    assert all(one.max() - one.min() < 1e-5 for one in tensors["image"])
    assert {round(v) for v in tensors["image"].unique().tolist()} == {1, 3}


def test_larger_pieces_are_drawn_oftener_and_small_ones_are_mirrored_around():
    pieces = [{"image": np.full(shape, value, np.float32)} for shape, value in [((90, 30), 1.0), ((10, 30), 0.0)]]
    share = Crops(pieces, size=16, light=0)(rng(), 600)["image"][:, 0, 0, 0].mean()
    assert 0.85 < share < 0.95


def test_the_same_generator_gives_the_same_batch_and_light_changes_the_picture_alone():
    piece = {"image": ramp(30, 30) / 3e4, "depth": ramp(30, 30)}
    crops = Crops([piece], size=8)
    one, two, other = crops(rng(1), 3), crops(rng(1), 3), crops(rng(2), 3)
    assert all(torch.equal(one[k], two[k]) for k in one) and not torch.equal(one["image"], other["image"])
    dark = Crops([piece], size=8, light=0)(rng(1), 3)
    assert torch.equal(dark["depth"], one["depth"]) and not torch.equal(dark["image"], one["image"])


def test_colour_and_pieces_of_several_sizes():
    def piece(h, w, value):
        grey = ramp(h, w)
        return {"weight": grey, "image": np.stack([grey, grey + 5e5, np.full((h, w), value)], -1), "depth": grey}

    pieces = [piece(30, 40, 1.0), piece(64, 20, 3.0), piece(12, 12, 5.0)]
    tensors = Crops(pieces, size=16, light=0, zoom=0)(rng(), 60)
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {
        "image": (60, 3, 16, 16), "depth": (60, 16, 16), "weight": (60, 16, 16)
    }  # fmt: skip
    red, green, blue = tensors["image"].unbind(1)
    assert torch.equal(tensors["depth"], tensors["weight"])
    assert (green - red - 5e5).abs().max() < 1 and {round(v) for v in blue.unique().tolist()} == {1, 3, 5}
    assert (red - tensors["depth"]).abs().quantile(0.95) <= 0.5 * 1001
    lit = Crops(pieces, size=16)(rng(), 60)["image"]
    assert lit.shape == (60, 3, 16, 16) and not torch.equal(lit, tensors["image"])


def test_grey_crops_are_those_of_one_channel_of_colour():
    image = ramp(40, 50) / 4e4
    colour = np.stack([image, -image, image], -1)
    grey, colour = (Crops([{"image": x, "depth": image}], size=16, light=0)(rng(3), 5) for x in (image, colour))
    assert torch.equal(grey["image"][:, 0], colour["image"][:, 2]) and torch.equal(grey["depth"], colour["depth"])


@pytest.mark.parametrize(
    "pieces, says",
    [
        ([{"image": ramp(4, 5), "depth": ramp(5, 4)}], r"in piece 0 an image of \(4, 5\), \{'depth': \(5, 4\)\}"),
        ([{"image": ramp(4, 5)}, {"image": np.zeros((4, 5, 3))}], "all grey .* or all in colour"),
        ([{"image": ramp(4, 5)}, {"image": np.zeros((4, 5, 4))}], r"in piece 1 an image of \(4, 5, 4\)"),
        ([{"image": np.zeros((4, 5, 3)), "depth": np.zeros((4, 5, 3))}], "maps .* of its size"),
        ([{"image": np.zeros(4)}], "in piece 0"),
        ([{"image": np.zeros((0, 4))}], "in piece 0"),
    ],
)
def test_pieces_must_fit(pieces, says):
    with pytest.raises(ValueError, match=says):
        Crops(pieces)


@pytest.mark.parametrize(
    "pieces", [[], [{"depth": ramp(4, 4)}], [{"image": ramp(4, 4)}, {"image": ramp(4, 4), "a": ramp(4, 4)}]]
)
def test_pieces_must_agree(pieces):
    with pytest.raises(ValueError, match="the same names, one of them 'image'"):
        Crops(pieces)
