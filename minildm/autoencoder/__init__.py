"""The variational autoencoder of latent diffusion, its losses, and large pictures through it in tiles."""

from minildm.autoencoder.losses import (
    PatchDiscriminator,
    autoencoder_loss,
    draw_latent,
    hinge_loss,
    loss_terms,
    paired_loss,
    perceptual_distance,
)
from minildm.autoencoder.network import AutoencoderKL, Gaussian
from minildm.autoencoder.tiles import tiled_decode, tiled_encode

__all__ = [
    "AutoencoderKL",
    "Gaussian",
    "draw_latent",
    "loss_terms",
    "perceptual_distance",
    "autoencoder_loss",
    "paired_loss",
    "PatchDiscriminator",
    "hinge_loss",
    "tiled_encode",
    "tiled_decode",
]
