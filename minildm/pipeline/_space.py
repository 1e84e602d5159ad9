"""Where a pipeline's denoiser works: in the latents of an autoencoder, or in the pixels themselves."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from minildm.autoencoder import AutoencoderKL, tiled_decode, tiled_encode


class Pixels:
    """Pixel space: pictures (b, c, h, w) in [-1, 1] are what the denoiser works on.  channels: theirs."""

    multiple = 1
    scale_factor = 1.0
    clip = 1.0  # what a picture may hold at most

    def __init__(self, channels: int):
        self.channels = self.picture_channels = channels

    def encode(self, x: Tensor, tile: int | None = None) -> Tensor:
        """Pictures in [-1, 1] -> the same."""
        return x

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """What the denoiser made -> pictures."""
        return z

    def check(self, z: Tensor) -> None:
        """Pixels come in one unit: nothing to look for."""


class Latents:
    """Latent space: scaled latents (b, c, h / f, w / f) of an autoencoder whose scale factor is known."""

    clip = None  # latents have no bounds

    def __init__(self, vae: AutoencoderKL):
        if vae.scale_factor is None:
            raise ValueError("the autoencoder's scale factor is not known: call vae.measure_scale(images) once")
        self.vae, self.channels, self.picture_channels = vae, vae.latent_channels, vae.in_channels

    @property
    def multiple(self) -> int:
        """What the autoencoder divides height and width by."""
        return self.vae.multiple

    @property
    def scale_factor(self) -> float:
        """What latents are multiplied by for the denoiser."""
        return self.vae.scale_factor

    def encode(self, x: Tensor, tile: int | None = None) -> Tensor:
        """Pictures in [-1, 1] -> scaled latents, float32: the means that the autoencoder gives."""
        run = self.vae.encode if tile is None else lambda part: tiled_encode(self.vae, part, tile)
        parts = [run(part).mean for part in _parts(x.to(_parameter(self.vae)), pixels=x.shape[2] * x.shape[3])]
        return self.vae.scale(torch.cat(parts).float())

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Scaled latents -> pictures in about [-1, 1], float32."""
        run: Callable = self.vae.decode if tile is None else lambda part: tiled_decode(self.vae, part, tile)
        z = self.vae.unscale(z.float()).to(_parameter(self.vae))
        pixels = z.shape[2] * z.shape[3] * self.multiple**2
        return torch.cat([run(part) for part in _parts(z, pixels)]).float()

    def check(self, z: Tensor) -> None:
        """ValueError for latents that look like the autoencoder's own, not scaled."""
        self.vae.check_scaled(z)


def _parameter(module: nn.Module) -> Tensor:
    return next(module.parameters())


def _parts(x: Tensor, pixels: int) -> Iterator[Tensor]:
    """Batches for the autoencoder, so that memory does not grow with the number of pictures."""
    return x.split(max(1, 512**2 // pixels))
