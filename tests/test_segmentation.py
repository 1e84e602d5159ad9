import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from minildm import UNet, metrics
from minildm.segmentation import (
    border_weights,
    classical,
    depth,
    instances,
    normalise,
    predict,
    segment,
    segmentation_loss,
)
from minildm.tensors import seeded


def discs(*circles, shape=(60, 84)):
    """Labels with a disc for each (y, x, radius)."""
    labels = np.zeros(shape, np.int32)
    y, x = np.indices(shape)
    for label, (cy, cx, r) in enumerate(circles, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= r**2] = label
    return labels


TOUCHING = discs((20, 20, 9), (20, 38, 9), (45, 60, 11), (10, 70, 6))


def test_depth_by_hand():
    mask = np.zeros((7, 9), int)
    mask[1:6, 2:7] = 4  # a square of side 5: its middle lies three pixels from the nearest pixel outside
    d = depth(mask, scale=2.0)
    assert d[3, 4] == pytest.approx(np.tanh(1.5)) and d[1, 2] == pytest.approx(np.tanh(0.5)) and d[0, 0] == 0
    assert d.dtype == np.float32 and d.shape == (7, 9)


def test_depth_is_of_each_instance_alone():
    mask = np.zeros((5, 8), int)
    mask[:, :4], mask[:, 4:] = 3, 9  # two that touch, and touch the edge of the picture
    assert (depth(mask)[:, 3:5] == np.float32(np.tanh(1 / 8))).all()


def test_border_weights_by_hand():
    mask = np.zeros((1, 9), int)
    mask[0, 0], mask[0, 8] = 1, 2
    w = border_weights(mask, w_0=10, sigma=5)
    assert w[0, 4] == pytest.approx(1 + 10 * np.exp(-(8**2) / 50))  # d_1 = d_2 = 4
    assert w[0, 0] == pytest.approx(1 + 10 * np.exp(-(8**2) / 50))  # d_1 = 0, d_2 = 8
    assert (border_weights(mask // 2) == 1).all() and (border_weights(mask * 0) == 1).all()  # no two, no border


def test_border_weights_equal_the_formula_with_all_distances():
    every = np.sort([distance_transform_edt(label != TOUCHING) for label in (1, 2, 3, 4)], axis=0)
    expected = 1 + 3 * np.exp(-((every[0] + every[1]) ** 2) / (2 * 4**2))
    assert np.abs(border_weights(TOUCHING, 3, 4) - expected).max() < 1e-5


def test_normalise_is_the_same_for_every_type_and_scale():
    image = np.random.default_rng(0).integers(0, 200, (40, 50))
    x = normalise(image.astype(np.uint8))
    assert x.min() == -1 and x[image >= np.percentile(image, 95)].min() >= 1 and x.dtype == np.float32
    for other in (image.astype(np.uint16) * 300, image / 255, image.astype(np.int32) - 1000, image.astype(">f4")):
        assert np.abs(normalise(other) - x).max() < 1e-4
    assert (normalise(np.full((4, 4), 7)) == -1).all()


def test_normalise_by_hand():
    image = np.arange(101.0)[None]
    x = normalise(image)[0]
    assert x[1] == -1 and x[95] == pytest.approx(1)
    assert x[48] == pytest.approx(2 * np.arcsinh(5 * 47 / 94) / np.arcsinh(5) - 1)
    spot = np.zeros((10, 20))
    spot[5, 5] = 9  # one bright pixel in pure black
    assert normalise(spot)[5, 5] == 1 and (normalise(spot) == -1).sum() == 199


@pytest.mark.parametrize(
    "image, says",
    [
        (np.zeros((3, 4, 4)), r"\(h, w\) of numbers, got shape \(3, 4, 4\)"),
        (np.zeros((0, 4)), "got shape"),
        (np.full((4, 4), np.nan), "np.nan_to_num"),
        (np.zeros((4, 4), complex), "complex"),
    ],
)
def test_normalise_says_what_it_needs(image, says):
    with pytest.raises(ValueError, match=says):
        normalise(image)


def test_loss_is_least_for_the_truth_and_borders_cost_more():
    target = torch.from_numpy(depth(TOUCHING))[None]
    weight = torch.from_numpy(border_weights(TOUCHING))[None]

    def loss_of(logit, deep, weight=weight):
        tensors = {"image": None, "depth": target, "weight": weight}
        return segmentation_loss(lambda image: torch.stack([logit, deep], 1), tensors)

    right = torch.where(target > 0, 20.0, -20.0)
    assert loss_of(right, target) < 1e-6
    seam, far = right.clone(), right.clone()
    seam[0, 20, 29] *= -1  # between the two that touch
    far[0, 58, 2] *= -1
    assert loss_of(seam, target) > 5 * loss_of(far, target) > 0
    # by hand: one pixel of 5 040 whose depth is 0.3 wrong costs 2 (0.3 - 0.05)
    off = target.clone()
    off[0, 58, 2] += 0.3
    assert loss_of(right, off, torch.ones_like(weight)).item() == pytest.approx(0.5 / TOUCHING.size, rel=1e-4)


def test_instances_come_back_from_perfect_maps():
    found = instances(TOUCHING > 0, depth(TOUCHING))
    assert metrics.average_precision(TOUCHING, found, 0.9) == 1
    assert found.dtype == np.int32 and sorted(np.unique(found)) == [0, 1, 2, 3, 4]


def test_instances_drop_specks_and_may_find_nothing():
    mask = discs((20, 20, 8), (45, 60, 2))  # the second has 13 pixels
    assert instances(mask > 0, depth(mask)).max() == 1
    assert instances(np.zeros((8, 9)), np.zeros((8, 9))).max() == 0


@pytest.fixture(scope="module")
def network():
    with seeded(0):
        return UNet(1, 2, (4, 8, 8)).eval()


def test_segment_keeps_any_size_and_the_mode(network):
    image = np.random.default_rng(0).integers(0, 60000, (37, 50)).astype(np.uint16)
    for mode in (True, False):
        network.train(mode)
        labels = segment(network, image)
        assert labels.shape == (37, 50) and labels.dtype == np.int32 and network.training == mode
    assert segment(network, image[:1, :5]).shape == (1, 5)


def test_predict_averages_views_that_agree_on_the_picture():
    class Position(torch.nn.Module):
        """Answers with the brightness of the pixel itself: then all views must fit together exactly."""

        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return torch.cat([x, 2 * x], 1)

    image = np.random.default_rng(1).normal(size=(13, 22))
    for views in (1, 4, 8):
        foreground, deep = predict(Position(), image, views)
        assert np.abs(deep - 2 * normalise(image)).max() < 1e-5
        assert np.abs(foreground - 1 / (1 + np.exp(-normalise(image)))).max() < 1e-5
    with pytest.raises(ValueError, match="views must be 1, 4 or 8, got 3"):
        predict(Position(), image, 3)


def test_predict_repeats_the_edge_outwards():
    class Above(torch.nn.Module):
        """Says of each pixel what lies three rows above it."""

        def forward(self, x):
            return x.roll(3, dims=2).repeat(1, 2, 1, 1)

    image = np.zeros((12, 10))
    image[3] = 5
    _, deep = predict(Above(), image, 1)
    assert (deep[6] == 1).all() and (np.delete(deep, 6, axis=0) == -1).all()  # a mirror would show it in row 0 too


def test_predict_sees_eight_views(network):
    image = np.random.default_rng(1).normal(size=(16, 24))
    turned = predict(network, np.rot90(image).copy(), margin=16)
    assert np.abs(np.rot90(predict(network, image), axes=(1, 2)) - turned).max() < 1e-5
    assert np.abs(predict(network, image, 1) - predict(network, image, 8)).max() > 1e-4


def test_segment_refuses_a_network_with_other_outputs():
    with pytest.raises(ValueError, match="2 outputs, foreground and depth, got 3"):
        segment(UNet(1, 3, (4,)), np.zeros((8, 8)))


def test_classical_finds_discs():
    image = 20 + 100.0 * (TOUCHING > 0) + np.random.default_rng(0).normal(0, 3, TOUCHING.shape)
    for block in (0, 101):
        assert metrics.average_precision(TOUCHING, classical(image, block), 0.5) == 1


def test_classical_needs_a_grey_image():
    with pytest.raises(ValueError, match=r"grey image \(h, w\), got shape \(8, 8, 3\).*mean"):
        classical(np.zeros((8, 8, 3)))


@pytest.mark.parametrize("offset", [0.0, 2.0**31, -(2.0**31), 2.0**40, 1e9])
def test_normalise_does_not_mind_a_large_offset(offset):
    image = np.random.default_rng(0).integers(0, 100, (32, 32)) / 4
    assert np.abs(normalise(image + offset) - normalise(image)).max() < 1e-5


@pytest.mark.parametrize("lowest, dtype", [(2**63 - 200, np.int64), (-(2**63), np.int64), (2**64 - 200, np.uint64)])
def test_normalise_is_exact_for_the_largest_integers(lowest, dtype):
    image = np.random.default_rng(0).integers(0, 200, (32, 32))
    large = np.array([lowest + value for value in image.ravel().tolist()], dtype).reshape(image.shape)
    assert np.array_equal(normalise(large), normalise(image))


@pytest.mark.parametrize("scale", [1e300, -1e300, 1e-300, 1e-318, 1.7e308])
def test_normalise_takes_any_finite_range(scale):
    image = np.random.default_rng(0).integers(-100, 101, (32, 32)) / 100
    assert np.abs(normalise(image * scale) - normalise(image * np.sign(scale))).max() < 1e-3  # 1e-318 has few digits


def test_normalise_stays_finite_where_one_value_is_off_the_scale():
    image = np.random.default_rng(0).random((32, 32))
    for outlier in (1e300, 1.7e308, -1e300):
        image[3, 4] = outlier
        assert np.isfinite(normalise(image)).all()
    assert (normalise(np.full((3, 4), True)) == -1).all() and normalise(np.eye(30, dtype=bool)).max() == 1


def test_normalise_keeps_the_channels_of_a_colour_image_in_proportion():
    grey = np.random.default_rng(0).integers(0, 200, (30, 40)).astype(np.uint8)
    same = np.stack([grey] * 3, -1)
    assert np.abs(normalise(same) - normalise(grey)[..., None]).max() < 0.01  # the quantiles of as many values thrice
    x = normalise(np.stack([grey, grey, grey // 4], -1))
    assert x.shape == (30, 40, 3) and x[..., 2].mean() < x[..., 0].mean() - 0.5
    for shape in ((4, 4, 4), (4, 4, 1), (4, 4, 2), (1, 4, 4, 3)):
        with pytest.raises(ValueError, match=r"colour \(h, w, 3\) or grey \(h, w\)"):
            normalise(np.zeros(shape))


def test_instances_where_the_foreground_fills_the_image():
    for height in (0.3, 1.0):
        assert (instances(np.ones((40, 50)), np.full((40, 50), height)) == 1).all()
    assert (instances(np.ones((40, 50)), depth(np.ones((40, 50), int))) == 1).all()


@pytest.mark.parametrize(
    "foreground, deep, says",
    [
        (np.ones((4, 5)), np.ones((5, 4)), r"one shape \(h, w\), got \(4, 5\) and \(5, 4\)"),
        (np.ones((2, 4, 5)), np.ones((2, 4, 5)), "one shape"),
        (np.full((4, 5), np.nan), np.ones((4, 5)), "finite maps"),
        (np.ones((4, 5)), np.full((4, 5), np.inf), "finite maps"),
    ],
)
def test_instances_say_what_they_need(foreground, deep, says):
    with pytest.raises(ValueError, match=says):
        instances(foreground, deep)


def test_predict_puts_back_the_mode_of_each_part(network):
    parts = {"all": network.train()}
    network.middle.eval()
    network.down[1].eval()
    modes = [part.training for part in parts["all"].modules()]
    assert len(set(modes)) == 2
    predict(network, np.random.default_rng(0).random((8, 8)), 1)
    assert [part.training for part in network.modules()] == modes
    with pytest.raises(ValueError, match="finite intensities"):
        predict(network, np.full((8, 8), np.nan))
    handle = network.head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(network, np.zeros((8, 8)), 1)
    handle.remove()
    assert [part.training for part in network.modules()] == modes
    network.eval()


def test_a_network_of_colour_segments_colour_and_grey():
    with seeded(0):
        network = UNet(3, 2, (4, 8)).eval()
    grey = np.random.default_rng(0).integers(0, 200, (21, 30)).astype(np.uint16)
    colour = np.stack([grey, grey[::-1], grey[:, ::-1]], -1)
    assert segment(network, colour).shape == (21, 30)
    foreground, deep = predict(network, colour)
    assert foreground.shape == deep.shape == (21, 30)
    turned = predict(network, np.rot90(colour).copy())
    assert np.abs(np.rot90(np.stack([foreground, deep]), axes=(1, 2)) - turned).max() < 1e-5
    assert np.array_equal(predict(network, grey), predict(network, np.stack([grey] * 3, -1)))
    assert np.abs(predict(network, grey) - predict(network, colour)).max() > 1e-4


def test_a_network_of_grey_takes_colour_only_where_there_is_none(network):
    grey = np.random.default_rng(0).integers(0, 200, (16, 20)).astype(np.uint8)
    assert np.array_equal(predict(network, np.stack([grey] * 3, -1)), predict(network, grey))
    with pytest.raises(ValueError, match=r"1 input channels, got one of 3: make it grey by image.mean\(-1\)"):
        segment(network, np.stack([grey, grey, grey // 2], -1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_with_damaged_weights_finds_not_nothing_but_an_error(value):
    with seeded(0):
        network = UNet(1, 2, (4,))
    with torch.no_grad():
        network.head.bias.fill_(value)
    with pytest.raises(ValueError, match="not finite numbers: its weights are damaged"):
        segment(network, np.zeros((8, 8)))


def test_predict_in_half_precision(network):
    image = np.random.default_rng(0).random((16, 16))
    whole = predict(network, image)
    half = predict(network.to(torch.bfloat16), image)
    network.float()
    assert half.dtype == np.float32 and np.abs(half - whole).max() < 0.1
