"""A small denoiser of twins: two equal tiles in each picture, far apart; for lesson 05.

Every picture obeys two rules. A near one: the left half of a tile is the mirror image of its right half, at most three
pixels away. A far one: the second tile equals the first one, four to six rows or columns away. All tiles are random.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minildm import samplers
from minildm.attention import SpatialAttention
from minildm.denoiser import Denoiser
from minildm.layers import NO_CONDITION, Cond, conv3x3, group_norm
from minildm.losses import denoising_error, denoising_loss, draw_noise
from minildm.recipes import RUNS, Job
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.training import History, train

STEPS, BATCH, LR = 4_000, 64, 5e-3
SIZE, TILE = 10, 4  # pixels: of a picture, and of a tile
DTYPE = torch.float8_e4m3fn  # of the file: its samples agree as well as in float32, see the evidence of lesson 05
LEVELS = (50, 200, 350, 500, 650, 800, 950)  # timesteps at which errors are measured


class Twins(NamedTuple):
    """n pictures of two tiles each."""

    images: Tensor  # (n, 1, 10, 10): -1 or 1 in a tile, 0 around it
    corners: Tensor  # (n, 2, 2) int64: row and column of each tile's upper left pixel


def tiles(n: int, generator: torch.Generator) -> Tensor:
    """Random tiles whose right half is the mirror image of the left one. (n, 4, 4) of -1 and 1"""
    half = 2.0 * torch.randint(2, (n, TILE, TILE // 2), generator=generator) - 1
    return torch.cat([half, half.flip(2)], dim=2)


def scenes(n: int, generator: torch.Generator, equal: bool = True) -> Twins:
    """n pictures: two of the four quarters hold a tile, and these are equal; the rest is 0.

    A tile stands in its quarter at one of four places, so two tiles are not always equally far apart.
    equal: False draws each tile anew, for comparison.
    """
    first, other = tiles(n, generator), tiles(n, generator)
    quarter = torch.rand(n, 4, generator=generator).argsort(1)[:, :2]
    shift = torch.randint(2, (n, 2, 2), generator=generator)
    corners = SIZE // 2 * torch.stack([quarter // 2, quarter % 2], dim=2) + shift
    images = torch.zeros(n, 1, SIZE, SIZE)
    for k, drawn in enumerate((first, first if equal else other)):
        rows, columns = (corners[:, k, axis, None] + torch.arange(TILE) for axis in (0, 1))  # (n, 4) each
        images[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None]] = drawn
    return Twins(images, corners)


class Local(nn.Module):
    """What takes the place of an attention layer: two convolutions, with at least as many parameters; they are added.

    It is normalised and added as `SpatialAttention` is, but sees no farther than two places. (b, c, h, w)
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = -(-(4 * channels**2 + 3 * channels) // (18 * channels + 1))  # attention has 4 c² + 4 c; rounded up
        self.norm = group_norm(channels)
        self.conv1 = conv3x3(channels, inner)
        self.conv2 = conv3x3(inner, channels)

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


def network(seed: int = 0, attention: bool = True) -> Denoiser:
    """The untrained denoiser, which attends at 10×10 and 5×5; or the same with `Local` instead of each attention layer.

    All other weights start alike in both.
    """
    with seeded(seed):
        net = Denoiser(1, 1, channels=(16, 24), attention=(0, 1), heads=2, schedule=schedule())
        return net if attention else localised(net)


def localised(net: nn.Module) -> nn.Module:
    """Put a new `Local` in the place of each attention layer of `net`, which is changed; returns it."""
    for name, child in net.named_children():
        if isinstance(child, SpatialAttention):
            setattr(net, name, Local(child.norm.num_channels))
        else:
            localised(child)
    return net


def schedule() -> NoiseSchedule:
    """The noise schedule it is trained with, to predict x_0: so the errors at much noise count most."""
    return NoiseSchedule.cosine().predicting("x_0")


def fit(model: Denoiser, steps: int = STEPS, seed: int = 0, **options: Any) -> History:
    """Train `model` on twins, each picture a new one; further options go to `minildm.training.train`."""
    noise = schedule()

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return draw_noise(scenes(n, generator).images, noise, generator)

    def loss(model, batch):
        return denoising_loss(model, batch, noise)

    return train(model, batch, loss, **dict(steps=steps, batch_size=BATCH, lr=LR, seed=seed) | options)


@torch.no_grad()
def errors(model: Denoiser, n: int = 512, seed: int = 1000, equal: bool = True) -> list[float]:
    """The mean squared error of x_0 on n fresh pictures, at each of LEVELS.  equal: as in `scenes`."""
    generator = torch.Generator().manual_seed(seed)
    x_0, noise = scenes(n, generator, equal).images, schedule()
    batches = (draw_noise(x_0, noise, generator) | {"t": torch.full((n,), t)} for t in LEVELS)
    return [denoising_error(model, batch, noise).mean().item() for batch in batches]


def draw(model: Denoiser, n: int = 512, steps: int = 25, seed: int = 0) -> Tensor:
    """n pictures from noise, (n, 1, 10, 10)."""
    x_T = torch.randn(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return list(samplers.ddim(model, schedule(), x_T, steps, clip=1))[-1].x_t


class Look(NamedTuple):
    """What `look` sees in n pictures."""

    near: Tensor  # (n,) in [0, 1]: share of the pixels of tiles that equal their mirror image
    far: Tensor  # (n,) in [0, 1]: share of the 16 pixels that are equal in both tiles
    good: Tensor  # (n,) bool: there are two tiles, in quarters of their own, and nothing else


def look(images: Tensor) -> Look:
    """How well near and far regions of pictures (n, 1, 10, 10) agree; near and far are 0 where there are not two tiles.

    A pixel belongs to a tile where it is below -0.5 or above 0.5. By chance two pixels agree in half of all cases.
    """
    n, half = len(images), SIZE // 2
    parts = rearrange(images, "n 1 (y h) (x w) -> (n y x) 1 h w", h=half, w=half)
    windows = F.unfold(parts, TILE).mT  # (4 n, window, 16)
    inked = (parts.abs() > 0.5).sum((1, 2, 3))  # (4 n,)
    full = (windows.abs() > 0.5).all(2) & (inked == TILE**2)[:, None]  # (4 n, window)
    tile = windows[torch.arange(4 * n), full.int().argmax(1)].sign().view(n, 4, TILE, TILE)
    there, empty = full.any(1).view(n, 4), (inked == 0).view(n, 4)
    good = (there.sum(1) == 2) & (empty.sum(1) == 2)
    two = tile[there & good[:, None]].view(-1, 2, TILE, TILE)
    near, far = torch.zeros(n), torch.zeros(n)
    near[good] = (two == two.flip(3)).float().mean((1, 2, 3))
    far[good] = (two[:, 0] == two[:, 1]).float().mean((1, 2))
    return Look(near, far, good)


def agreement(images: Tensor) -> dict[str, float]:
    """How many of the pictures hold two tiles, how well these agree, and how many pictures obey a rule in full.

    good: the share with two tiles.  near, far: means over these, as in `Look`; 0 if there are none.
    mirrored, equal: shares of all pictures whose tiles are both mirrored, or equal.
    """
    near, far, good = look(images)
    n, two = len(images), max(1, int(good.sum()))
    shares = {"good": good.sum() / n, "near": near.sum() / two, "far": far.sum() / two}
    shares |= {"mirrored": (near == 1).sum() / n, "equal": (far == 1).sum() / n}
    return {name: share.item() for name, share in shares.items()}


ROLES = ("itself and its mirror image", "these two in the twin", "the twin's other pixels", "the ground")


def seen(attention_map: Tensor, corners: Tensor) -> Tensor:
    """Whom the pixels of the first tile look at, as multiples of an even share: 1 is what every pixel gets by chance.

    attention_map: (n, heads, 100, 100), of a layer at full resolution, as `attention_maps` collects it.
    corners: of the tiles, as in `Twins`.  -> (n, heads, 4): the mean of a pixel of each of ROLES
    """
    n, side = len(corners), torch.arange(TILE)
    rows, columns = (corners[:, :, axis, None] + side for axis in (0, 1))  # (n, tile, 4) each
    pixels = (SIZE * rows[..., :, None] + columns[..., None, :]).flatten(2)  # (n, tile, 16)
    ground = torch.ones(n, SIZE**2, dtype=torch.bool).scatter(1, pixels.flatten(1), False)
    sent = SIZE**2 * attention_map.take_along_dim(pixels[:, 0, None, :, None], 2)  # (n, heads, 16, 100): by who asks
    own, twin = (sent.take_along_dim(pixels[:, k, None, None].expand(n, 1, TILE**2, TILE**2), 3) for k in (0, 1))
    number = torch.arange(TILE**2).view(TILE, TILE)
    one, mirror = number.flatten(), number.flip(1).flatten()
    alike = (one == one[:, None]) | (one == mirror[:, None])  # (16, 16)
    around = (sent.mean(2) * ground[:, None]).sum(2) / ground.sum(1)[:, None]
    return torch.stack([own[..., alike].mean(2), twin[..., alike].mean(2), twin[..., ~alike].mean(2), around], dim=2)


def evaluate(model: Denoiser, n: int = 512) -> dict[str, Any]:
    """Errors of x_0 on fresh pictures, at each of LEVELS, and the `agreement` in n samples."""
    return {"errors": errors(model, n), **agreement(draw(model, n))}


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train the denoiser with attention, measure it, write the checkpoint; returns its path."""
    model, job = network(seed), Job("twins", out, seed, resume, runs)
    history = fit(model, steps or STEPS, seed, checkpoint=job.checkpoint())
    facts = {"data": f"twins {SIZE}×{SIZE}", "predicts": "x_0", "measured": evaluate(model)}
    return job.finish(model, history, dtype=DTYPE, **facts)
