"""The U: an encoder that halves the image, a decoder that doubles it, and skips that carry detail across.

It knows nothing of time or words. It is built from whatever blocks it is handed, and passes `cond` to each.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.layers import NO_CONDITION, Chain, Cond, Downsample, ResidualBlock, Upsample, conv3x3, group_norm
from minildm.tensors import check_images

BlockFactory = Callable[[int, int, int], nn.Module]  # (in_channels, out_channels, level) -> block


def residual_block(in_channels: int, out_channels: int, level: int) -> nn.Module:
    """The default factory: the same residual block at every level."""
    return ResidualBlock(in_channels, out_channels)


class UNet(nn.Module):
    """The U-Net. `u(x)` maps (b, in_channels, h, w) to (b, out_channels, h, w).

    channels: width of each level, from full resolution down; h and w must be divisible by 2**(levels - 1).
    blocks_per_level: blocks of a level in the encoder; the decoder has one more, to take in every skip.
    skip: False cuts the skips, for experiments: then nothing but the middle reaches the decoder.
    block: factory of the blocks, called with (in_channels, out_channels, level), level 0 being full resolution.
    middle: factory of the bottom of the U, called with its channels; by default two blocks.
    groups, eps: of the last normalisation, as in `layers.group_norm`.

    The U with residual blocks is that of Ho et al., "Denoising Diffusion Probabilistic Models" (2020), and of
    Stable Diffusion; the idea is that of Ronneberger et al., "U-Net" (2015).
    Raises ValueError for a wrong number of channels or a size that cannot be halved often enough.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128),
        blocks_per_level: int = 1,
        skip: bool = True,
        *,
        block: BlockFactory = residual_block,
        middle: Callable[[int], nn.Module] | None = None,
        groups: int | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        channels = tuple(channels)
        if not channels or min(in_channels, out_channels, blocks_per_level, *channels) < 1:
            raise ValueError(
                "expected at least one level and positive sizes, got "
                f"{in_channels=}, {out_channels=}, {channels=}, {blocks_per_level=}"
            )
        self.in_channels, self.out_channels, self.skip = in_channels, out_channels, skip
        self.multiple = 2 ** (len(channels) - 1)
        # What `weights` writes into a checkpoint to build this network again; blocks of your own cannot be written.
        self.config = None
        if block is residual_block and middle is None:
            self.config = dict(
                in_channels=in_channels,
                out_channels=out_channels,
                channels=list(channels),
                blocks_per_level=blocks_per_level,
                skip=skip,
                groups=groups,
                eps=eps,
            )

        bottom = len(channels) - 1
        width = channels[0]
        self.stem = conv3x3(in_channels, width)

        self.down = nn.ModuleList()
        skips = [width]  # widths of the feature maps that wait for the decoder, last in, first out
        for level, out in enumerate(channels):
            for _ in range(blocks_per_level):
                self.down.append(block(width, out, level))
                width = out
                skips.append(width)
            if level < bottom:
                self.down.append(Downsample(width))
                skips.append(width)

        self.middle = middle(width) if middle else Chain([block(width, width, bottom) for _ in range(2)])

        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(channels))):
            for _ in range(blocks_per_level + 1):
                self.up.append(block(width + skips.pop() if skip else width, out, level))
                width = out
            if level > 0:
                self.up.append(Upsample(width))

        self.norm = group_norm(width, groups, eps)
        self.head = conv3x3(width, out_channels)

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        check_images(x, self.in_channels, self.multiple)
        if not isinstance(cond, Cond):
            raise ValueError(f"expected cond as a Cond, got {type(cond).__name__}; a U-Net that takes t is a Denoiser")
        skips = self.encode(x, cond)
        h = self.middle(skips[-1], cond)  # (b, channels[-1], h / multiple, w / multiple)
        return self.output(self.decode(h, skips, cond))

    def encode(self, x: Tensor, cond: Cond = NO_CONDITION) -> list[Tensor]:
        """All feature maps of the way down, from fine to coarse: the skips."""
        skips = [self.stem(x)]
        for layer in self.down:
            skips.append(layer(skips[-1], cond))
        return skips

    def output(self, h: Tensor) -> Tensor:
        """The last layer, from the decoder's widest map. (b, channels[0], h, w) -> (b, out_channels, h, w)"""
        return self.head(F.silu(self.norm(h)))

    def decode(self, h: Tensor, skips: list[Tensor], cond: Cond = NO_CONDITION) -> Tensor:
        """The way up: each block takes in the skip of its own size, each `Upsample` doubles the size.

        Takes the skips out of the list one by one, so that each is freed as soon as it is used.
        """
        for layer in self.up:
            if self.skip and not isinstance(layer, Upsample):
                h = torch.cat([h, skips.pop()], dim=1)
            h = layer(h, cond)
        return h
