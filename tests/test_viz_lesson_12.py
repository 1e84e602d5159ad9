import numpy as np
import pytest

from minildm import viz
from minildm.metrics import Interval


@pytest.fixture(autouse=True)
def closed():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    yield
    plt.close("all")


def words(figure):
    return {text.get_text() for axis in figure.axes for text in axis.texts}


def test_pairs_stand_in_rows_with_their_outlines():
    mask = np.zeros((8, 8), int)
    mask[2:5, 2:6] = 1
    figure = viz.annotated({"real": [(np.ones((8, 8)), mask)] * 3, "painted": [(np.zeros((8, 8)), mask * 0)] * 2}, "t")
    assert len(figure.axes) == 6 and [figure.axes[k].get_ylabel() for k in (0, 3)] == ["real", "painted"]
    assert len(figure.axes[0].collections) == 1 and not figure.axes[3].collections
    assert figure.axes[0].images[0].get_clim() == figure.axes[4].images[0].get_clim()


def test_boxes_lie_where_the_pieces_are():
    boxes = {"small": [np.s_[2:5, 3:7], np.s_[0:3, 0:4]], "large": [np.s_[0:8, 0:9]]}
    figure = viz.places(np.zeros((8, 9)), np.ones((8, 3)), boxes)
    shade, first, _ = figure.axes[0].patches
    assert (shade.get_x(), shade.get_width()) == (8.5, 3) and first.get_xy() == (2.5, 1.5)
    assert (first.get_width(), first.get_height()) == (4, 3) and {"0", "1", "test: never seen"} <= words(figure)


def test_each_box_has_a_colour_and_its_number_at_the_corner():
    boxes = [np.s_[2:5, 3:7], np.s_[0:3, 0:4]]
    (axis,) = viz.places(np.zeros((8, 9)), np.ones((8, 3)), {"small": boxes}).axes
    _, *frames = axis.patches
    _, *numbers = axis.texts
    assert (
        [text.get_position() for text in numbers] == [frame.get_xy() for frame in frames] == [(2.5, 1.5), (-0.5, -0.5)]
    )
    assert len({frame.get_edgecolor() for frame in frames}) == 2


def test_a_line_joins_the_arms_of_one_clinic():
    rows = [
        {"arm": arm, "number": k, "ap50": 0.1 * k + 0.2 * (arm == "painted")}
        for k in range(3)
        for arm in ("real", "painted")
    ]
    figure = viz.clinics({"10 %": rows, "all": rows[:2]}, label="AP50")
    assert [axis.get_title() for axis in figure.axes] == ["10 %", "all"]
    joined = [line.get_ydata() for line in figure.axes[0].lines if line.get_zorder() == 1]
    assert np.allclose(joined, [[0, 0.2], [0.1, 0.3], [0.2, 0.4]])
    assert words(figure) == {"0.10", "0.30", "0.00", "0.20"}


def test_intervals_stand_beside_the_line_of_no_difference():
    found = {"10%": {"painted": Interval(0.1, -0.05, 0.25)}, "100%": {"pasted": Interval(-0.02, -0.04, 0.0)}}
    figure = viz.differences(found, label="AP50")
    (axis,) = figure.axes
    assert list(axis.lines[0].get_xdata()) == [0, 0] and list(axis.lines[1].get_xdata()) == [-0.05, 0.25]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["10%: painted", "100%: pasted"]
    assert "+0.100 [-0.050, +0.250]" in words(figure)


def test_only_an_interval_that_excludes_0_has_a_filled_dot():
    found = {"all": {name: Interval(at, at - 0.1, at + 0.1) for name, at in (("a", -0.2), ("b", 0.05), ("c", 0.2))}}
    (axis,) = viz.differences(found).axes
    inside = [line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"]
    assert [colour == "white" for colour in inside] == [False, True, False]
