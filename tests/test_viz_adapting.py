import matplotlib.pyplot as plt
import pytest

from minildm import viz


@pytest.fixture(autouse=True)
def tidy():
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_low_rank_draws_matrices_in_their_proportions():
    figure = viz.low_rank(60, 90, 6, "a detour")
    weight, down, up = figure.axes[0].patches[:3]
    assert weight.get_width() / weight.get_height() == pytest.approx(90 / 60)
    assert down.get_width() == pytest.approx(weight.get_width()) and up.get_height() == pytest.approx(
        weight.get_height()
    )
    assert down.get_height() == pytest.approx(weight.get_height() / 10)
    said = " ".join(texts(figure))
    assert "5,400 numbers" in said and "6×90: 540" in said and "60×6: 360" in said and "only 6 numbers" in said


@pytest.mark.parametrize("rank", [0, 60, 90])
def test_a_rank_that_is_not_low_is_refused(rank):
    with pytest.raises(ValueError, match="below 60 and 90"):
        viz.low_rank(60, 90, rank)


def test_each_way_is_a_named_point():
    points = {"before": [(0.9, 0.0)], "one way": [(0.5, 1.0), (0.4, 0.9)], "another": [(1.0, 0.25)]}
    (axis,) = viz.kept_and_learned(points, "learned and kept", "kept", "learned").axes
    drawn = {line.get_label(): list(map(tuple, line.get_xydata().tolist())) for line in axis.lines}
    assert drawn == points
    assert {text.get_text() for text in axis.get_legend().get_texts()} == set(points)
    assert len({line.get_marker() for line in axis.lines}) == len({line.get_color() for line in axis.lines}) == 3


@pytest.mark.parametrize("n", [0, 6])
def test_too_few_or_too_many_ways_are_refused(n):
    with pytest.raises(ValueError, match=f"got {n}"):
        viz.kept_and_learned({str(i): [(0, 0)] for i in range(n)})
