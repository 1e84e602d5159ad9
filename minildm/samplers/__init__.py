"""Samplers: from noise to a picture, each as a generator of its steps.

At each timestep of a descending list a sampler evaluates the model, reads x0_hat and eps_hat from its answer, and goes
on to the next; samplers differ only in that last rule. They share their arguments:

    denoise: any callable (x_t, t) -> prediction shaped like x_t, with t: (b,) int64. If it has an attribute
        `schedule` that is not None, as a trained `Denoiser` has, that must be the same schedule.
    schedule: the NoiseSchedule that the model was trained with.
    x_T: (b, ...) the start; standard normal noise, where the list starts at the end of the schedule.
    steps, spacing: how many timesteps, and how `timesteps` lays them out.
    timesteps: descending integers, instead of steps and spacing. After the last comes the clean picture, t = -1.
    predicts: what the model predicts, "eps", "x_0", "v" or "flow"; None: what the schedule says.
    generator: where the fresh noise comes from, if any: one for all, or a list with one for each sample, which then
        does not depend on the others; None is torch's global stream.
    clip: keep x0_hat within -clip to clip: 1 for pixels; None, for latents, leaves it alone.

They compute in float32 at least and answer in x_T's own dtype. They raise ValueError for bad arguments when called, and
for a prediction of another shape, or that is not finite, when they run. `SAMPLERS` holds them by name.
"""

from minildm.optional import moved
from minildm.samplers.loop import CLEAN, SAMPLERS, Level, Step, Tools, sampler, timesteps
from minildm.samplers.rules import NOISE_ALONE, ddim, ddpm, dpm_solver_2m, euler, heun

__all__ = [
    "CLEAN",
    "NOISE_ALONE",
    "SAMPLERS",
    "Level",
    "Step",
    "Tools",
    "ddim",
    "ddpm",
    "dpm_solver_2m",
    "euler",
    "heun",
    "sampler",
    "timesteps",
]

__getattr__ = moved(__name__, {"spaced": "minildm.samplers.timesteps"})
