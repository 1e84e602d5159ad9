"""Ways on a plane, quality over calls, and what models consist of, drawn."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import viz


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_each_way_is_a_line_from_its_noise_to_its_picture():
    ways = torch.arange(12.0).view(3, 2, 2)
    (left, right) = viz.plane_paths({"one": ways, "two": ways[:2]}, np.zeros((5, 2)), "a title").axes
    assert left.get_title() == "one" and right.get_title() == "two"
    assert left.lines[0].get_xydata().tolist() == ways[:, 0].tolist()
    starts, ends = left.lines[-2:]
    assert starts.get_xydata().tolist() == ways[0].tolist() and ends.get_xydata().tolist() == ways[-1].tolist()


@pytest.mark.parametrize("panels", [{}, {"one": torch.zeros(3, 2)}, {"one": torch.zeros(3, 4, 3)}])
def test_other_ways_are_refused(panels):
    with pytest.raises(ValueError, match="expected ways"):
        viz.plane_paths(panels, torch.zeros(5, 2))


def test_a_line_has_its_points_its_band_and_its_name_in_all_panels():
    first = {"a": [(8, 0.7, 0.1), (1, 0.2, 0.1)], "b": [(1, 0.1, 0), (8, 0.71, 0)]}
    figure = viz.over_calls({"share": first, "distance": {"b": [(2, 3, 0)]}}, "a title", ("up", "down"))
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[1, 0.2], [8, 0.7]]
    assert left.lines[1].get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    assert sorted(text.get_text() for text in left.texts) == ["a", "b"]
    (a, b) = sorted(left.texts, key=lambda text: text.get_text())
    assert abs(a.xyann[1] - b.xyann[1]) > 0.07  # apart, though the ends are not
    assert (left.get_ylabel(), right.get_ylabel()) == ("up", "down") and left.get_xscale() == "log"
    assert viz.over_calls({"one": first}, xticks=None).axes[0].get_xscale() == "linear"
    both = viz.over_calls({"one": first, "two": first}, xlabel=("steps", "seconds")).axes
    assert [axis.get_xlabel() for axis in both] == ["steps", "seconds"]


def test_a_band_may_be_wider_on_one_side():
    (axis,) = viz.over_calls({"one": {"a": [(1, 0.5, 0.2, 0.1), (8, 0.6, 0.3, 0.05)]}}).axes
    assert axis.collections[0].get_datalim(axis.transData).intervaly == pytest.approx([0.3, 0.65])


@pytest.mark.parametrize("panels", [{}, {"one": {}}, {"one": {"a": []}}])
def test_lines_without_points_are_refused(panels):
    with pytest.raises(ValueError, match="lines with points"):
        viz.over_calls(panels)


def test_parts_stand_end_to_end_and_their_sum_behind():
    (axis,) = viz.consists_of({"one": {"a": 1.0, "b": 3.0, "c": 0}, "two": {"b": 2.0}}, "a title").axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axis.patches if bar.get_width()]
    assert bars == [(0, 0.25), (0.25, 0.75), (0, 1)]
    assert axis.patches[1].get_facecolor() == axis.patches[3].get_facecolor() != axis.patches[0].get_facecolor()
    assert [text.get_text() for text in axis.texts] == ["25%", "75%", "4.00 billion", "100%", "2.00 billion"]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["one", "two"]


@pytest.mark.parametrize("models", [{}, {"one": {}}, {"one": {"a": 0}}, {"one": {"a": -1}}])
def test_parts_below_zero_are_refused(models):
    with pytest.raises(ValueError, match="not negative"):
        viz.consists_of(models)
