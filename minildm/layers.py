"""The U-Net's bricks. Every block is called `block(x, cond)`, so one U can be built from any of them."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from minildm.optional import moved


@dataclass(frozen=True)
class Cond:
    """The conditions that a block may use besides its input; the U hands them on untouched.

    emb: (b, d) one vector per image, such as the noise level.  context: (b, n, d) a sequence, such as words.
    mask: (b, n) bool, True where `context` holds something.
    """

    emb: Tensor | None = None
    context: Tensor | None = None
    mask: Tensor | None = None


NO_CONDITION = Cond()

__getattr__ = moved(__name__, {"NOTHING": "minildm.layers.NO_CONDITION"})


class Chain(nn.ModuleList):
    """Blocks one after the other, each given the same `cond`."""

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        for block in self:
            x = block(x, cond)
        return x


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the image size (halves it at stride 2)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)


def group_norm(channels: int, groups: int | None = None, eps: float = 1e-5) -> nn.GroupNorm:
    """Group normalisation (Wu and He 2018) in 32 groups, or in the most below that of at least four channels each.

    Raises ValueError when `channels` do not split into the `groups` that you ask for.
    """
    if groups is None:
        groups = next(g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0)
    if channels % groups:
        raise ValueError(f"{channels} channels do not split into {groups} groups: choose a multiple of {groups}")
    return nn.GroupNorm(groups, channels, eps)


class ResidualBlock(nn.Module):
    """The block of today: (normalise, SiLU, convolve) twice, added to the input. (b, in, h, w) -> (b, out, h, w)

    groups: of the normalisation; None picks them by `group_norm`.  eps: added to its variances.
    Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B, here without time.
    """

    def __init__(self, in_channels: int, out_channels: int, *, groups: int | None = None, eps: float = 1e-5):
        super().__init__()
        self.norm1 = group_norm(in_channels, groups, eps)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = group_norm(out_channels, groups, eps)
        self.conv2 = conv3x3(out_channels, out_channels)
        # The input must be as wide as the output to be added to it; a 1×1 convolution widens it.
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (b, out, h, w)
        h = self.conv2(F.silu(self.norm2(self.condition(h, cond))))
        return self.shortcut(x) + h

    def condition(self, h: Tensor, cond: Cond) -> Tensor:
        """Where a subclass lets `cond` act, between the two convolutions. Here it does not."""
        return h


class Downsample(nn.Module):
    """Half the size, by a convolution of stride 2. (b, c, h, w) -> (b, c, h/2, w/2)"""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels, stride=2)

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the size: each pixel becomes four equal ones, then a convolution. (b, c, h, w) -> (b, c, 2h, 2w)

    A transposed convolution of stride 2 would do both at once, but leaves a checkerboard (Odena et al. 2016).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
