"""What steers besides words: where to start, what the U-Net sees beside x_t, what must stay, and where to stop."""

from collections.abc import Callable

import torch
from torch import Tensor

from minildm.schedule import NoiseSchedule


def start(
    schedule: NoiseSchedule,
    path: list[int],
    z: Tensor,
    eps: Tensor,
    strength: float | None,
    new: Tensor | None,
    keep: bool,
) -> tuple[list[int], Tensor]:
    """The timesteps that are left, and the noised latents z to start from; only noise at strength 1 under a mask.

    new: 1 where to paint anew, None without a mask.  keep: whether the rest starts from z at any strength.
    Source: Meng et al., "SDEdit" (2022).
    """
    if strength is None:
        strength = 0.8 if new is None else 1.0
    if not 0 < strength <= 1:
        raise ValueError(f"expected a strength above 0 and up to 1, which leaves nothing of the image, got {strength}")
    path = path[len(path) - max(1, int(len(path) * strength)) :]
    noised = schedule.add_noise(z, eps, torch.full((len(z),), path[0]))
    if new is None or strength < 1:
        return path, noised
    return path, torch.where(new > 0, eps, noised) if keep else eps


def seeing(unet: Callable[..., Tensor], beside: Tensor | None) -> Callable[..., Tensor]:
    """The U-Net in its own precision, with more channels beside x_t; those are the same in each half of a batch."""
    dtype = next(unet.parameters()).dtype

    def model(x_t, t, **told):
        x = x_t if beside is None else torch.cat([x_t, beside.repeat(len(x_t) // len(beside), 1, 1, 1)], dim=1)
        return unet(x.to(dtype), t, **told).to(x_t.dtype)

    return model


def keeping(
    denoise: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, predicts: str, z: Tensor, new: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser of x_0 that knows all of it but what is to be painted anew.

    So whichever the sampler, its x_t holds what is known at the noise of each step, as if it had been put there again
    and again. Source of that: Lugmayr et al., "RePaint" (2022), section 4.1.
    """

    def model(x_t, t):
        x0_hat, _ = schedule.read(predicts, denoise(x_t, t), x_t, t)
        return torch.where(new > 0, x0_hat, z)

    return model


def stopping(
    denoise: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, predicts: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser of x_0 that takes what reaches timestep 0 for the clean picture, without a look at it.

    So the noise of timestep 0 stays in. That is what set_alpha_to_one=false means for DDIM in diffusers.
    """

    def model(x_t, t):
        if not t.any():
            return x_t
        x0_hat, _ = schedule.read(predicts, denoise(x_t, t), x_t, t)
        return x0_hat

    return model
