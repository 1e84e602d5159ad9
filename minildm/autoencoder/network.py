"""The variational autoencoder: pictures into small latents and back, by the U's way down and way up, without skips.

Everything that reaches the decoder has passed the latent, a Gaussian for each picture: that is what it is for.
"""

import math
import numbers
import operator
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import SpatialAttention
from minildm.layers import NO_CONDITION, Chain, Cond, Downsample, ResidualBlock, Upsample, conv3x3, group_norm
from minildm.tensors import check_images


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution for each number of a latent, all independent.  mean, logvar: (b, c, h, w)"""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of each number, (b, c, h, w)."""
        return (self.logvar / 2).exp()

    def at(self, eps: Tensor) -> Tensor:
        """The latent that standard normal noise eps, (b, c, h, w), stands for; gradients flow through it.

        Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), section 2.4.
        """
        return self.mean + self.std * eps

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A latent drawn at random; None draws from torch's global stream. -> (b, c, h, w)"""
        device = self.mean.device if generator is None else generator.device
        eps = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=device)
        return self.at(eps.to(self.mean.device))

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence from the standard normal, in nats for a whole latent. -> (b,) float32

        Source: Kingma and Welling (2014), appendix B.
        """
        mean, logvar = self.mean.float(), self.logvar.float()
        return (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1) / 2


class DownsampleAhead(Downsample):
    """Half the size, each pixel from those right and below of it. (b, c, h, w) -> (b, c, h/2, w/2)

    `Downsample` pads all around; Stable Diffusion's encoder, unlike its U-Net, pads these two sides alone.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class InTurn(nn.Sequential):
    """nn.Sequential of layers and chains of layers. What one was given is freed before the next is called."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self:
            for layer in part if isinstance(part, Chain) else [part]:  # a call of the chain would hold its input
                x = layer(x)
        return x


class AutoencoderKL(nn.Module):
    """The variational autoencoder of latent diffusion. `encode(x)` -> Gaussian, `decode(z)` -> (b, in_channels, h, w)

    latent_channels: of z, which has 1 / `m.multiple` of the picture's height and width.
    channels: width of each level, from fine to coarse; each but the first halves the size.
    blocks_per_level: of the encoder, one number or one for each level; the decoder has one more everywhere.
    middle_attention: whether pixels attend to one another at the coarsest level.
    patch: squares of this side become channels before the first level, and pixels again after the last, so that
        nothing is convolved at full resolution: the lean way to begin. A power of two; 1: none.
    groups, eps: of the normalisations, as in `layers.group_norm`.
    scale_factor: what z is multiplied by for a denoiser, which wants a standard deviation of 1; None: not known yet.

    Stable Diffusion 1 and 2: AutoencoderKL(3, 4, (128, 256, 512, 512), 2, scale_factor=0.18215).

    Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022), appendix G.
    Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        channels: Sequence[int] = (32, 64, 128),
        blocks_per_level: int | Sequence[int] = 1,
        *,
        middle_attention: bool = True,
        patch: int = 1,
        groups: int | None = None,
        eps: float = 1e-6,
        scale_factor: float | None = None,
    ):
        super().__init__()
        channels = _whole_numbers("channels", channels)
        if not channels or min(in_channels, latent_channels, *channels) < 1:
            raise ValueError(
                f"expected at least one level and positive sizes, got {in_channels=}, {latent_channels=}, {channels=}"
            )
        one = isinstance(blocks_per_level, numbers.Integral)
        blocks = _whole_numbers("blocks_per_level", [blocks_per_level] * len(channels) if one else blocks_per_level)
        if len(blocks) != len(channels) or min(blocks) < 0:
            raise ValueError(f"expected blocks_per_level as one number from 0 or {len(channels)}, got {blocks}")
        if not isinstance(patch, numbers.Integral) or patch < 1 or patch & (patch - 1):
            raise ValueError(f"expected patch as a power of two, such as 1 or 2, got {patch}")
        self.in_channels, self.latent_channels, self.patch = in_channels, latent_channels, patch
        self.multiple = patch * 2 ** (len(channels) - 1)
        self.config = dict(
            in_channels=in_channels,
            latent_channels=latent_channels,
            channels=channels,
            blocks_per_level=blocks,
            middle_attention=middle_attention,
            patch=patch,
            groups=groups,
            eps=eps,
        )
        self.scale_factor = scale_factor

        def block(in_channels, out_channels):
            return ResidualBlock(in_channels, out_channels, groups=groups, eps=eps)

        def middle(width):
            attention = [SpatialAttention(width, groups=groups, eps=eps)] if middle_attention else []
            return Chain([block(width, width), *attention, block(width, width)])

        def head(width, out_channels):
            return dict(norm=group_norm(width, groups, eps), act=nn.SiLU(), head=conv3x3(width, out_channels))

        pixel = in_channels * patch**2  # what there is to know about a patch of the picture
        width = channels[0]
        stem, down = conv3x3(pixel, width), Chain()
        for level, out in enumerate(channels):
            for _ in range(blocks[level]):
                down.append(block(width, out))
                width = out
            if level < len(channels) - 1:
                down.append(DownsampleAhead(width))
        encoder = dict(stem=stem, down=down, middle=middle(width), **head(width, 2 * latent_channels))
        self.encoder = InTurn(OrderedDict(encoder))

        width = channels[-1]
        stem, bottom, up = conv3x3(latent_channels, width), middle(width), Chain()
        for level, out in reversed(list(enumerate(channels))):
            for _ in range(blocks[level] + 1):
                up.append(block(width, out))
                width = out
            if level > 0:
                up.append(Upsample(width))
        self.decoder = InTurn(OrderedDict(stem=stem, middle=bottom, up=up, **head(width, pixel)))

        self.quant = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant = nn.Conv2d(latent_channels, latent_channels, 1)

    @property
    def scale_factor(self) -> float | None:
        """What z is multiplied by for a denoiser. Part of `config`, so it travels with the checkpoint."""
        return self.config["scale_factor"]

    @scale_factor.setter
    def scale_factor(self, value: float | None) -> None:
        try:
            value = None if value is None else float(value)  # of a tensor or of numpy, too, which no file could hold
            known = value is None or 0 < value < math.inf
        except (TypeError, ValueError):
            known = False
        if not known:
            raise ValueError(f"expected a scale_factor above 0, or None where it is not known, got {value}")
        self.config["scale_factor"] = value

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction from the mean of the latent, shaped like x."""
        return self.decode(self.encode(x).mean)

    def encode(self, x: Tensor, encoder: Callable[[Tensor], Tensor] | None = None) -> Gaussian:
        """Pictures (b, in_channels, h, w) in [-1, 1] -> the distribution of z, (b, latent_channels, h / f, w / f).

        f is `m.multiple`.  encoder: computes what `m.encoder` does in another way, such as in tiles.
        Raises ValueError for other channels, a size that f does not divide, and integers.
        """
        check_images(x, self.in_channels, self.multiple)
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x  # it would be a copy
        h = (encoder or self.encoder)(x)
        mean, logvar = self.quant(h).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(-30, 20))  # within what its exponential can hold

    def decode(self, z: Tensor, decoder: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Latents as `encode` gives them, not scaled, (b, latent_channels, h, w) -> pictures, f times as high and wide.

        decoder: computes what `m.decoder` does in another way. Raises ValueError for a z of another shape, or integers.
        """
        if z.ndim != 4 or z.shape[1] != self.latent_channels:
            raise ValueError(f"expected latents (b, {self.latent_channels}, h, w), got shape {tuple(z.shape)}")
        _check_floats("latents", z, "z.float()")
        return F.pixel_shuffle((decoder or self.decoder)(self.post_quant(z)), self.patch)

    @torch.no_grad()
    def measure_scale(self, images: Tensor) -> float:
        """Measure the scale factor on pictures (n, in_channels, h, w) in [-1, 1], remember it, and return it.

        It is 1 / the standard deviation of the samples of all their latents, taken over all numbers together.
        Raises ValueError for integers and another range, and where that deviation is 0 or not finite. Warns where no
        number is below 0, as in pictures in [0, 1]. Source: Rombach et al. (2022), appendix G.
        """
        check_images(images, self.in_channels, self.multiple)
        low, high = (bound.item() for bound in images.aminmax()) if images.numel() else (-1.0, 1.0)
        if low < -1.001 or high > 1.001:  # not of what is not finite, which is refused below
            raise ValueError(f"expected pictures in [-1, 1], got values from {low:.3g} to {high:.3g}")
        if low >= 0:
            warnings.warn(
                f"expected pictures in [-1, 1], got values from {low:.3g} to {high:.3g}; 2 * x - 1 maps [0, 1]",
                stacklevel=3,  # out of no_grad, too
            )
        count, total, squares = 0, 0.0, 0.0
        parameter = next(self.parameters())
        for part in images.split(64):  # so that memory stays small
            latent = self.encode(part.to(parameter.device, parameter.dtype))
            mean, std = latent.mean.cpu().double(), latent.std.cpu().double()
            count += mean.numel()
            total += mean.sum().item()
            squares += (mean.square() + std.square()).sum().item()  # what samples would have on average
        variance = squares / count - (total / count) ** 2 if count else 0.0
        if not 0 < variance < math.inf:
            raise ValueError(f"expected pictures whose latents vary, got {len(images)} with a variance of {variance}")
        self.scale_factor = variance**-0.5
        return self.scale_factor

    def scale(self, z: Tensor) -> Tensor:
        """Latents as a denoiser takes them, of standard deviation 1, from latents as `encode` gives them."""
        return z * self._known_scale()

    def unscale(self, z: Tensor) -> Tensor:
        """Latents as `decode` takes them, from a denoiser's."""
        return z / self._known_scale()

    def check_scaled(self, z: Tensor) -> None:
        """Raise ValueError when latents z, which should have a standard deviation of 1, were not scaled.

        For latents that people hand in. It goes by which is nearer, 1 or 1 / scale_factor; where these two are within
        a factor of 2, they cannot be told apart, and mistaking one for the other does little harm. Raises ValueError
        also for latents that are not finite, whatever their spread.
        """
        own, found = 1 / self._known_scale(), z.float().std(correction=0).item() if z.numel() else 0.0
        if not math.isfinite(found):
            raise ValueError("expected latents that are finite, got some that are not: nan or inf")
        if abs(math.log(own)) > math.log(2) and found > 0 and abs(math.log(found / own)) < abs(math.log(found)):
            raise ValueError(
                f"expected latents with a standard deviation of about 1, got {found:.3g}: they look like the "
                f"autoencoder's own latents, whose spread is {own:.3g}; call vae.scale(z) on what vae.encode gave"
            )

    def _known_scale(self):
        if self.scale_factor is None:
            raise ValueError("this autoencoder's scale factor is not known: call vae.measure_scale(images) once")
        return self.scale_factor


def _whole_numbers(name, values):
    """A list of whole numbers, also of numpy's, which a file could not hold."""
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise ValueError(f"expected {name} as whole numbers, one for each level, got {values!r}") from None


def _check_floats(what, x, remedy):
    """Raise ValueError for integers: what range they stand for must not be guessed."""
    if not x.is_floating_point():
        raise ValueError(f"expected {what} as floating-point numbers, got {x.dtype}; {remedy}")
