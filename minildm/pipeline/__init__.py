"""Latent diffusion, put together: words, labels or pictures in, pictures out."""

from minildm.pipeline.diffusion import LatentDiffusion
from minildm.samplers import SAMPLERS

__all__ = ["LatentDiffusion", "SAMPLERS"]
