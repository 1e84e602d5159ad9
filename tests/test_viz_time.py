"""Contact sheets, film strips, animations and sliders."""

import base64
import io
import json
import re

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import viz
from minildm.samplers import Step


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def shown(figure):
    """The pictures of a figure, in the order in which they were drawn."""
    return [image.get_array() for axis in figure.axes for image in axis.get_images()]


def test_pixels_cut_and_round():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0]).view(1, 1, 5)
    assert viz.pixels(x).shape == (1, 5, 3)
    assert viz.pixels(x)[0, :, 1].tolist() == [0, 0, 128, 255, 255]
    colours = viz.pixels(torch.linspace(-1, 1, 3).view(1, 3, 1, 1).expand(2, 3, 4, 5))
    assert colours.shape == (2, 4, 5, 3) and colours[1, 2, 3].tolist() == [0, 128, 255]


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (5, 6), (2, 5, 6)])
def test_pixels_refuse_what_is_no_picture(shape):
    with pytest.raises(ValueError, match="1 or 3 channels"):
        viz.pixels(torch.zeros(shape))


def test_a_gallery_shows_every_picture_once_and_in_order():
    x = torch.linspace(-1, 1, 7).view(7, 1, 1, 1).expand(7, 3, 4, 5)
    figure = viz.gallery(x, columns=3, captions=list("abcdefg"), title="seven")
    assert [int(picture[0, 0, 0]) for picture in shown(figure)] == viz.pixels(x)[:, 0, 0, 0].tolist()
    assert [axis.get_title() for axis in figure.axes] == [*"abcdefg", "", ""]
    assert figure.get_suptitle() == "seven"


def test_a_gallery_leaves_room_for_the_captions_that_there_are():
    def height(captions):
        return viz.gallery(torch.zeros(4, 1, 4, 4), 2, size=1.0, captions=captions).get_figheight()

    assert height(None) == height(["", "", "", ""]) == 2.0
    assert height(["a", "b", "", ""]) == pytest.approx(2.2)
    assert height(["a", "b\nc", "", "d"]) == pytest.approx(2.0 + 0.34 + 0.2)
    assert height(["a"]) == pytest.approx(2.2)  # fewer captions than pictures


def test_a_gallery_frames_the_pictures_that_have_a_colour():
    figure = viz.gallery(torch.zeros(3, 1, 4, 4), 3, frames=[viz.BLUE, None, viz.RED], captions=["a", "b\nc", "d"])
    framed = [axis.axison and matplotlib.colors.to_hex(axis.spines["top"].get_edgecolor()) for axis in figure.axes]
    assert framed == [viz.BLUE.lower(), False, viz.RED.lower()]
    assert not any(len(axis.get_xticks()) for axis in figure.axes if axis.axison)


def test_word_maps_light_the_picture_where_the_map_is_large():
    pictures = torch.ones(2, 3, 4, 6)
    maps = torch.zeros(2, 3, 4, 6)
    maps[0, 0, 1, 2], maps[1, 2, 3, 5] = 0.01, 7  # faint or strong, each map has its own brightest place
    figure = viz.word_maps(pictures, maps, ["a", "red", "cat"], ["early", "late"], title="where")
    images = shown(figure)
    assert len(images) == 2 * (1 + 3) and figure.get_suptitle() == "where"
    assert (images[0] == 255).all() and (images[4] == 255).all()
    assert images[1][1, 2].tolist() == [255] * 3 and images[7][3, 5].tolist() == [255] * 3
    assert images[1][0, 0].tolist() == [25] * 3 and (images[2] == 25).all()  # an even map lights nothing
    assert [axis.get_title() for axis in figure.axes[:4]] == ["", "a", "red", "cat"]
    assert [axis.texts[0].get_text() for axis in figure.axes[::4]] == ["early", "late"]


@pytest.mark.parametrize("shape", [(2, 4, 4, 6), (1, 3, 4, 6), (2, 3, 6, 4)])
def test_word_maps_must_fit(shape):
    with pytest.raises(ValueError, match=r"expected maps \(2, 3, 4, 6\)"):
        viz.word_maps(torch.ones(2, 3, 4, 6), torch.zeros(shape), ["a", "red", "cat"])


def steps(n):
    level = [torch.full((2, 1, 3, 3), k / n) for k in range(n)]
    return [Step(n - 2 - k, x, -x, x) for k, x in enumerate(level)]


def test_a_film_strip_starts_at_the_start_and_ends_at_the_end():
    figure = viz.filmstrip(steps(10), columns=4, sample=1)
    titles = [axis.get_title() for axis in figure.axes[:4]]
    assert titles == ["t = 8", "t = 5", "t = 2", "finished"]
    x_t, x0_hat = shown(figure)[:4], shown(figure)[4:]
    assert [int(picture[0, 0, 0]) for picture in x_t] == [128, 166, 204, 242]
    assert [int(picture[0, 0, 0]) for picture in x0_hat] == [128, 89, 51, 13]


def test_a_film_strip_of_latents_shows_them_above():
    latents = [torch.full((1, 4, 2, 2), k - 4.5) for k in range(10)]
    latents[-1][0, 1:] = 0
    pictures = shown(viz.filmstrip(steps(10), columns=4, latents=latents))
    assert [picture.shape for picture in pictures] == [(16, 16, 3)] * 4 + [(3, 3, 3)] * 8
    assert pictures[0].max() == 0 and pictures[3][0, 0].tolist() == [255, 128, 128]
    with pytest.raises(ValueError, match="a latent for each of 10 steps, got 9"):
        viz.filmstrip(steps(10), latents=latents[1:])
    with pytest.raises(ValueError, match="at least 3 channels"):
        viz.latent_colours(torch.zeros(1, 2, 4, 4))


def test_a_film_strip_of_few_steps_shows_each_once():
    assert len(viz.filmstrip(steps(3), columns=8).axes) == 6


def ramp(n, b=1):
    return [torch.full((b, 3, 4, 5), 2 * k / (n - 1) - 1.0) for k in range(n)]


def test_a_gif_has_all_frames_in_their_size_and_rests_at_the_end():
    gif = Image.open(io.BytesIO(viz.animation(ramp(4), fps=10, scale=3, hold=2).gif()))
    assert gif.size == (15, 12) and gif.n_frames == 4 and gif.info["loop"] == 0
    seen = []
    for k in range(4):
        gif.seek(k)
        seen.append((gif.convert("RGB").getpixel((7, 7))[0], gif.info["duration"]))
    assert [duration for _, duration in seen] == [100, 100, 100, 2100]
    assert seen[0][0] < 5 and seen[3][0] > 250


def test_a_batch_becomes_rows_filled_up_with_white():
    film = viz.animation([-torch.ones(5, 3, 4, 6)], scale=1, columns=3)
    frame = np.asarray(film.frames[0])
    assert frame.shape == (8, 18, 3)
    assert frame[:, :12].max() == 0 and frame[:4].max() == 0 and frame[4:, 12:].min() == 255


def test_arrays_are_frames_as_they_are():
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert (np.asarray(viz.animation([frame], scale=1).frames[0]) == frame).all()


def test_a_notebook_shows_the_gif():
    bundle = viz.animation(ramp(2))._repr_mimebundle_()
    assert base64.b64decode(bundle["image/gif"]).startswith(b"GIF89a")


def test_the_page_carries_every_frame_and_fetches_nothing(tmp_path):
    page = viz.animation(ramp(3), fps=20, scale=2, hold=1).save(tmp_path / "a.html").read_text("utf-8")
    frames = json.loads(re.search(r"const frames = (\[.*?\]);", page).group(1))
    pictures = [Image.open(io.BytesIO(base64.b64decode(frame.split(",")[1]))) for frame in frames]
    assert [picture.getpixel((0, 0))[0] for picture in pictures] == [0, 128, 255]
    assert "http" not in page and "{{" not in page


def test_saving(tmp_path):
    film = viz.animation(ramp(3))
    assert film.save(tmp_path / "a.gif").read_bytes() == film.gif()
    with pytest.raises(ValueError, match=r"\.gif or \.html, got 'a\.mp4'"):
        film.save(tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("frames", [[], [torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)]])
def test_frames_of_no_one_size_are_refused(frames):
    with pytest.raises(ValueError, match="all of one size"):
        viz.animation(frames)


def test_a_slider_draws_at_once_and_again_with_what_was_chosen():
    drawn = []
    panel = viz.slider(lambda t, method: drawn.append((t, method)), t=(0, 900, 100), method=["ddim", "heun"])
    t, method, _ = panel.children
    assert drawn == [(400, "ddim")] and (t.min, t.max, t.step) == (0, 900, 100)
    t.value = 300
    method.value = "heun"
    assert drawn[1:] == [(300, "ddim"), (300, "heun")]


def test_a_page_that_shows_no_widgets_says_what_a_slider_would_choose():
    shown = viz.slider(lambda t, method: None, t=(0, 9), method=["ddim"])._repr_mimebundle_()
    assert shown["text/plain"] == "run this cell to choose: t, method"
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_a_slider_of_fractions():
    drawn = []
    (level, _) = viz.slider(lambda level: drawn.append(level), level=(0.0, 1.0, 0.25)).children
    level.value = 0.75
    assert drawn == [0.5, 0.75]


def test_words_stand_above_the_frames_and_leave_them_as_they_are():
    frames = [np.full((10, 60, 3), level, np.uint8) for level in (90, 180)]
    film = viz.animation(frames, scale=2, captions=["step 0", "step 1"], names=["one", "other"])
    first, second = (np.asarray(frame) for frame in film.frames)
    assert first.shape == (2 * 20 + 2 * 10, 2 * 60, 3) and film.scale == 1
    assert (first[40:] == 90).all() and (second[40:] == 180).all()
    assert (first[:20] != second[:20]).any() and (first[20:40] == second[20:40]).all()  # "0" and "1"; the same names
    assert (first[20:40, :60] < 255).any() and (first[20:40, 60:] < 255).any()
    assert viz.animation(frames, scale=1, names=["one"]).frames[0].size == (60, 30)


def test_a_caption_is_needed_for_each_frame():
    with pytest.raises(ValueError, match="no captions or one for each of 2 frames, got 1"):
        viz.animation([np.zeros((4, 6, 3), np.uint8)] * 2, captions=["one"])


def test_a_film_strip_counts_the_steps():
    figure = viz.filmstrip(steps(10), columns=4, numbered=True)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert [title.splitlines()[0] for title in titles] == ["step 0", "step 3", "step 6", "step 9"]
    assert [title.splitlines()[1] for title in titles] == ["t = 8", "t = 5", "t = 2", "finished"]
