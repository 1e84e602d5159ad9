"""Pictures that change with time: animations and sliders."""

import base64
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minildm import storage
from minildm.images import Images
from minildm.optional import require

from ._pictures import pixels


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
    frames: Iterable[Images],
    *,
    fps: float = 12,
    scale: int = 4,
    hold: float = 1.5,
    columns: int = 8,
    captions: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Film:
    """An animation of pictures: as the last expression of a cell it plays; `.save` writes a GIF or an HTML page.

    frames: each a picture (c, h, w) in [-1, 1], or uint8 (h, w, 3), or anything else that `pixels` takes; a batch
        (b, c, h, w) is laid out in rows of `columns`.
    fps: frames a second.  scale: each pixel becomes scale × scale.  hold: seconds for which the last frame rests.
    captions: a line above each frame.  names: of what stands side by side in a frame, in equal parts, below the line.
    Raises ValueError for no frames, or frames of different sizes, and for other than one caption for each frame.
    """
    made = [_frame(frame, columns) for frame in frames]
    if len({frame.shape for frame in made}) != 1:
        raise ValueError(f"expected frames, all of one size, got sizes {sorted({frame.shape for frame in made})}")
    if len(captions) not in (0, len(made)):
        raise ValueError(f"expected no captions or one for each of {len(made)} frames, got {len(captions)}")
    if captions or names:
        lines = captions or [""] * len(made)
        made = [_titled(frame, line, names, scale) for frame, line in zip(made, lines, strict=True)]
        scale = 1
    return Film(made, fps, scale, hold)


def slider(draw: Callable[..., object], **values: tuple | Iterable) -> Any:
    """Sliders and menus above a figure that follows them; as the last expression of a cell it is shown.

    draw: called with one keyword argument for each of `values`; it draws one matplotlib figure.
    values: a tuple (lowest, highest) or (lowest, highest, step) makes a slider that starts in the middle, a list of
        choices a menu that starts with the first.
    Raises ValueError for a tuple of other lengths, and for no choices.
    """
    widgets, plt = require("ipywidgets"), require("matplotlib.pyplot")

    def control(name, value):
        if not isinstance(value, tuple):
            value = list(value)
            if not value:
                raise ValueError(f"expected choices for {name}, got none")
            return widgets.Dropdown(options=value, description=name)
        if len(value) not in (2, 3):
            raise ValueError(f"expected {name} as (lowest, highest) or (lowest, highest, step), got {value}")
        kind = widgets.IntSlider if all(isinstance(v, int) for v in value) else widgets.FloatSlider
        low, high, step = value if len(value) > 2 else (*value, None)
        made = kind(min=low, max=high, description=name, **{"step": step} if step else {})
        made.value = low + made.step * int((high - low) / 2 / made.step)
        return made

    def redraw(**chosen):
        draw(**chosen)
        plt.show()

    controls = {name: control(name, value) for name, value in values.items()}
    return panel([*controls.values(), widgets.interactive_output(redraw, controls)], "choose: " + ", ".join(controls))


def panel(children: list, what: str) -> Any:
    """Widgets, one below the other. A page that shows no widgets shows a line instead: run this cell to …"""

    class Panel(require("ipywidgets").VBox):
        def __repr__(self):
            return f"run this cell to {what}"

    return Panel(children)


def _titled(frame, line, names, scale):
    """A frame at its full size, with words above it: a line, and the names of its parts; uint8 (h, w, 3)."""
    large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    high, wide = 20, large.shape[1]
    words = Image.new("RGB", (wide, high * (bool(line) + bool(names))), "white")
    draw, font = ImageDraw.Draw(words), ImageFont.load_default(14)
    if line:
        draw.text((wide / 2, high / 2), line, "black", font, anchor="mm")
    for k, name in enumerate(names):
        draw.text(((k + 0.5) * wide / len(names), words.height - high / 2), name, "black", font, anchor="mm")
    return np.concatenate([np.asarray(words), large])


def _frame(frame, columns):
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    pictures = pixels(frame)
    pictures = pictures if pictures.ndim == 4 else pictures[None]  # (b, h, w, 3)
    pad = [(0, -len(pictures) % min(columns, len(pictures)))] + [(0, 0)] * 3
    rows = np.split(np.pad(pictures, pad, constant_values=255), -(-len(pictures) // columns))
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
