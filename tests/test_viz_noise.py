"""What noise does, drawn."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import NoiseSchedule, viz


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_paths_are_drawn_over_the_promised_mean_and_spread():
    schedule = NoiseSchedule.linear(steps=20)
    walks = [torch.zeros(20, 3), torch.ones(20, 2)]
    figure = viz.noise_paths(schedule, {"white": 1.0, "black": -1.0}, walks, "a title")
    (axis,) = figure.axes
    lines = [line.get_ydata() for line in axis.lines if len(line.get_ydata()) == 20]
    assert len(lines) == 3 + 2 + 2 * 3
    promised = [sign * schedule.signal + k * schedule.noise for sign in (1, -1) for k in (0, 2, -2)]
    for one in promised:
        assert any(np.allclose(line, one) for line in lines)
    assert "mean" in {text.get_text() for text in axis.texts} and axis.get_title() == "a title"
    named = {label.get_text(): label.get_color() for label in axis.get_yticklabels() if label.get_text()[0].isalpha()}
    assert named == {"black -1": viz.ORANGE, "white 1": viz.BLUE} and axis.get_ylabel() == "value of the pixel"


@pytest.mark.parametrize("walks", [[], [torch.zeros(20, 3)], [torch.zeros(19, 3)] * 2, [torch.zeros(20)] * 2])
def test_paths_of_another_number_or_length_are_refused(walks):
    with pytest.raises(ValueError, match=r"expected 2 sets of walks, each \(20, n\)"):
        viz.noise_paths(NoiseSchedule.linear(steps=20), {"a": 0.0, "b": 1.0}, walks)


def test_a_sheet_of_schedules_shows_each_at_every_time():
    schedules = {"linear": NoiseSchedule.linear(steps=100), "cosine": NoiseSchedule.cosine(steps=100)}
    x_0, eps = torch.full((3, 4, 4), -0.5), torch.full((3, 4, 4), 0.25)
    figure = viz.schedule_sheet(schedules, x_0, eps, times=(10, 50, 90))
    above, *below = figure.axes
    level = schedules["cosine"].snr(torch.arange(100)).log()
    assert any(np.allclose(line.get_ydata(), level) for line in above.lines if len(line.get_ydata()) == 100)
    for axis, schedule in zip(below, schedules.values(), strict=True):
        pictures = axis.get_images()
        assert [np.mean(one.get_extent()[:2]) for one in pictures] == [10, 50, 90]
        for t, one in zip((10, 50, 90), pictures, strict=True):
            (x_t,) = schedule.add_noise(x_0[None], eps[None], torch.tensor([t]))
            assert np.array_equal(one.get_array(), viz.pixels(x_t))


def test_schedules_of_several_lengths_and_a_single_time_are_refused():
    x, ten, twenty = torch.zeros(3, 4, 4), NoiseSchedule.linear(steps=10), NoiseSchedule.linear(steps=20)
    for schedules, times in (({}, (1, 2)), ({"a": ten, "b": twenty}, (1, 2)), ({"a": ten}, (1,))):
        with pytest.raises(ValueError, match="schedules of one length and two times"):
            viz.schedule_sheet(schedules, x, x, times)


def test_the_histogram_below_a_picture_counts_its_values_in_percent():
    x = torch.tensor([-1.0, -1.0, -1.0, 1.0]).view(1, 2, 2).expand(3, 2, 2)
    figure = viz.picture_and_values(torch.stack([x, -x]), ["one", "two"], "both")
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axis.get_title() for axis in above] == ["one", "two"] and figure.get_suptitle() == "both"
    heights = [sorted(bar.get_height() for bar in axis.patches if bar.get_height()) for axis in below]
    assert np.allclose(heights, [[25, 75], [25, 75]])
    assert len(viz.picture_and_values(x, ["one"]).axes) == 2


def test_a_title_is_needed_for_each_picture():
    with pytest.raises(ValueError, match="a title for each of 2 pictures, got 1"):
        viz.picture_and_values(torch.zeros(2, 3, 4, 4), ["one"])
