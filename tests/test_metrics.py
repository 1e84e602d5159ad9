import numpy as np
import pytest

from minildm.metrics import average_precision, border_f1, dice


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
