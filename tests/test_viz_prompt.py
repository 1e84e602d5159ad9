"""The prompt field, worked as a browser would work it."""

import io
import warnings

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from minildm import viz
from minildm.samplers import Step


class Painter:
    """Stands in for a pipeline: n grey steps, from black to the grey that the seed says, of 255."""

    def __init__(self, n=4):
        self.n, self.asked = n, []

    def steps(self, prompt, seed, **how):
        self.asked.append((prompt, seed, how))
        if prompt == "refused":
            raise ValueError("no <b>such</b> thing")
        if prompt == "zebra":
            warnings.warn("this model never saw 'zebra'", stacklevel=2)
        for k in range(self.n):
            x = torch.full((1, 3, 2, 4), seed / 255 * k / (self.n - 1))
            yield Step(self.n - 2 - k, x, x, x)

    def decode(self, x, check=True):
        assert not check  # what is on the way does not look like a latent
        return x


def parts(panel):
    """(text, seed, button, suggestions, picture, play, slider, said)"""
    (text, seed, button), suggestions, picture, (play, at), said = (
        getattr(one, "children", one) for one in panel.children
    )
    return text, seed, button, suggestions, picture, play, at, said


def grey(picture):
    shown = np.asarray(Image.open(io.BytesIO(picture.value)))
    assert (shown == shown[0, 0, 0]).all()
    return shown.shape, int(shown[0, 0, 0])


def test_the_button_paints_what_was_typed_with_the_seed_and_shows_the_end():
    painter = Painter()
    text, seed, button, _, picture, play, at, said = parts(viz.prompt_field(painter, seed=90, size=12, guidance=2))
    assert painter.asked == [] and grey(picture) == ((12, 12, 3), 240)  # an empty canvas
    text.value, seed.value = "a cat", 200
    button.click()
    assert painter.asked == [("a cat", 200, {"guidance": 2})]
    assert grey(picture) == ((6, 12, 3), 200)
    assert (at.value, at.max, play.max) == (3, 3, 3)
    assert said.value == "" and not button.disabled


def test_the_enter_key_paints_too():
    painter = Painter()
    text, *_ = parts(viz.prompt_field(painter, seed=5))
    text.value = "a dog"
    text._handle_custom_msg({"event": "submit"}, [])  # as it comes from the browser
    assert painter.asked == [("a dog", 5, {})]
    text._handle_custom_msg({"event": "other"}, [])
    assert len(painter.asked) == 1


def test_suggestions_are_buttons_and_the_first_is_painted_at_once():
    painter = Painter()
    text, _, _, suggestions, picture, *_ = parts(viz.prompt_field(painter, ["a cat", "一只猫"], seed=255))
    assert [one.description for one in suggestions] == ["a cat", "一只猫"]
    assert text.value == "a cat" and grey(picture)[1] == 255
    suggestions[1].click()
    assert text.value == "一只猫" and [prompt for prompt, _, _ in painter.asked] == ["a cat", "一只猫"]


def test_the_slider_shows_each_step_and_a_shorter_film_replaces_a_longer_one():
    painter = Painter(n=5)
    text, _, button, _, picture, _, at, _ = parts(viz.prompt_field(painter, ["a"], seed=200))
    seen = []
    for at.value in range(5):
        seen.append(grey(picture)[1])
    assert seen == [0, 50, 100, 150, 200]
    painter.n = 3
    button.click()
    assert at.max == at.value == 2 and grey(picture)[1] == 200
    at.value = 1
    assert grey(picture)[1] == 100


def test_the_picture_appears_while_it_is_painted():
    text, _, button, _, picture, *_ = parts(viz.prompt_field(Painter(), seed=240))
    seen = []
    picture.observe(lambda change: seen.append(grey(picture)[1]), "value")
    text.value = "a"
    button.click()
    assert seen == [0, 80, 160, 240]


@pytest.mark.parametrize("nothing", ["", "   "])
def test_an_empty_prompt_gets_an_invitation(nothing):
    painter = Painter()
    text, _, button, *_, said = parts(viz.prompt_field(painter))
    text.value = nothing
    button.click()
    assert painter.asked == [] and "Type something like" in said.value


def test_what_is_wrong_is_said_as_text_and_the_button_works_on():
    text, _, button, *_, said = parts(viz.prompt_field(Painter()))
    text.value = "refused"
    button.click()
    assert said.value == "That could not be painted: no &lt;b&gt;such&lt;/b&gt; thing"
    assert not button.disabled
    text.value = "a cat"
    button.click()
    assert said.value == ""


def test_a_defect_is_told_and_raised():
    def broken(prompt, x):
        raise TypeError("a slip of ours")

    with pytest.raises(TypeError):  # where the cell that makes the field can show it
        viz.prompt_field(Painter(), ["a"], comment=broken)
    text, _, button, *_, said = parts(viz.prompt_field(Painter(), comment=broken))
    text.value = "a"
    button.click()  # here ipywidgets writes it to the log
    assert said.value == "That could not be painted: a slip of ours" and not button.disabled


def test_unknown_words_are_named_each_time_and_the_picture_is_painted():
    text, _, button, _, picture, *_, said = parts(viz.prompt_field(Painter(), seed=100))
    text.value = "zebra"
    for _ in range(2):
        button.click()
        assert said.value == "Mind: this model never saw &#x27;zebra&#x27;." and grey(picture)[1] == 100


def test_a_comment_sees_the_prompt_and_the_finished_picture():
    def comment(prompt, x):
        return f"{prompt}: {tuple(x.shape)}, {x.mean() * 255:.0f}"

    *_, said = parts(viz.prompt_field(Painter(), ["an owl"], seed=70, comment=comment))
    assert said.value == "an owl: (3, 2, 4), 70"


def test_the_field_is_made_of_widgets_that_jupyter_shows():
    assert isinstance(viz.prompt_field(Painter()), ipywidgets.VBox)


def test_a_live_field_paints_with_each_letter_and_each_seed():
    painter = Painter()
    text, seed, button, suggestions, picture, *_ = parts(viz.prompt_field(painter, ["an owl"], seed=70, live=True))
    assert [prompt for prompt, *_ in painter.asked] == ["an owl"]  # once, not twice
    for typed in ("a", "a c", "a ca", "a cat"):
        text.value = typed
    seed.value = 80
    assert [asked[:2] for asked in painter.asked[1:]] == [
        *(("a", 70), ("a c", 70), ("a ca", 70), ("a cat", 70)),
        ("a cat", 80),
    ]
    assert grey(picture)[1] == 80
    suggestions[0].click()
    suggestions[0].click()
    assert [prompt for prompt, *_ in painter.asked[6:]] == ["an owl", "an owl"]


def test_any_other_field_waits_for_its_button():
    painter = Painter()
    text, seed, *_ = parts(viz.prompt_field(painter))
    text.value, seed.value = "a cat", 3
    assert painter.asked == []
