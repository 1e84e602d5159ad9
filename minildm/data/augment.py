"""Random crops of a few annotated images, turned, mirrored, bent and re-lit, so that few images teach as many would."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def elastic_grid(
    generator: torch.Generator, n: int, size: int, bend: float = 3.0, turn: bool = True, zoom: float = 0.2
) -> Tensor:
    """Where n deformed crops take their pixels from: offsets (x, y) from the crop's centre, (n, size, size, 2).

    bend: standard deviation, in pixels, of the random displacements at the nodes of a coarse grid, which lie some 32
    pixels apart, with bicubic interpolation between them; 0 leaves the crop straight.
    turn: random angle and mirror.  zoom: sizes change by factors of up to exp(±zoom).
    Source: Ronneberger et al., "U-Net" (2015), section 3.1 (there 10 pixels on a 3×3 grid over a larger tile).
    """
    line = torch.arange(size) - (size - 1) / 2
    straight = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)  # (size, size, 2), last axis (x, y)
    angle = 2 * math.pi * torch.rand(n, generator=generator) * turn
    mirror = 1.0 - 2.0 * torch.randint(0, 2, (n,), generator=generator) * turn
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin * mirror, sin, cos * mirror], dim=-1).view(n, 1, 2, 2)
    scale = (zoom * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1)).exp()
    turned = (rotation[:, :, None] @ straight[..., None]).squeeze(-1) * scale  # (n, size, size, 2)
    nodes = max(2, round(size / 32) + 1)
    displacement = bend * torch.randn(n, 2, nodes, nodes, generator=generator)
    return turned + F.interpolate(displacement, size, mode="bicubic", align_corners=True).movedim(1, -1)


def sample(maps: Tensor, points: Tensor, mode: str = "nearest") -> Tensor:
    """The values of maps (c, h, w) at points (n, a, b, 2), (x, y) in pixels; beyond the edge they are mirrored.

    mode: "nearest", or "bilinear" between four pixels.  Returns (n, c, a, b).
    """
    h, w = maps.shape[-2:]
    unit = (points + 0.5) / points.new_tensor([w, h]) * 2 - 1  # grid_sample's own units: the image is [-1, 1]²
    maps = maps[None].expand(len(points), -1, -1, -1)
    return F.grid_sample(maps, unit, mode, padding_mode="reflection", align_corners=False)


class Crops:
    """Batches of deformed crops: `crops(generator, n)` -> {"image": (n, 1, size, size), other maps: (n, size, size)}.

    pieces: dicts of maps (h, w), all of the same names, one of them `image`, normalised to about [-1, 1].
    size: side of a crop, pixels.  bend, turn, zoom: as in `elastic_grid`.
    light: 0 leaves the intensities; 1 changes each crop's contrast by about ±25 % and its brightness by ±0.1.
    The larger a piece, the oftener it is drawn. A crop never reaches from one piece into another.
    """

    def __init__(
        self,
        pieces: Sequence[dict[str, np.ndarray]],
        size: int = 128,
        bend: float = 3.0,
        turn: bool = True,
        zoom: float = 0.2,
        light: float = 1.0,
    ):
        if not pieces or any("image" not in piece or piece.keys() != pieces[0].keys() for piece in pieces):
            raise ValueError("expected at least one piece, and in each the same names, one of them 'image'")
        self.names = sorted(pieces[0], key=lambda name: name != "image")  # the image first
        self.pieces = [torch.from_numpy(np.stack([p[name] for name in self.names], dtype=np.float32)) for p in pieces]
        self.areas = torch.tensor([float(piece[0].numel()) for piece in self.pieces])
        self.size, self.bend, self.turn, self.zoom, self.light = size, bend, turn, zoom, light

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        which = torch.multinomial(self.areas, n, replacement=True, generator=generator)
        room = torch.rand(n, 2, generator=generator)
        grid = elastic_grid(generator, n, self.size, self.bend, self.turn, self.zoom)
        images, others = [], []
        for k, where, offsets in zip(which.tolist(), room, grid, strict=True):
            maps = self.pieces[k]
            free = torch.tensor([maps.shape[2], maps.shape[1]]) - self.size  # where a crop's corner may lie; below 0
            points = (offsets + self.size / 2 - 0.5 + where * free)[None]  # a small piece is mirrored around
            images.append(sample(maps[:1], points, "bilinear"))
            others.append(sample(maps[1:], points))
        images, others = torch.cat(images), torch.cat(others)  # (n, 1, size, size), (n, maps, size, size)
        contrast, brightness = self.light * (torch.rand(2, n, 1, 1, 1, generator=generator) - 0.5)
        images = (images + 1) * (0.5 * contrast).exp() - 1 + 0.2 * brightness
        return {"image": images} | dict(zip(self.names[1:], others.unbind(1), strict=True))
