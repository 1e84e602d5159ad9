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


@pytest.mark.parametrize("mask", [np.zeros((2, 3, 4), int), np.zeros((3, 4)), np.full((3, 4), -1)])
def test_labels_are_checked(mask):
    for function in (depth, border_weights):
        with pytest.raises(ValueError, match="expected labels"):
            function(mask)
