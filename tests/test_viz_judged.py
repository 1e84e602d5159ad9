"""What a judge found, drawn onto pictures."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import viz
from minildm.judge import Found


def seen(name, x0, y0, x1, y1):
    mask = np.zeros((64, 64), bool)
    mask[y0:y1, x0:x1] = True
    return Found(name, (x0, y0, x1, y1), mask)


def drawn(*pictures):
    """The figure of some pictures' objects, drawn."""
    with plt.rc_context():
        viz.style()
        figure = viz.judged(torch.rand(len(pictures), 3, 64, 64), pictures, ["a title\nof two lines"] * len(pictures))
        figure.canvas.draw()
    return figure


@pytest.fixture(autouse=True)
def no_figures_are_left():
    yield
    plt.close("all")


CROWDED = [
    [seen("owl", 50, 2, 63, 20), seen("car", 52, 4, 63, 21)],  # one upon the other, in the corner
    [seen("penguin", 12, 3, 30, 27), seen("cake", 13, 36, 36, 55)],  # a name between both
    [seen("yellow square", 1, 1, 20, 20), seen("blue heart", 1, 22, 20, 41), seen("watermelon", 1, 43, 20, 63)],
    [seen("strawberry", 0, 0, 64, 64)],  # no room around it
    [seen("bee", 60, 60, 64, 64), seen("butterfly", 0, 60, 4, 64)],
]


@pytest.mark.parametrize("objects", CROWDED, ids=lambda objects: objects[0].name)
def test_names_lie_on_no_other_name_and_in_the_picture(objects):
    (axis,) = [axis for axis in drawn(objects).axes if axis.texts]
    assert [text.get_text() for text in axis.texts] == [one.name for one in objects]
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    inside = axis.get_window_extent().padded(2)
    for box in boxes:
        assert inside.contains(*box.min) and inside.contains(*box.max)


def test_a_name_stands_above_its_object_where_it_can():
    (text,) = drawn([seen("cat", 20, 30, 40, 50)]).axes[0].texts
    x, y = text.get_position()
    assert abs(x - 29.5) < 0.1 and 24 < y < 29 and text.get_fontsize() >= 9


def test_each_picture_gets_its_own_objects_and_title():
    figure = drawn([seen("cat", 20, 30, 40, 50)], [], CROWDED[0], CROWDED[1])
    assert [len(axis.texts) for axis in figure.axes] == [1, 0, 2, 2, 0, 0]  # two rows of three
    assert [axis.get_title() for axis in figure.axes[:4]] == ["a title\nof two lines"] * 4


def test_numbers_must_agree():
    with pytest.raises(ValueError, match="each of 2 pictures, got 1 and 2"):
        viz.judged(torch.rand(2, 3, 64, 64), [[]], ["a", "b"])
