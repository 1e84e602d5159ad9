"""Pictures that change with time: contact sheets and film strips, animations, sliders."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from minildm import storage
from minildm.images import from_model, to_uint8
from minildm.optional import require
from minildm.samplers import Step


def pixels(x: Tensor) -> np.ndarray:
    """Pictures (b, c, h, w), or one (c, h, w), in [-1, 1] as uint8 (b, h, w, 3) or (h, w, 3); what lies outside is cut.

    Raises ValueError unless c is 1 or 3, and for integers and what is not finite.
    """
    if x.ndim not in (3, 4) or x.shape[-3] not in (1, 3):
        raise ValueError(f"expected pictures (b, c, h, w) or (c, h, w) with 1 or 3 channels, got {tuple(x.shape)}")
    drawn = to_uint8(from_model(x.detach().cpu())).movedim(1, -1).numpy()  # (b, h, w, 3)
    return drawn if x.ndim == 4 else drawn[0]


def gallery(
    x: Tensor,
    columns: int = 16,
    *,
    size: float = 0.6,
    title: str = "",
    captions: Sequence[str] | None = None,
    frames: Sequence[str | None] | None = None,
):
    """A contact sheet of pictures x (b, c, h, w) in [-1, 1], each `size` inches wide; returns the figure.

    captions: above the pictures; may have several lines.  frames: a colour around each picture; None: no frame.
    """
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    titles = [*(captions or ()), *[""] * (rows * columns)][: rows * columns]
    in_rows = [titles[k : k + columns] for k in range(0, len(titles), columns)]
    lines = [max(above.count("\n") + 1 if above else 0 for above in row) for row in in_rows]
    height = size * x.shape[-2] / x.shape[-1] + sum(0.06 + 0.14 * n for n in lines if n) / rows
    figure, axes = _sheet(rows, columns, size, height, title)
    for axis, picture, above, colour in zip(axes.flat, pixels(x), titles, frames or [None] * len(x), strict=False):
        axis.imshow(picture)
        axis.set_title(above, fontsize=8, pad=3, linespacing=1.0)
        if colour is not None:
            axis.axis("on")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color=colour, linewidth=2)
    return figure


def filmstrip(steps: Sequence[Step], columns: int = 8, *, sample: int = 0, size: float = 1.15, title: str = ""):
    """The way of one sample: above, x_t as it is; below, x0_hat, what the model takes it for. Returns the figure.

    steps: all that a sampler yields, as a list; `columns` of them are shown, the first and the last among them.
    sample: which one of the batch.
    """
    chosen = [steps[k] for k in np.linspace(0, len(steps) - 1, min(columns, len(steps))).round().astype(int)]
    figure, axes = _sheet(2, len(chosen), size, size + 0.15, title)
    for column, step in zip(axes.T, chosen, strict=True):
        for axis, x in zip(column, (step.x_t, step.x0_hat), strict=True):
            axis.imshow(pixels(x[sample]))
        column[0].set_title("finished" if step.t < 0 else f"t = {step.t}", fontsize=9)
    for axis, name in zip(axes[:, 0], ("$x_t$", r"$\hat x_0$"), strict=True):
        axis.text(-0.12, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=12)
    return figure


def word_maps(
    pictures: Tensor,
    maps: Tensor,
    words: Sequence[str],
    rows: Sequence[str] = (),
    *,
    size: float = 1.1,
    title: str = "",
):
    """Pictures, and beside each the same once for every word, lit where the word was looked at; returns the figure.

    pictures: (b, c, h, w) in [-1, 1], one in each row.  maps: (b, m, h, w), as from `attention.mean_map`; each is shown
        between its own smallest and largest value, so brightness says where, not how much.
    words: m titles.  rows: b labels at the left.
    Raises ValueError for maps that do not fit the pictures or the words.
    """
    b, m, *sides = maps.shape
    if (b, *sides) != (len(pictures), *pictures.shape[2:]) or m != len(words):
        raise ValueError(
            f"expected maps ({len(pictures)}, {len(words)}, {pictures.shape[2]}, {pictures.shape[3]}), one for each "
            f"picture and word, got {tuple(maps.shape)}"
        )
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    light = ((maps - low) / (high - low).clamp_min(1e-12)).cpu().numpy()[..., None]
    figure, axes = _sheet(b, 1 + m, size, size * sides[0] / sides[1] + 0.2 / b, title)
    for row, picture, lights in zip(axes, pixels(pictures), light, strict=True):
        row[0].imshow(picture)
        for axis, bright in zip(row[1:], lights, strict=True):
            axis.imshow((picture * (0.1 + 0.9 * bright)).astype(np.uint8))
    for axis, word in zip(axes[0, 1:], words, strict=True):
        axis.set_title(word, fontsize=10)
    for axis, label in zip(axes[:, 0], rows, strict=False):
        axis.text(-0.08, 0.5, label, transform=axis.transAxes, ha="right", va="center", fontsize=9)
    return figure


class Film:
    """An animation, made by `animation`: a notebook shows it as a GIF."""

    def __init__(self, frames: Sequence[np.ndarray], fps: float, scale: int, hold: float):
        self.frames, self.fps, self.scale, self.hold = [Image.fromarray(frame) for frame in frames], fps, scale, hold

    def save(self, path: str | Path) -> Path:
        """Write a .gif, or an .html page in which the reader can play, stop and drag; returns the path."""
        path = Path(path)
        made = {".gif": self.gif, ".html": lambda: self.html().encode()}
        if path.suffix not in made:
            raise ValueError(f"expected a path ending in .gif or .html, got {path.name!r}")
        return storage.write_bytes(path, made[path.suffix]())

    def gif(self) -> bytes:
        """The animation as the bytes of a GIF that loops, and rests on its last frame for `hold` seconds."""
        times = [round(1000 / self.fps)] * len(self.frames)
        times[-1] += round(1000 * self.hold)
        # One palette for all frames, or colours would flicker.
        some = {k: self.frames[k] for k in np.linspace(0, len(self.frames) - 1, 12).round().astype(int)}
        palette = Image.fromarray(np.concatenate(list(some.values()))).quantize(256)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        frames = [
            frame.resize([side * self.scale for side in frame.size], Image.Resampling.NEAREST) for frame in frames
        ]
        file = io.BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
        return file.getvalue()

    def html(self) -> str:
        """The animation as a page that needs nothing from outside: a picture, a button and a slider."""
        frames = []
        for frame in self.frames:
            file = io.BytesIO()
            frame.save(file, "PNG", optimize=True)
            frames.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
        wait = round(1000 / self.fps)
        return _PLAYER.format(
            frames=json.dumps(frames), width=self.frames[0].width * self.scale, last=len(frames) - 1, wait=wait,
            rest=round(1000 * self.hold / wait),
        )  # fmt: skip

    def _repr_mimebundle_(self, include=None, exclude=None):
        text = f"an animation of {len(self.frames)} frames"
        return {"image/gif": base64.b64encode(self.gif()).decode(), "text/plain": text}


_PLAYER = """<!doctype html><meta charset="utf-8"><title>animation</title>
<div style="width:{width}px;font:14px sans-serif">
<img style="width:100%;image-rendering:pixelated" alt="animation"><br>
<button style="width:40px" title="play or pause">❚❚</button>
<input type="range" min="0" max="{last}" value="0" title="frame" style="width:calc(100% - 60px)">
</div>
<script>(() => {{
  const frames = {frames};
  const [picture, button, slider] = ["img", "button", "input"].map(name => document.querySelector(name));
  let playing = true, rest = 0;
  const show = () => picture.src = frames[slider.value];
  const play = yes => {{ playing = yes; button.textContent = playing ? "❚❚" : "▶"; }};
  button.onclick = () => play(!playing);
  slider.oninput = () => {{ play(false); show(); }};
  show();
  setInterval(() => {{
    if (!playing || rest-- > 0) return;
    slider.value = slider.value == {last} ? 0 : +slider.value + 1;
    rest = slider.value == {last} ? {rest} : 0;
    show();
  }}, {wait});
}})()</script>
"""


def animation(
    frames: Sequence[Tensor | np.ndarray], *, fps: float = 12, scale: int = 4, hold: float = 1.5, columns: int = 8
) -> Film:
    """An animation of pictures: as the last expression of a cell it plays; `.save` writes a GIF or an HTML page.

    frames: each a picture (c, h, w) in [-1, 1], or uint8 (h, w, 3), or a batch (b, c, h, w), in rows of `columns`.
    fps: frames a second.  scale: each pixel becomes scale × scale.  hold: seconds for which the last frame rests.
    Raises ValueError for no frames, or frames of different sizes.
    """
    made = [_frame(frame, columns) for frame in frames]
    if len({frame.shape for frame in made}) != 1:
        raise ValueError(f"expected frames, all of one size, got sizes {sorted({frame.shape for frame in made})}")
    return Film(made, fps, scale, hold)


def slider(draw: Callable, **values: tuple | Sequence):
    """Sliders and menus above a figure that follows them; as the last expression of a cell it is shown.

    draw: called with one keyword argument for each of `values`; it draws one matplotlib figure.
    values: (lowest, highest) or (lowest, highest, step) makes a slider that starts in the middle, a list of choices a
        menu that starts with the first.
    """
    widgets, plt = require("ipywidgets"), require("matplotlib.pyplot")

    def control(name, value):
        if isinstance(value, list):
            return widgets.Dropdown(options=value, description=name)
        kind = widgets.IntSlider if all(isinstance(v, int) for v in value) else widgets.FloatSlider
        low, high, step = value if len(value) > 2 else (*value, None)
        made = kind(min=low, max=high, description=name, **{"step": step} if step else {})
        made.value = low + made.step * int((high - low) / 2 / made.step)
        return made

    def redraw(**chosen):
        draw(**chosen)
        plt.show()

    controls = {name: control(name, value) for name, value in values.items()}
    return widgets.VBox([*controls.values(), widgets.interactive_output(redraw, controls)])


def _sheet(rows, columns, width, height, title):
    """Axes without ticks, hardly apart."""
    plt = require("matplotlib.pyplot")
    size = (width * columns, height * rows + (0.35 if title else 0))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(title, fontsize=11)
    return figure, axes


def _frame(frame, columns):
    if isinstance(frame, np.ndarray):
        return frame
    pictures = pixels(frame if frame.ndim == 4 else frame[None])  # (b, h, w, 3)
    pad = [(0, -len(pictures) % min(columns, len(pictures)))] + [(0, 0)] * 3
    rows = np.split(np.pad(pictures, pad, constant_values=255), -(-len(pictures) // columns))
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
