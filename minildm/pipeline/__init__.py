"""Latent diffusion, put together: words, labels or pictures in, pictures out."""

from minildm.pipeline.diffusion import SAMPLERS, LatentDiffusion

__all__ = ["LatentDiffusion", "SAMPLERS"]
