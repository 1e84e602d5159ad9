import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import UNet, viz


@pytest.fixture
def axis():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def squares():
    """True and found instances: one pair that agrees, one missed, one invented."""
    true, pred = np.zeros((20, 30), int), np.zeros((20, 30), int)
    true[2:8, 2:8], pred[2:8, 2:9] = 5, 2
    true[12:18, 3:9] = 9
    pred[10:16, 20:26] = 7
    return true, pred


def test_array_shows_any_picture():
    assert viz.array(torch.zeros(3, 4, 5)).shape == (4, 5, 3)
    assert viz.array(torch.zeros(1, 4, 5)).shape == viz.array(torch.zeros(4, 5)).shape == (4, 5)
    assert viz.array(torch.zeros(4, 5, requires_grad=True)).shape == (4, 5)


def test_show_puts_every_picture_under_its_title_in_rows():
    figure = viz.show({name: np.full((4, 6), k) for k, name in enumerate("abcde")}, columns=3, title="all")
    assert [axis.get_title() for axis in figure.axes] == [*"abcde", ""]
    assert [axis.images[0].get_array()[0, 0] for axis in figure.axes[:5]] == [0, 1, 2, 3, 4]
    assert not figure.axes[5].images and figure.get_suptitle() == "all"
    assert len(viz.show([np.zeros((2, 2))] * 2).axes) == 2
    plt.close("all")


def test_matches_counts_found_missed_and_invented(axis):
    true, pred = squares()
    viz.matches(axis, true, true, pred)
    assert axis.get_title() == "found 1 (blue), missed 1 (orange), invented 1 (pink)"
    colours = [matplotlib.colors.to_hex(line.get_edgecolor()[0]).upper() for line in axis.collections]
    assert colours == [viz.SKY, viz.ORANGE, viz.PURPLE]  # what was invented lies on top


def test_outlines_follow_the_instance_and_are_closed_at_the_edge(axis):
    labels = np.zeros((6, 8), int)
    labels[:3, :4] = 1  # in the corner
    viz.outlines(axis, labels, labels)
    (path,) = axis.collections[0].get_paths()
    points = path.vertices
    assert np.allclose(points[0], points[-1])
    assert points.min(0).tolist() == [-0.5, -0.5] and points.max(0).tolist() == [3.5, 2.5]


@pytest.mark.parametrize("skip", [True, False])
def test_the_diagram_shows_each_layer_and_each_skip(axis, skip):
    u = UNet(1, 2, (4, 8, 12), skip=skip)
    viz.u_diagram(axis, u, torch.zeros(1, 1, 16, 24))
    channels = [int(t.get_text()) for t in axis.texts if t.get_text().isdigit()]
    assert channels == [4, 4, 4, 8, 8, 12, 12, 12, 12, 8, 8, 8, 4, 4]
    arrows = [t for t in axis.texts if t.get_text() == ""]
    assert len(arrows) == 1 + 6 * skip  # along the bottom, and one for each of the six skips
    assert [t.get_text() for t in axis.texts if "×" in t.get_text()] == ["16×24", "8×12", "4×6"]
    assert not any(module._forward_hooks for module in u.modules())


def test_curve_smooths_over_a_window(axis):
    viz.curve(axis, [0.0, 2.0, 4.0, 6.0], smooth=2)
    thin, thick = axis.lines
    assert thin.get_ydata().tolist() == [0, 2, 4, 6]
    assert thick.get_xdata().tolist() == [1, 2, 3] and thick.get_ydata().tolist() == [1, 3, 5]
    assert len(viz.curve(axis, [1.0], smooth=2).lines) == 3  # too short to smooth


def test_spread_shows_every_result_and_the_mean(axis):
    viz.spread(axis, {"a": {"x": [1, 2, 6], "y": [0]}, "b": {"x": [5]}}, ylabel="Dice", title="t")
    dots, means = axis.lines[::2], axis.lines[1::2]
    assert [list(line.get_ydata()) for line in dots] == [[1, 2, 6], [0], [5]]
    assert [line.get_ydata()[0] for line in means] == [3, 0, 5]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["x", "y"]
    assert axis.get_ylabel() == "Dice" and [t.get_text() for t in axis.get_xticklabels()] == ["a", "b"]


def test_style_applies(monkeypatch):
    with plt.rc_context():
        viz.style()
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"][0] == viz.BLUE
