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
    """Elastic deformation: where n crops take their pixels from, as offsets from the crop's centre.

    bend: standard deviation, in pixels, of the random displacements at the nodes of a coarse grid, which lie some 32
    pixels apart, with bicubic interpolation between them; 0 leaves the crop straight.
    turn: random angle and mirror.  zoom: sizes change by factors of up to exp(±zoom).
    Returns (n, size, size, 2), the last axis (x, y) in pixels.
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
    """Interpolation: the values of maps (c, h, w) at points (n, a, b, 2), which are (x, y) in pixels.

    mode: "nearest", or "bilinear" between four pixels. Beyond the edge the maps are mirrored.  Returns (n, c, a, b).
    """
    h, w = maps.shape[-2:]
    unit = (points + 0.5) / points.new_tensor([w, h]) * 2 - 1  # grid_sample's own units: the image is [-1, 1]²
    maps = maps[None].expand(len(points), -1, -1, -1)
    return F.grid_sample(maps, unit, mode, padding_mode="reflection", align_corners=False)


class Crops:
    """Data augmentation, batches of deformed crops: `crops(generator, n)` -> image and other maps by name.

    pieces: dicts of maps (h, w), all of the same names, one of them `image`, normalised to about [-1, 1] and (h, w, 3)
        where it is in colour. Each piece has a size of its own.
    Of the result, `image` is (n, 1, size, size), or (n, 3, size, size) in colour; other maps are (n, size, size).
    size: side of a crop, pixels.  bend, turn, zoom: as in `elastic_grid`.
    light: 0 leaves the intensities; 1 changes each crop's contrast by about ±25 % and its brightness by ±0.1.
    The larger a piece, the oftener it is drawn. A crop never reaches from one piece into another.
    Raises ValueError for pieces that do not agree in their names or channels, and for maps of other sizes than their
    image.
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
        self.names = [name for name in pieces[0] if name != "image"]
        self.pieces = [self._stacked(piece, number) for number, piece in enumerate(pieces)]
        channels = {len(piece) - len(self.names) for piece in self.pieces}
        if len(channels) > 1:
            raise ValueError("expected images that are all grey (h, w) or all in colour (h, w, 3), got both")
        (self.channels,) = channels
        self.areas = torch.tensor([float(piece[0].numel()) for piece in self.pieces])
        self.size, self.bend, self.turn, self.zoom, self.light = size, bend, turn, zoom, light

    def _stacked(self, piece: dict[str, np.ndarray], number: int) -> Tensor:
        """All maps of a piece, those of the image first. -> (maps, h, w)"""
        image = np.asarray(piece["image"], np.float32)
        shapes = {name: np.shape(piece[name]) for name in self.names}
        fits = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and image.size
        if not fits or any(shape != image.shape[:2] for shape in shapes.values()):
            raise ValueError(
                f"expected an image (h, w) or (h, w, 3) and maps (h, w) of its size, got in piece {number} an image of "
                f"{image.shape}, {shapes}"
            )
        image = np.moveaxis(image.reshape(*image.shape[:2], -1), -1, 0)
        return torch.from_numpy(np.stack([*image, *(piece[name] for name in self.names)], dtype=np.float32))

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        which = torch.multinomial(self.areas, n, replacement=True, generator=generator)
        room = torch.rand(n, 2, generator=generator)
        grid = elastic_grid(generator, n, self.size, self.bend, self.turn, self.zoom)
        images, others = [], []
        for k, where, offsets in zip(which.tolist(), room, grid, strict=True):
            maps = self.pieces[k]
            free = torch.tensor([maps.shape[2], maps.shape[1]]) - self.size  # where a crop's corner may lie; below 0
            points = (offsets + self.size / 2 - 0.5 + where * free)[None]  # a small piece is mirrored around
            images.append(sample(maps[: self.channels], points, "bilinear"))
            others.append(sample(maps[self.channels :], points))
        images, others = torch.cat(images), torch.cat(others)  # (n, c, size, size), (n, maps, size, size)
        contrast, brightness = self.light * (torch.rand(2, n, 1, 1, 1, generator=generator) - 0.5)
        images = (images + 1) * (0.5 * contrast).exp() - 1 + 0.2 * brightness
        return {"image": images} | dict(zip(self.names, others.unbind(1), strict=True))
