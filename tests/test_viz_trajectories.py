"""Paths of solvers beside their exact curves."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import viz

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.25]])
CURVES = torch.stack(
    [torch.linspace(2, 0, 9)[:, None] * torch.tensor([1.0, k]) for k in (0.0, 1.0)], dim=1
)  # (9, 2, 2)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def path(*ends):
    """Two steps from where the curves begin, to `ends`."""
    return torch.stack([CURVES[0], CURVES[4], torch.tensor(ends)])


def test_each_solver_has_a_panel_with_its_steps_and_the_curves():
    figure = viz.trajectories({"a": path([0.0, 0.0], [0.0, 0.0]), "b": path([0.3, 0.4], [0.0, 0.1])}, CURVES, POINTS)
    assert len(figure.axes) == 2
    for axis in figure.axes:
        lengths = [len(line.get_xdata()) for line in axis.get_lines()]
        assert lengths.count(9) == 2 and lengths.count(3) == 2  # both curves, and the steps from both starts
        np.testing.assert_allclose(axis.collections[0].get_offsets(), POINTS)


def test_a_panel_says_how_far_its_ends_are_from_the_curves_on_average():
    figure = viz.trajectories({"b": path([0.3, 0.4], [0.0, 0.1])}, CURVES, POINTS, title="two steps")
    assert figure.axes[0].get_title() == "b\nends 0.30 from the curve's end"  # (0.5 + 0.1) / 2
    assert figure.get_suptitle() == "two steps"


def test_a_part_is_shown_larger_and_framed_above():
    closer = (0.5, 1.5, -0.25, 0.75)
    figure = viz.trajectories({"a": path([0.0, 0.0], [0.0, 0.0])}, CURVES, POINTS, closer=closer)
    whole, part = figure.axes
    assert (*part.get_xlim(), *part.get_ylim()) == closer
    (frame,) = whole.patches
    assert frame.get_bbox().extents.tolist() == [0.5, -0.25, 1.5, 0.75]


@pytest.mark.parametrize("wrong", [CURVES[:3] + 0.1, CURVES[:3, :1], CURVES[:3, 0]])
def test_a_path_must_begin_where_the_curves_do(wrong):
    with pytest.raises(ValueError, match="begins where the curves do"):
        viz.trajectories({"a": wrong}, CURVES, POINTS)
