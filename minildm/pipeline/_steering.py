"""What steers besides words: where to start, what the denoiser sees beside x_t, and what must stay."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minildm.samplers import CLEAN, Step
from minildm.schedule import NoiseSchedule
from minildm.tensors import check_number


def start(
    schedule: NoiseSchedule,
    path: list[int],
    z: Tensor,
    eps: Tensor,
    strength: float | None,
    region: Tensor | None,
    keep: bool,
) -> tuple[list[int], Tensor]:
    """The timesteps that are left, and the noised latents z to start from; only noise at strength 1 under a mask.

    region: 1 where to paint anew, None without a mask.  keep: whether the rest starts from z at any strength.
    Source: Meng et al., "SDEdit" (2022).
    """
    if strength is None:
        strength = 0.8 if region is None else 1.0
    rule = "a strength above 0 and up to 1, which leaves nothing of the image"
    check_number(strength, lambda v: 0 < v <= 1, rule)
    # 0.29 of 100 steps are 29, though as floating-point numbers their product is a little less.
    path = path[len(path) - max(1, int(len(path) * strength + 1e-6)) :]
    noised = schedule.add_noise(z, eps, torch.full((len(z),), path[0], dtype=torch.int64, device="cpu"))
    if region is None or strength < 1:
        return path, noised
    return path, torch.where(region > 0, eps, noised) if keep else eps


def in_its_precision(unet: Callable[..., Tensor], beside: Tensor | None) -> Callable[..., Tensor]:
    """The denoiser in its own precision, with more channels beside x_t; those are the same in each half of a batch."""
    dtype = next(unet.parameters()).dtype

    def cast(value):
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def model(x_t, t, **conditions):
        x = x_t if beside is None else torch.cat([x_t, beside.repeat(len(x_t) // len(beside), 1, 1, 1)], dim=1)
        return unet(x.to(dtype), t, **{name: cast(value) for name, value in conditions.items()}).to(x_t.dtype)

    model.null_class = unet.null_class
    return model


def with_known_region(
    denoise: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, z: Tensor, region: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser of x_0 that knows all of it but the region that is to be painted anew.

    So whichever the sampler, its x_t holds what is known at the noise of each step, as if it had been put there again
    and again. Source of that: Lugmayr et al., "RePaint" (2022), section 4.1.
    """

    def model(x_t, t):
        x0_hat, _ = schedule.read(denoise(x_t, t), x_t, t)
        return torch.where(region > 0, x0_hat, z)

    return model


def ending_with(steps: Iterator[Step], z: Tensor, region: Tensor) -> Iterator[Step]:
    """The same steps; at the end what is known stands there without the noise that a sampler may leave in."""
    for step in steps:
        if step.t == CLEAN:
            clean = torch.where(region > 0, step.x_t, z)
            step = step._replace(x_t=clean, x0_hat=clean)
        yield step
