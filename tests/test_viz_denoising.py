import matplotlib
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import NoiseSchedule, viz


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


POINTS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -0.5]])


def sizes(figure):
    return [text.get_fontsize() for axis in figure.axes for text in [*axis.texts, axis.title]]


def test_origins_shows_the_mean_of_who_landed():
    landed = {100: POINTS[[0, 0, 1]], 800: POINTS}
    figure = viz.origins(POINTS, torch.tensor([1.6, 0.2]), landed, title="three points")
    assert [axis.get_title() for axis in figure.axes] == [
        "t = 100: 3 landed at the cross",
        "t = 800: 3 landed at the cross",
    ]
    for axis, x_0 in zip(figure.axes, landed.values(), strict=True):
        (cross, star) = axis.lines
        assert [cross.get_marker(), star.get_marker()] == ["x", "*"]
        assert torch.tensor([star.get_xdata()[0], star.get_ydata()[0]]).float().allclose(x_0.mean(0))
    assert figure.get_suptitle() == "three points" and min(sizes(figure)) >= 9


def test_answers_draws_every_answer_where_it_is():
    schedule, asked = NoiseSchedule.cosine(), {60: POINTS, 900: POINTS * 0}
    figure = viz.answers(POINTS, schedule, asked, colour=viz.GREEN)
    assert [axis.get_title() for axis in figure.axes] == ["t = 60", "t = 900"]
    for axis, x0_hat in zip(figure.axes, asked.values(), strict=True):
        (dots,) = axis.lines
        assert torch.tensor(dots.get_xydata()).float().allclose(x0_hat) and dots.get_color() == viz.GREEN
    (below, above) = viz.answers(POINTS, schedule, {60: POINTS}, behind={60: POINTS + 1}).axes[0].lines
    assert (
        torch.tensor(below.get_xydata()).float().allclose(POINTS + 1)
        and below.get_markersize() > above.get_markersize()
    )
    near, far = (axis.images[0].get_array() for axis in figure.axes)
    assert far.mean() > 2 * near.mean()  # much noise spreads the points


def test_hands_of_clocks_stand_at_their_angles():
    (axis,) = viz.clocks((0, 500), dim=8, title="hands").axes
    hands = [line.get_xydata() for line in axis.lines]
    assert len(hands) == 2 * 4
    for (x0, y0), (x1, y1) in hands[:4]:  # at t = 0 all point up
        assert abs(x1 - x0) < 1e-6 and y1 - y0 == pytest.approx(0.42)
    angle = torch.tensor(500 * 10_000 ** (-1 / 4))
    (x0, y0), (x1, y1) = hands[5]
    assert [x1 - x0, y1 - y0] == pytest.approx([0.42 * angle.sin().item(), 0.42 * angle.cos().item()], abs=1e-4)
    words = [text.get_text() for text in axis.texts]
    assert "angle 0 points up, and hands turn clockwise" in words
    assert words.count("t = 500") == 1 and "6" in words and "63" in words  # a turn of hand 0, and of hand 1
    assert min(sizes(axis.figure)) >= 9
