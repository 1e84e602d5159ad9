"""Factors, drawn."""

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import viz


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_each_factor_has_its_place_and_its_number():
    figure = viz.times_as_much({"small": {"time": 4.56, "memory": 1234.0}, "large": {"memory": 64}}, "a title")
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["time", "memory"]
    assert [text.get_text() for text in axis.texts] == ["4.6", "1,234", "64"]
    small, large = axis.lines[:2]
    assert list(small.get_xdata()) == [4.56, 1234.0] and list(large.get_xdata()) == [64]
    assert [round(y) for y in small.get_ydata()] == [0, 1] and round(large.get_ydata()[0]) == 1
    assert axis.get_xscale() == "log" and axis.get_title() == "a title" and axis.get_legend() is not None
    assert axis.get_xlim()[1] > 1234 and axis.yaxis_inverted()


def test_one_series_needs_no_legend():
    (axis,) = viz.times_as_much({"": {"time": 0.5}}).axes
    assert axis.get_legend() is None and axis.get_xlim()[0] <= 0.5


@pytest.mark.parametrize("factors", [{}, {"a": {}}, {"a": {"b": 0}}, {"a": {"b": -1}}, dict.fromkeys("abc", {"d": 2})])
def test_other_than_factors_of_one_or_two_series_is_refused(factors):
    with pytest.raises(ValueError, match="one or two series of factors above 0"):
        viz.times_as_much(factors)
