"""Guidance, drawn."""

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


def test_each_estimate_is_joined_to_its_scale():
    pictures = torch.linspace(-1, 1, 4).view(4, 1, 1, 1).expand(4, 3, 5, 5)
    figure = viz.guidance_line(pictures, (0, 1, 2.5, 6), "a title", ("nothing", "a cat"))
    *axes, line = figure.axes
    assert [axis.get_title() for axis in axes] == ["scale 0\nnothing", "scale 1\na cat", "scale 2.5", "scale 6"]
    shown = [axis.images[0].get_array()[0, 0, 0] for axis in axes]
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == 255
    dots = [one.get_xdata()[0] for one in line.lines]
    assert np.allclose((np.array(dots) - dots[0]) / (dots[-1] - dots[0]), np.array([0, 1, 2.5, 6]) / 6)
    places = [axis.get_position() for axis in axes]
    left, width = line.get_position().x0, line.get_position().width
    middles = [(place.x0 + place.x1) / 2 for place in places]
    ends = [text.xy[0] for text in line.texts if (getattr(text, "arrowprops", None) or {}).get("arrowstyle") == "-"]
    assert np.allclose([left + width * x / len(axes) for x in ends], middles, atol=0.01)
    assert "the same, exaggerated" in [text.get_text() for text in line.texts]
    within = viz.guidance_line(pictures[:2], (0, 1)).axes[-1]
    assert "the same, exaggerated" not in [text.get_text() for text in within.texts]


@pytest.mark.parametrize("scales", [(0, 1), (0, 2, 3), (1, 0, 2), (0, 1, 1)])
def test_scales_that_do_not_fit_are_refused(scales):
    with pytest.raises(ValueError, match="rising scales, 0 and 1 among them"):
        viz.guidance_line(torch.zeros(3, 3, 4, 4), scales)


def test_paths_are_drawn_point_by_point_with_their_labels():
    paths = {"a": [(0.1, 0.2, "one"), (0.3, 0.4, "two")], "b": [(0.5, 0.6, "three")]}
    figure = viz.trade_off(paths, "a title", xlabel="x", ylabel="y", best=(0.9, 1.0, "real"))
    (axis,) = figure.axes
    drawn = [line.get_xydata().tolist() for line in axis.lines]
    assert drawn == [[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6]], [[0.9, 1.0]]]
    assert [text.get_text() for text in axis.texts] == ["one", "two", "three", "real"]
    assert [text.get_text() for text in axis.get_legend().texts] == ["a", "b"]
    assert len({line.get_color() for line in axis.lines}) == len({line.get_marker() for line in axis.lines}) == 3


@pytest.mark.parametrize("n", [0, 6])
def test_no_paths_and_too_many_are_refused(n):
    with pytest.raises(ValueError, match=f"expected one path to 5, got {n}"):
        viz.trade_off({str(k): [(0, 0, "")] for k in range(n)})
