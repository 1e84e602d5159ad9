import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from minildm.metrics import average_precision, border_f1, dice, kernel_distance


def square(*corners, shape=(12, 20)):
    """Labels with one square of side 4 for each top left corner."""
    labels = np.zeros(shape, np.int32)
    for label, (y, x) in enumerate(corners, start=1):
        labels[y : y + 4, x : x + 4] = label
    return labels


def test_dice_by_hand():
    a, b = square((2, 2)), square((2, 3))  # 16 pixels each, 12 shared
    assert dice(a, b) == pytest.approx(2 * 12 / 32)
    assert dice(a, a * 7) == 1  # labels count as foreground, whatever their numbers
    assert dice(a, square((8, 8))) == 0
    assert dice(a * 0, a * 0) == 1 and dice(a, a * 0) == 0


def test_average_precision_by_hand():
    true = square((0, 0), (0, 8), (6, 14))
    pred = square((0, 1), (0, 8), (7, 2))  # IoU 12/20 with the first, 1 with the second, one invented
    assert average_precision(true, pred, 0.5) == pytest.approx(2 / 4)
    assert average_precision(true, pred, 0.75) == pytest.approx(1 / 5)
    assert average_precision(true, true * 3, 0.9) == 1


def test_border_f1_by_hand():
    a = square((2, 2))
    assert border_f1(a, a) == 1
    assert border_f1(a, square((2, 3))) == 1  # no outline pixel is further than one pixel away
    # moved by 3: the outline of a has 12 pixels, of which the 4 of the right side touch b's left side
    moved = border_f1(a, square((2, 5)), tolerance=0)
    assert moved == pytest.approx(4 / 12)
    assert border_f1(a, a * 0) == 0 and border_f1(a * 0, a * 0) == 1


def test_border_f1_sees_the_line_between_touching_instances():
    one, two = np.zeros((8, 10), int), np.zeros((8, 10), int)
    one[2:6, 1:9] = 1
    two[2:6, 1:5], two[2:6, 5:9] = 1, 2
    assert dice(one, two) == 1
    # one outline has 20 pixels, all of them among the 24 of two
    assert border_f1(two, one, tolerance=0) == pytest.approx(40 / 44)


@pytest.mark.parametrize("metric", [dice, average_precision, border_f1])
def test_refuses_masks_of_two_shapes(metric):
    with pytest.raises(ValueError, match=r"one shape \(h, w\), got \(4, 6\) and \(6, 4\)"):
        metric(np.zeros((4, 6), int), np.zeros((6, 4), int))


def draw(n, seed, shift=0.0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_kernel_distance_equals_the_reference_on_sets_of_one_size():
    made, real = draw(40, 1, 0.5), draw(40, 2)
    real = (real - real.mean(0)) / real.std(0)
    assert kernel_distance(made, real) == pytest.approx(float(poly_mmd(made, real)), rel=1e-9)


def test_kernel_distance_of_two_by_hand():
    # In one dimension, real -1 and 1 are standardised to -r and r, r = 1/sqrt(2); made are 3r and 3r.
    r = 0.5**0.5
    opposite = (1 - r * r) ** 3
    assert kernel_distance(3 * torch.ones(2, 1), torch.tensor([[-1.0], [1.0]])) == pytest.approx(
        (9 * r * r + 1) ** 3 + opposite - (3 * r * r + 1) ** 3 - (1 - 3 * r * r) ** 3
    )


def test_kernel_distance_knows_neither_unit_nor_origin_of_a_feature():
    made, real = draw(30, 1, 0.3), draw(20, 2)
    assert kernel_distance(made * 7 - 4, real * 7 - 4) == pytest.approx(kernel_distance(made, real), rel=1e-9)


def test_kernel_distance_is_about_zero_for_one_distribution_and_grows_with_the_shift():
    same = [kernel_distance(draw(60, k), draw(80, 100 + k)) for k in range(20)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 20**0.5 and min(same) < 0
    assert kernel_distance(draw(60, 1, 0.5), draw(80, 2)) > 5 * np.std(same)
    assert kernel_distance(draw(60, 1, 1.0), draw(80, 2)) > kernel_distance(draw(60, 1, 0.5), draw(80, 2))


@pytest.mark.parametrize("made, real", [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4, 3)), ((4, 3), (1, 3))])
def test_kernel_distance_refuses_what_it_cannot_compare(made, real):
    with pytest.raises(ValueError, match="at least two pictures each"):
        kernel_distance(torch.zeros(made), torch.zeros(real))
