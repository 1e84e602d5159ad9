"""What a network is told of the time: diffusers counts a flow's timesteps from 1, we count all of them from 0."""

import torch
from torch import Tensor

from minildm.denoiser import timestep_embedding


def told_later(weight: Tensor, steps: int) -> Tensor:
    """A time embedding's first layer that answers at t as `weight`, (n, dim), does at t + steps.

    To go on by some steps turns each pair of cosine and sine by an angle of its own, which the layer takes over.
    """
    half = weight.shape[1] // 2
    c, s = timestep_embedding(torch.tensor([steps]), 2 * half)[0].double().chunk(2)
    widths = [half, half, weight.shape[1] - 2 * half]
    cosines, sines, rest = weight.cpu().double().split(widths, dim=1)  # not every device has float64
    return torch.cat([cosines * c + sines * s, sines * c - cosines * s, rest], dim=1).to(weight)
