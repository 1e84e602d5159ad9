"""The update rules: how each sampler goes on from one timestep to the next. See the package for what they share."""

import math

from minildm.samplers.loop import CLEAN, Update, sampler
from minildm.tensors import check_number

NOISE_ALONE = 1e-5  # a signal-to-noise ratio below which x_t tells a solver no more than noise would


@sampler
def ddpm(*, variance: str = "small") -> Update:
    """Ancestral sampling: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), algorithm 2.

    variance: of the noise added at each step: "small" is that of x_{t-1} if x_0 is known, "large" is beta_t.
    """
    if variance not in ("small", "large"):
        raise ValueError(f'expected variance="small" or "large", got {variance!r}')

    def update(x_t, x0_hat, eps_hat, now, then, tools):
        beta = _added(now, then)
        share = (then.s / now.s) ** 2
        mean = then.a * beta / now.s**2 * x0_hat + now.a / then.a * share * x_t  # equation 7
        if then.t == CLEAN:  # noise added now would stay in the picture
            return mean
        return mean + math.sqrt(share * beta if variance == "small" else beta) * tools.noise(x_t)

    return update


@sampler
def ddim(*, eta: float = 0.0, ends_clean: bool = True) -> Update:
    """Song et al., "Denoising Diffusion Implicit Models" (2021), equation 12.

    eta: how much of the noise is drawn afresh at each step: 0 none, so that x_T alone decides; 1 as much as in DDPM.
    ends_clean: False takes what reaches timestep 0 for the clean picture, without an evaluation there, so that its
        little noise stays in: set_alpha_to_one=false in the files of diffusers, as Stable Diffusion has it.
    """
    check_number(eta, lambda v: 0 <= v <= 1, "eta from 0 to 1")

    def update(x_t, x0_hat, eps_hat, now, then, tools):
        fresh = (eta * then.s / now.s) ** 2 * _added(now, then)  # a variance
        x_next = then.a * x0_hat + math.sqrt(max(0.0, then.s**2 - fresh)) * eps_hat
        return x_next + math.sqrt(fresh) * tools.noise(x_t) if fresh else x_next

    return update


@sampler
def euler() -> Update:
    """Euler's method on the probability flow, dz / dsigma = eps_hat for z = x_t / a and sigma = s / a, of first order.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022), section 3.
    """
    return _euler


@sampler
def heun() -> Update:
    """Heun's method on the same flow, of second order: two model evaluations a step, but one at the last.

    Source: Karras et al. (2022), algorithm 1. Where x_t is noise all but alone, its SNR below NOISE_ALONE, sigma has no
    bounds and an average of two slopes over such a step is far off: there the step is Euler's.
    """

    def update(x_t, x0_hat, eps_hat, now, then, tools):
        x_next = _euler(x_t, x0_hat, eps_hat, now, then, tools)
        if then.t == CLEAN or now.a**2 < NOISE_ALONE * now.s**2:
            return x_next
        _, eps_next = tools.evaluate(x_next, then)
        return then.a * (x_t / now.a + (then.s / then.a - now.s / now.a) * (eps_hat + eps_next) / 2)

    return update


@sampler
def dpm_solver_2m() -> Update:
    """DPM-Solver++(2M), of second order at one evaluation a step: it also uses what the model said the step before.

    Source: Lu et al., "DPM-Solver++" (2022), algorithm 2. The first and the last step are of first order.
    """
    before = None  # x0_hat of the step before, and how far it went in log(a / s)

    def update(x_t, x0_hat, eps_hat, now, then, tools):
        nonlocal before
        h = then.log_ratio - now.log_ratio
        ahead = x0_hat  # x0_hat half a step ahead, on the line through the last two
        if before is not None and then.t != CLEAN:
            last, h_last = before
            ahead = x0_hat + h / h_last / 2 * (x0_hat - last)
        before = x0_hat, h
        return then.s / now.s * x_t - then.a * math.expm1(-h) * ahead

    return update


def _euler(x_t, x0_hat, eps_hat, now, then, tools):
    return then.a * x0_hat + then.s * eps_hat  # = a_next (z + (sigma_next - sigma) eps_hat), also where a is 0


def _added(now, then):
    """The variance of the noise that one step of the noising process, from `then` to `now`, adds: DDPM's beta."""
    return now.s**2 - (now.a / then.a * then.s) ** 2
