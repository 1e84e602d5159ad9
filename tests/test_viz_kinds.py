"""Pictures of every kind that users hand to figures, and what every figure keeps: its sizes, its colours."""

import itertools

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import UNet, viz
from minildm.samplers import Step


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def shown(figure):
    return [np.asarray(image.get_array()) for axis in figure.axes for image in axis.get_images()]


GREYS = (-1.0, 0.0, 1.0)  # of three pictures of 4×6, in [-1, 1]
LEVELS = [0, 128, 255]
TENSOR = torch.tensor(GREYS).view(3, 1, 1, 1).expand(3, 3, 4, 6)
BYTES = np.array(LEVELS, np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
KINDS = {
    "a tensor": TENSOR,
    "one channel": TENSOR[:, :1],
    "half precision": TENSOR.half(),
    "float64 with a gradient": TENSOR.double().clone().requires_grad_(),
    "a list of tensors": list(TENSOR),
    "a generator of tensors": (x for x in TENSOR),
    "tensors of bytes": torch.from_numpy(BYTES).movedim(-1, 1),
    "an array, channels last": TENSOR.movedim(1, -1).numpy(),
    "an array, channels first": TENSOR.numpy(),
    "an array of float64": TENSOR.movedim(1, -1).double().numpy(),
    "an array of bytes": BYTES,
    "grey arrays": [x[..., 0] for x in BYTES],
    "grey arrays of fractions": [x[0].numpy() for x in TENSOR],
    "PIL": [Image.fromarray(x) for x in BYTES],
    "PIL, grey": [Image.fromarray(x[..., 0]) for x in BYTES],
    "PIL, palette": [Image.fromarray(x).quantize(4) for x in BYTES],
    "PIL, transparent where white": [Image.fromarray(np.dstack([x, 255 - x[..., :1] // 255 * 255])) for x in BYTES],
    "a tuple of kinds": (TENSOR[0], BYTES[1], Image.fromarray(BYTES[2])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gallery_shows_pictures_of_every_kind(kind):
    images = KINDS[kind]
    images = list(images) if kind.startswith("a generator") else images  # of which there is one for all tests
    figure = viz.gallery(iter(images) if kind.startswith("a generator") else images, columns=2)
    drawn = shown(figure)
    assert [one.shape for one in drawn] == [(4, 6, 3)] * 3
    assert [
        abs(int(one.min()) - level) <= 1 and one.min() == one.max() for one, level in zip(drawn, LEVELS, strict=True)
    ] == [True] * 3


def test_paths_are_pictures(tmp_path):
    for k, x in enumerate(BYTES):
        Image.fromarray(x).save(tmp_path / f"{k}.png")
    paths = sorted(tmp_path.iterdir())
    assert [int(one.min()) for one in shown(viz.gallery(paths))] == LEVELS
    assert (viz.pixels(str(paths[1])) == BYTES[1]).all() and (viz.array(paths[1]) == BYTES[1]).all()


@pytest.mark.parametrize("one", [TENSOR[1], TENSOR[1].numpy(), BYTES[1], Image.fromarray(BYTES[1])])
def test_a_single_picture_is_a_gallery_too(one):
    assert viz.pixels(one).shape == (4, 6, 3)
    assert len(shown(viz.gallery(one))) == 1


@pytest.mark.parametrize(
    "images, says",
    [
        (torch.zeros(0, 3, 4, 4), "at least one picture, got none"),
        ([], "at least one, got"),
        (iter(()), "at least one, got"),
        (np.zeros((0, 4, 4, 3)), "at least one picture, got none"),
        ([Image.new("L", (4, 4)), Image.new("L", (4, 5))], "of one size"),
        ([torch.zeros(2, 3, 4, 4)], "single images"),
        (torch.zeros(2, 4, 8, 8), "a latent is decoded first"),
        (torch.full((1, 3, 4, 4), float("nan")), "NaN"),
        (None, "got NoneType"),
        (7, "got int"),
    ],
)
def test_what_is_no_gallery_is_refused(images, says):
    with pytest.raises(ValueError, match=says):
        viz.gallery(images)


@pytest.mark.parametrize(
    "image, shape",
    [
        (torch.zeros(1, 4, 5), (4, 5)),
        (torch.zeros(4, 5, dtype=torch.int64), (4, 5)),
        (np.zeros((4, 5, 1)), (4, 5)),
        (np.zeros((4, 5, 3)), (4, 5, 3)),
        (Image.new("1", (5, 4)), (4, 5)),
        (Image.new("P", (5, 4)), (4, 5, 3)),
        (Image.new("I;16", (5, 4)), (4, 5)),
        ([[0, 1], [1, 0], [1, 1]], (3, 2)),
    ],
)
def test_show_takes_one_picture_of_any_kind(image, shape):
    assert viz.array(image).shape == shape
    assert [one.shape for one in shown(viz.show([image, image]))] == [shape] * 2


@pytest.mark.parametrize("image", [torch.zeros(4, 8, 8), torch.zeros(2, 3, 4, 4), np.zeros(5), torch.zeros(2, 5, 5)])
def test_show_refuses_what_would_be_shown_wrongly(image):
    with pytest.raises(ValueError, match="expected one image"):
        viz.show({"a": image})


def test_show_takes_batches_and_generators_and_nothing_less():
    assert len(shown(viz.show(torch.zeros(5, 1, 4, 4)))) == 5
    assert len(shown(viz.show(x for x in TENSOR))) == 3
    for nothing in ({}, [], iter(())):
        with pytest.raises(ValueError, match="at least one picture"):
            viz.show(nothing)


def steps(n, channels=3):
    x = torch.zeros(2, channels, 4, 4)
    return (Step(n - 2 - k, x, x, x) for k in range(n))


def test_a_film_strip_takes_the_generator_of_a_sampler():
    figure = viz.filmstrip(steps(9), columns=3)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["t = 7", "t = 3", "finished"]
    assert len(shown(viz.filmstrip(steps(4, channels=1)))) == 8


@pytest.mark.parametrize(
    "strip, says", [(steps(0), "used up"), ([], "got none"), (steps(3, channels=4), "a latent is decoded first")]
)
def test_a_film_strip_of_nothing_or_of_latents_is_refused(strip, says):
    with pytest.raises(ValueError, match=says):
        viz.filmstrip(strip)


def test_strips_lay_rows_below_each_other():
    rows = {"long": TENSOR, "short": [Image.fromarray(BYTES[2])] * 2, "one": TENSOR[0]}
    frames = {"short": [None, viz.GREEN]}
    figure = viz.strips(rows, "a title", captions=["a", "b", "c"], frames=frames)
    long, short, one = shown(figure)
    assert long.shape == short.shape == one.shape == (4, 18, 3)
    assert [int(long[0, k, 0]) for k in (0, 6, 12)] == LEVELS
    assert short.min() == 255 and one[:, :6].max() == 0 and one[:, 6:].min() == 255
    assert [axis.get_ylabel() for axis in figure.axes] == list(rows) and figure.get_suptitle() == "a title"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["a", "b", "c"]
    (frame,) = figure.axes[1].patches
    assert frame.get_x() == 7 and matplotlib.colors.to_hex(frame.get_edgecolor()).upper() == viz.GREEN


@pytest.mark.parametrize("rows", [{}, {"a": TENSOR, "b": torch.zeros(2, 3, 5, 5)}])
def test_strips_of_several_sizes_or_none_are_refused(rows):
    with pytest.raises(ValueError, match="all of one size"):
        viz.strips(rows)


@pytest.mark.parametrize("n", [1, 7, 13, 24])
def test_spread_tells_any_number_of_arms_apart(n):
    axis = viz.spread(plt.subplots()[1], {"a": {str(k): [k, k + 1] for k in range(n)}, "b": {"0": [1]}})
    dots, means = axis.lines[::2], axis.lines[1::2]
    looks = {(line.get_color(), line.get_marker()) for line in dots[:n]}
    assert len(looks) == n
    assert len({(line.get_color(), line.get_marker()) for line in means[:n]}) == n  # and so the legend
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [str(k) for k in range(n)]
    first = [x for line in means[:n] for x in line.get_xdata()]
    assert max(first) - min(first) < 1 and max(first) < min(means[n].get_xdata())  # "a" ends before "b" begins


def test_spread_of_arms_without_results_or_that_come_late():
    axis = viz.spread(plt.subplots()[1], {"a": {"x": [1.0], "y": []}, "b": {"z": np.array([2.0, 3.0])}})
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["x", "y", "z"]


def test_labels_may_be_tensors():
    labels = torch.zeros(6, 8, dtype=torch.int64)
    labels[1:4, 2:5] = 3
    axis = viz.outlines(plt.subplots()[1], labels.float(), labels)
    assert len(axis.collections) == 1
    viz.matches(plt.subplots()[1], labels, labels, labels.numpy())


def test_curves_take_losses_as_they_come():
    axis = plt.subplots()[1]
    losses = [torch.tensor(1.0, requires_grad=True), 0.5, np.float32(0.25)]
    viz.curve(axis, (loss for loss in losses), smooth=2)
    assert axis.lines[0].get_ydata().tolist() == [1, 0.5, 0.25]


def test_word_maps_take_arrays():
    figure = viz.word_maps(list(BYTES), np.random.default_rng(0).random((3, 2, 4, 6)), ["a", "b"])
    assert len(shown(figure)) == 9


@pytest.mark.parametrize("kind", ["a tensor", "PIL", "an array of bytes", "grey arrays", "an array, channels last"])
def test_frames_of_an_animation_are_of_any_kind(kind):
    film = viz.animation(x for x in KINDS[kind])
    assert [np.asarray(frame)[0, 0, 0] for frame in film.frames] == LEVELS


@pytest.mark.parametrize("value, says", [((1,), "lowest, highest"), ((1, 2, 3, 4), "lowest, highest"), ([], "choices")])
def test_a_slider_without_ends_is_refused(value, says):
    with pytest.raises(ValueError, match=says):
        viz.slider(lambda t: None, t=value)


def test_a_menu_of_any_choices():
    drawn = []
    viz.slider(lambda t: drawn.append(t), t=range(3, 9, 2))
    assert drawn == [3]


def figures():
    """Every figure that draws letters."""
    axis = plt.subplots()[1]
    yield viz.show({"a": TENSOR[2]}, title="t")
    yield viz.gallery(TENSOR, captions=list("abc"), title="t")
    yield viz.strips({"a": TENSOR}, "t", captions=list("abc"))
    yield viz.filmstrip(steps(5), title="t")
    yield viz.word_maps(TENSOR, torch.rand(3, 1, 4, 6), ["word"], list("abc"), title="t")
    yield viz.u_diagram(axis, UNet(1, 1, (4, 8)), torch.zeros(1, 1, 8, 8), "t").figure
    yield viz.spread(plt.subplots()[1], {"a": {"x": [1]}}, "y", "t").figure
    yield viz.curve(plt.subplots()[1], [1, 2, 3], 2, "a").figure
    yield viz.course_map({0: TENSOR[2]}, preparing={3})


def test_nothing_is_smaller_than_nine_points():
    with plt.rc_context():
        viz.style()
        for figure in figures():
            figure.canvas.draw()
            letters = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
            assert letters and min(text.get_fontsize() for text in letters) >= 9


# How people without red, green or blue cones see colours, in linear RGB: Viénot, Brettel and Mollon (1999), and for
# blue Brettel, Viénot and Mollon (1997) as a single plane.
BLIND = {
    "nobody": np.eye(3),
    "no red": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "no green": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


@pytest.mark.parametrize("who", BLIND)
def test_colour_blind_readers_can_tell_the_colours_apart(who):
    """In CIELAB, where a difference of 2 is just seen, any two are at least 10 apart."""
    from skimage.color import rgb2lab

    names = (viz.BLUE, viz.ORANGE, viz.GREEN, viz.RED, viz.SKY, viz.PURPLE, viz.YELLOW)
    rgb = np.array([matplotlib.colors.to_rgb(name) for name in names])
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92) @ np.transpose(BLIND[who])
    seen = np.where(linear > 0.0031308, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055, 12.92 * linear).clip(0, 1)
    for one, other in itertools.combinations(rgb2lab(seen), 2):
        assert np.linalg.norm(one - other) > 10
