"""Samplers: from noise to a picture, each as a generator of its steps.

Every sampler asks the model what it sees, x0_hat and eps_hat, at each timestep of a descending list, and differs only
in how it goes on to the next. They share their arguments:

    denoise: any callable (x_t, t) -> prediction shaped like x_t, with t: (b,) int64.
    schedule: the NoiseSchedule that the model was trained with.
    x_T: (b, ...) the start; standard normal noise, where the list starts at the end of the schedule.
    steps, spacing: how many timesteps, and how `spaced` lays them out.
    timesteps: descending integers, instead of steps and spacing. After the last comes the clean picture, t = -1.
    predicts: what the model predicts: "eps", "x_0" or "v".
    generator: where the fresh noise comes from, if any: one for all, or a list with one for each sample, which then
        does not depend on the others; None is torch's global stream.
    clip: keep x0_hat within -clip to clip: 1 for pixels; None, for latents, leaves it alone.

They raise ValueError for bad arguments when called, and for a prediction of another shape when they run.
"""

import math
import operator
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minildm.schedule import NoiseSchedule, check_predicts

CLEAN = -1  # the timestep after 0, where alphas_cumprod is 1


class Step(NamedTuple):
    """One state on the way: the start comes first, the finished sample, at t = -1, last.

    At each, x_t = sqrt(alphas_cumprod) x0_hat + sqrt(1 - alphas_cumprod) eps_hat.
    """

    t: int
    x_t: Tensor
    x0_hat: Tensor
    eps_hat: Tensor


def spaced(schedule: NoiseSchedule, steps: int, spacing: str = "trailing", offset: int = 0) -> list[int]:
    """Lay out `steps` timesteps over a schedule, in descending order, as `diffusers` does under the same names.

    spacing: "trailing" counts down from the end and always includes it; "leading" counts up from 0, and leaves the
        end out; "linspace" includes both.  offset: added to "leading"; Stable Diffusion's own configuration has 1.
    Raises ValueError for a number of steps that the schedule does not have.
    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2023), table 2.
    """
    total = len(schedule)
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or not 1 <= operator.index(steps) <= total:
        raise ValueError(f"expected steps as a whole number from 1 to {total}, the schedule's length, got {steps!r}")
    if spacing == "trailing":
        found = np.arange(total, 0, -total / steps).round()[:steps] - 1
    elif spacing == "leading":
        found = np.arange(steps)[::-1] * (total // steps) + offset
        if found[0] >= total:
            raise ValueError(f"an offset of {offset} leads past timestep {total - 1}, the last of the schedule")
    elif spacing == "linspace":
        if steps == 1:
            raise ValueError('spacing="linspace" includes both ends, so it needs at least 2 steps; use "trailing"')
        found = np.linspace(0, total - 1, steps).round()[::-1]
    else:
        raise ValueError(f'expected spacing="leading", "linspace" or "trailing", got {spacing!r}')
    return [int(t) for t in found]


def ddpm(
    denoise,
    schedule,
    x_T,
    steps=50,
    *,
    timesteps=None,
    spacing="trailing",
    predicts="eps",
    generator=None,
    clip=None,
    variance="small",
) -> Iterator[Step]:
    """Ancestral sampling: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), algorithm 2.

    variance: of the noise added at each step: "small" is that of x_{t-1} if x_0 is known, "large" is beta_t.
    """
    if variance not in ("small", "large"):
        raise ValueError(f'expected variance="small" or "large", got {variance!r}')

    def update(x_t, x0_hat, eps_hat, t, t_next):
        kept, kept_next = _alphas_cumprod(schedule, t, t_next)
        alpha = kept / kept_next
        beta = 1 - alpha
        mean = math.sqrt(kept_next) * beta / (1 - kept) * x0_hat  # equation 7
        mean = mean + math.sqrt(alpha) * (1 - kept_next) / (1 - kept) * x_t
        if t_next == CLEAN:  # noise added now would stay in the picture
            return mean
        small = (1 - kept_next) / (1 - kept) * beta
        return mean + math.sqrt(small if variance == "small" else beta) * _noise(x_t, generator)

    predict = _predictor(denoise, schedule, predicts, clip)
    return _walk(update, predict, x_T, _path(schedule, x_T, steps, timesteps, spacing))


def ddim(
    denoise,
    schedule,
    x_T,
    steps=50,
    *,
    timesteps=None,
    spacing="trailing",
    predicts="eps",
    generator=None,
    clip=None,
    eta=0.0,
) -> Iterator[Step]:
    """Song et al., "Denoising Diffusion Implicit Models" (2021), equation 12.

    eta: how much of the noise is drawn afresh at each step: 0 none, so that x_T alone decides; 1 as much as in DDPM.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"expected eta from 0 to 1, got {eta}")

    def update(x_t, x0_hat, eps_hat, t, t_next):
        kept, kept_next = _alphas_cumprod(schedule, t, t_next)
        fresh = eta**2 * (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)  # a variance
        x_next = math.sqrt(kept_next) * x0_hat + math.sqrt(max(0.0, 1 - kept_next - fresh)) * eps_hat
        return x_next + math.sqrt(fresh) * _noise(x_t, generator) if fresh else x_next

    predict = _predictor(denoise, schedule, predicts, clip)
    return _walk(update, predict, x_T, _path(schedule, x_T, steps, timesteps, spacing))


def euler(
    denoise, schedule, x_T, steps=50, *, timesteps=None, spacing="trailing", predicts="eps", generator=None, clip=None
) -> Iterator[Step]:
    """Euler's method on the probability flow, dz / dsigma = eps_hat for z = x_t / a and sigma = s / a, of first order.

    Here a = sqrt(alphas_cumprod) is the signal in x_t, and s = sqrt(1 - alphas_cumprod) the noise.
    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022), section 3.
    """

    def update(x_t, x0_hat, eps_hat, t, t_next):
        ((a_next, s_next),) = _levels(schedule, t_next)
        return a_next * x0_hat + s_next * eps_hat  # = a_next (z + (sigma_next - sigma) eps_hat), also where a is 0

    predict = _predictor(denoise, schedule, predicts, clip)
    return _walk(update, predict, x_T, _path(schedule, x_T, steps, timesteps, spacing))


def heun(
    denoise, schedule, x_T, steps=50, *, timesteps=None, spacing="trailing", predicts="eps", generator=None, clip=None
) -> Iterator[Step]:
    """Heun's method on the same flow, of second order: two looks a step, but one at the last.

    Source: Karras et al. (2022), algorithm 1. Where x_t is noise alone sigma is infinite, and the step is Euler's.
    """
    predict = _predictor(denoise, schedule, predicts, clip)

    def update(x_t, x0_hat, eps_hat, t, t_next):
        (a, s), (a_next, s_next) = _levels(schedule, t, t_next)
        x_next = a_next * x0_hat + s_next * eps_hat
        if t_next == CLEAN or a == 0:
            return x_next
        _, eps_next = predict(x_next, t_next)
        return a_next * (x_t / a + (s_next / a_next - s / a) * (eps_hat + eps_next) / 2)

    return _walk(update, predict, x_T, _path(schedule, x_T, steps, timesteps, spacing))


def dpm_solver_2m(
    denoise, schedule, x_T, steps=50, *, timesteps=None, spacing="trailing", predicts="eps", generator=None, clip=None
) -> Iterator[Step]:
    """DPM-Solver++(2M), of second order at one look a step: it also uses what it saw the step before.

    Source: Lu et al., "DPM-Solver++" (2022), algorithm 2. The first and the last step are of first order.
    """
    before = None  # x0_hat of the step before, and how far it went in log(a / s)

    def update(x_t, x0_hat, eps_hat, t, t_next):
        nonlocal before
        (a, s), (a_next, s_next) = _levels(schedule, t, t_next)
        h = _log_ratio(a_next, s_next) - _log_ratio(a, s)
        ahead = x0_hat  # x0_hat half a step ahead, on the line through the last two
        if before is not None and t_next != CLEAN:
            last, h_last = before
            ahead = x0_hat + h / h_last / 2 * (x0_hat - last)
        before = x0_hat, h
        return s_next / s * x_t - a_next * math.expm1(-h) * ahead

    predict = _predictor(denoise, schedule, predicts, clip)
    return _walk(update, predict, x_T, _path(schedule, x_T, steps, timesteps, spacing))


@torch.no_grad()  # as a decorator: a `with` inside a generator would hold between its steps, in the caller's code
def _walk(update, predict, x_T, path):
    x_t = x_T
    for t, t_next in pairwise([*path, CLEAN]):
        x0_hat, eps_hat = predict(x_t, t)
        yield Step(t, x_t, x0_hat, eps_hat)
        x_t = update(x_t, x0_hat, eps_hat, t, t_next)
    yield Step(CLEAN, x_t, x_t, eps_hat)


def _predictor(denoise, schedule, predicts, clip):
    """(x_t, t) -> x0_hat, eps_hat"""
    check_predicts(predicts)
    if clip is not None and not clip > 0:
        raise ValueError(f"expected clip above 0, or None, got {clip}")

    def predict(x_t, t):
        t = torch.full((len(x_t),), t)
        prediction = denoise(x_t, t.to(x_t.device))
        if not isinstance(prediction, Tensor) or prediction.shape != x_t.shape:
            found = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
            raise ValueError(f"expected a prediction shaped like x_t, {tuple(x_t.shape)}, from the model, got {found}")
        x0_hat, eps_hat = schedule.read(predicts, prediction.to(x_t.dtype), x_t, t)
        if clip is not None:
            x0_hat = x0_hat.clamp(-clip, clip)
            eps_hat = schedule.x_0_to_eps(x_t, x0_hat, t)
        return x0_hat, eps_hat

    return predict


def _path(schedule, x_T, steps, timesteps, spacing):
    """The timesteps to go through, once all is known to be in order."""
    if not isinstance(x_T, Tensor) or not x_T.ndim or not x_T.is_floating_point():
        raise ValueError("expected x_T as a floating-point tensor (b, ...), such as torch.randn(b, c, h, w)")
    if timesteps is None:
        return spaced(schedule, steps, spacing)
    path = [t.item() if isinstance(t, Tensor | np.generic) else t for t in timesteps]
    if not path or any(isinstance(t, bool) or not isinstance(t, int) for t in path):
        raise ValueError(f"expected timesteps as a list of integers, got {path}")
    if any(t <= t_next for t, t_next in pairwise(path)):
        raise ValueError(f"expected timesteps in descending order, from noise to picture, got {_short(path)}")
    if path[-1] < 0 or path[0] >= len(schedule):
        raise ValueError(
            f"expected timesteps from {len(schedule) - 1} down to 0, those of this schedule of {len(schedule)} steps, "
            f"got {_short(path)}"
        )
    return path


def _short(path):
    return f"{path[0]}, {path[1]}, ..., {path[-1]}" if len(path) > 3 else ", ".join(map(str, path))


def _alphas_cumprod(schedule, *timesteps):
    return [1.0 if t == CLEAN else schedule.alphas_cumprod[t].item() for t in timesteps]


def _levels(schedule, *timesteps):
    """Signal a and noise s at each of the timesteps."""
    return [(math.sqrt(kept), math.sqrt(1 - kept)) for kept in _alphas_cumprod(schedule, *timesteps)]


def _log_ratio(a, s):
    """Half the logarithm of the signal-to-noise ratio; infinite where there is no noise or no signal."""
    return math.log(a / s) if a and s else math.copysign(math.inf, a - s)


def _noise(x, generator):
    if isinstance(generator, list):
        return torch.cat([_noise(one, own) for one, own in zip(x.split(1), generator, strict=True)])
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
