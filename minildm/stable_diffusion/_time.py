"""What a network is told of the time: diffusers counts a flow's timesteps from 1, we count all of them from 0."""

import torch
from torch import Tensor

from minildm.denoiser import timestep_embedding


def told_later(weight: Tensor, steps: int) -> Tensor:
    """A time embedding's first layer that answers at t as `weight`, (n, dim), does at t + steps.

    To go on by some steps turns each pair of cosine and sine by an angle of its own, which the layer takes over.
    """
    half = weight.shape[1] // 2
    c, s = timestep_embedding(torch.tensor([steps]), 2 * half)[0].to(weight.device, torch.float64).chunk(2)
    cosines, sines, rest = weight.double().split([half, half, weight.shape[1] - 2 * half], dim=1)
    return torch.cat([cosines * c + sines * s, sines * c - cosines * s, rest], dim=1).to(weight.dtype)
