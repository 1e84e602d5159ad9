"""A field to type a prompt into, beneath which the picture appears."""

import html
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minildm.images import to_pil
from minildm.optional import require
from minildm.pipeline import LatentDiffusion

from ._time import panel

EMPTY = 0.94  # the grey of a canvas on which nothing has been painted yet


def prompt_field(
    pipe: LatentDiffusion,
    suggestions: Sequence[str] = (),
    *,
    seed: int = 0,
    size: int = 256,
    comment: Callable[[str, Tensor], str] | None = None,
    live: bool = False,
    **how: object,
) -> Any:
    """A text field, a seed and a button "Paint"; below, the picture appears step by step and can be watched again.

    pipe: a `LatentDiffusion` that takes words.  suggestions: prompts, a button for each; the first is painted at once.
    size: of the picture on the screen.  comment: what to say of a finished picture, from its prompt and itself,
    (3, h, w) in [0, 1].  how: goes to `pipe.steps`, such as steps=25 or guidance=4.
    live: paint while one types, for a model that needs few steps: with each letter, and each turn of the seed.
    What is wrong with a prompt, and words that the model does not know, are told below the picture, as text.
    """
    widgets = require("ipywidgets")
    text = widgets.Text(placeholder="say what to paint", layout={"width": "440px"})
    number = widgets.BoundedIntText(seed, max=999_999, description="seed", layout={"width": "170px"})
    number.style.description_width = "45px"
    button = widgets.Button(description="Paint", button_style="primary", icon="paint-brush", layout={"width": "100px"})
    tries = [widgets.Button(description=some, layout={"width": "auto"}) for some in suggestions]
    canvas = _png(torch.full((3, size, size), EMPTY), size)
    picture = widgets.Image(value=canvas, width=size, layout={"width": f"{size}px", "margin": "6px 0"})
    play, at = widgets.Play(interval=90, max=0), widgets.IntSlider(description="step", max=0)
    at.style.description_width = "35px"
    widgets.jslink((play, "value"), (at, "value"))
    said, frames = widgets.HTML(), []

    def draw():
        """Paint, show each step as soon as it is there, and return the finished picture."""
        fresh = []
        for step in pipe.steps(text.value, seed=number.value, **how):
            (x,) = pipe.decode(step.x_t, check=False)
            fresh.append(_png(x, size))
            picture.value = fresh[-1]
        frames[:] = fresh
        play.max = at.max = len(frames) - 1
        at.value = at.max
        return x

    def paint(*_):
        if not text.value.strip():
            said.value = 'What shall it be? Type something like "a cat left of a red heart", then Paint.'
            return
        button.disabled, said.value = True, "painting …"
        lines = []
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                x = draw()
            lines = [f"Mind: {one.message}." for one in caught if one.category is UserWarning]
            lines += [] if comment is None else [comment(text.value, x)]
        except Exception as error:
            lines = [f"That could not be painted: {error}"]
            if not isinstance(error, ValueError):  # a defect: ipywidgets logs it
                raise
        finally:
            button.disabled, said.value = False, "<br>".join(map(html.escape, lines))

    def try_out(chosen):
        before, text.value = text.value, chosen.description
        if not live or text.value == before:  # else the new value has been painted
            paint()

    def again(change):
        if frames:
            picture.value = frames[change["new"]]

    button.on_click(paint)
    text.on_msg(lambda _, content, buffers: paint() if content.get("event") == "submit" else None)  # the Enter key
    at.observe(again, "value")
    if live:
        text.observe(paint, "value")
        number.observe(paint, "value")
    for one in tries:
        one.on_click(try_out)
    if tries:
        try_out(tries[0])
    wrapped = widgets.Box(tries, layout={"flex_flow": "row wrap", "max_width": "760px"})
    rows = [widgets.HBox([text, number, button]), wrapped, picture, widgets.HBox([play, at]), said]
    return panel(rows, "type a prompt and watch it being painted")


def _png(x: Tensor, size: int) -> bytes:
    """A picture (3, h, w) in [0, 1] as the bytes of a PNG about `size` wide, its pixels sharp squares."""
    scale = max(1, round(size / x.shape[2]))
    shape = (x.shape[2] * scale, x.shape[1] * scale)
    file = io.BytesIO()
    to_pil(x)[0].resize(shape, Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
