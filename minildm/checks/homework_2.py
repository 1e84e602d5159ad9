"""Visible checks of homework 2, a noise schedule for 128×128: properties of an answer. More run at grading."""

import math

import numpy as np
import torch

from minildm import NoiseSchedule, samplers

from ._probe import Probe, probe


@probe()
def levels(ask: Probe) -> None:
    """Part 1: `answer(log_snr)`, (n,) -> signal (n,) and noise (n,), with signal² + noise² = 1."""
    for n, reach in [(1, 0.0), (5, 4.0), (8, 20.0)]:
        log_snr = np.linspace(reach, -reach, n)
        found = ask(log_snr)
        ask.need(found.shape == (2, n), "expected two arrays as long as log_snr: return signal, noise")
        signal, noise = found
        ask.need((found >= 0).all(), "signal and noise are not below 0")
        ask.near(signal**2 + noise**2, np.ones(n), "the squares of signal and noise add up to 1: is a root missing?")
        if reach < 10:
            ask.near(
                np.log(signal**2 / noise**2),
                log_snr,
                "log SNR is the natural logarithm of signal² / noise²: a square, a sign or a swap?",
            )
    signal, noise = ask(np.array([60.0, -60.0]))
    ask.near(
        np.log([noise[0], signal[1]]),
        np.full(2, -30.0),
        "at log SNR 60 some noise is left, and at -60 some signal: 1 minus nearly 1 has lost it",
        tolerance=1e-3,
    )
    found = ask(np.array([900.0, -900.0]))
    ask.near(found, [[1, 0], [0, 1]], "at log SNR ±900 an exponential overflows: which form does not?")


@probe()
def brightness_left(ask: Probe) -> None:
    """Part 2: `answer(signal, noise, side)`, three numbers -> how far apart dark and light grey are, in deviations."""
    one = ask(0.6, 0.8, 1)
    ask.need(one.shape == (), f"expected one number, got shape {one.shape}")
    ask.near(ask(0.0, 1.0, 32), 0, "without any signal nothing is left")
    for signal, noise, side in [(0.6, 0.8, 4), (0.05, 0.9987, 32), (0.3, 0.954, 9)]:
        found = ask(signal, noise, side)
        ask.near(ask(2 * signal, noise, side), 2 * found, "twice the signal: the two means lie twice as far apart")
        ask.near(ask(signal, 2 * noise, side), found / 2, "twice the noise: twice the deviation of the means")
        ask.near(
            ask(signal, noise, 3 * side),
            3 * found,
            "three times the side: nine times as many numbers, so a mean that is three times as sure",
        )
    # Measured, once: 200,000 pictures of each grey, 3 × 2 × 2 numbers, signal 0.6, noise 0.8.
    found = ask(0.6, 0.8, 2)
    hint = "compare with a thousand pictures of your own, as lesson 02 does"
    for factor, slip in [
        (1 / 2, "the greys lie at -1/3 and +1/3: how far apart is that? "),
        (1 / math.sqrt(3), "a picture has more numbers than pixels: each has three channels; "),
    ]:
        hint = slip + hint if abs(found / 1.732 - factor) < 0.01 else hint
    ask.near(found, 1.732, hint, tolerance=0.01)


@probe(own=[NoiseSchedule.zero_terminal_snr])
def end_at(ask: Probe) -> None:
    """Part 3: `answer(alphas_cumprod, last)`, (steps,) and a number -> (steps,), with the same first and a new last."""
    for steps, last in [(3, 0.0), (7, 0.01), (20, 0.0), (50, 1e-4)]:
        left = np.sort(ask.rng.uniform(0.02, 0.98, steps))[::-1].copy()
        found = ask(left, last)
        ask.need(found.shape == left.shape, f"expected {steps} numbers, got shape {found.shape}")
        ask.near(found[0], left[0], "the first value stays as it was")
        ask.near(found[-1], last, "the last value of alphas_cumprod is to be `last`")
        ask.need((np.diff(found) < 0).all(), "the values fall from each step to the next")
        for root in (np.sqrt, np.asarray):
            evenly = np.linspace(root(left[0]), root(last), steps)
            ask.need(
                not np.allclose(root(found), evenly),
                "a line over the *steps*, from the first value to the last: what lay between is lost. The line is over "
                "the old *signal*",
            )
        ask.near(ask(left, left[-1]), left, "an end that is there already changes nothing: `last` is no root")
        signal, before = np.sqrt(found), np.sqrt(left)
        bends = np.diff(signal) / np.diff(before)
        ask.near(
            bends,
            np.full(steps - 1, bends[0]),
            "the *signal*, the root of alphas_cumprod, is stretched evenly: all its steps grow by one factor",
        )


@probe(own=[samplers.ddim])
def sampled_power(ask: Probe) -> None:
    """Part 4: `answer(power, alphas_cumprod, timesteps)`, (n,), (steps,), descending -> (n,), variances of samples."""
    left = np.linspace(0.98, 0.04, 9)
    for n, t in [(1, 8), (3, 5), (4, 2)]:
        power = ask.rng.uniform(0.5, 4, n)
        found = ask(power, left, [t])
        ask.need(found.shape == (n,), f"expected one variance for each wave, ({n},), got {found.shape}")
        ask.near(
            ask(0 * power, left, [8, t, 1]),
            0 * power,
            "power 0: no wave is drawn; after the last call comes the clean picture",
        )
        found, a2 = ask(0 * power + 1, left, [t]), left[t]
        slips = [a2**2, (a2 / (a2**2 + 1 - a2)) ** 2, (a2 / (a2**2 + (1 - a2) ** 2)) ** 2]
        ask.need(
            not any(np.allclose(found, slip) for slip in slips),
            "alphas_cumprod stands where its root, the signal, belongs, or the denoiser does not divide by the signal",
        )
        ask.near(
            found,
            np.full(n, left[t]),
            "one call, waves of power 1: x0_hat is signal times x, so its variance is signal²; variances, not roots",
        )
    a = np.sqrt(left)
    turn, short = (math.acos(a[7]) - math.acos(a[then]) for then in (3, 6))
    found = ask(np.ones(2), left, [7, 3])
    ask.need(
        not np.allclose(found, (math.cos(short) * a[3]) ** 2),
        "after timestep t comes the next one of the list, here 3 after 7, and not t - 1",
    )
    ask.near(
        found,
        np.full(2, (math.cos(turn) * a[3]) ** 2),
        "two calls: after the first comes a DDIM step to the next timestep, and after the last the clean picture",
    )
    fine = 1 / (1 + np.exp(np.linspace(-12, 16, 2000)))
    power = np.array([0.02, 0.5, 3.0, 90.0])
    many, half = (ask(power, fine, list(range(1999, -1, -k))) for k in (1, 2))
    ask.near(many / power, np.ones(4), "with 2,000 calls the samples have nearly the power of the data", tolerance=0.02)
    errors = np.abs(np.log(many / power)), np.abs(np.log(half / power))
    ask.need((errors[1] > 1.6 * errors[0]).all(), "with half the calls the error doubles: DDIM has order 1")
    nothing = np.append(left, 0.0)
    found = np.asarray(ask.raw(np.array([2.0]), nothing, [9]), np.float64)
    ask.need(
        np.isfinite(found).all(),
        "NaN or infinity at signal 0: lesson 04's `ddim_step` computes x0_hat from eps, and divides by the signal. "
        "Here the denoiser says x0_hat: compute eps from it",
    )
    ask.near(found, [0.0], "at signal 0 x0_hat is the mean of all pictures, here 0")


@probe()
def my_schedule(ask: Probe) -> None:
    """Part 5: `answer(steps)` -> alphas_cumprod (steps,) for pictures of 128×128."""
    for steps in (1000, 400):
        left = ask(steps)
        ask.need(left.shape == (steps,), f"expected {steps} numbers for my_schedule({steps}), got shape {left.shape}")
        ask.need((left >= 0).all() and (left < 1).all(), "alphas_cumprod lies between 0 and 1; some noise always")
        ask.need((np.diff(left) <= 0).all(), "alphas_cumprod falls from step to step: are these alphas, or betas?")
        first = math.log(left[0] / (1 - left[0])) if left[0] else -math.inf
        ask.need(first >= 6, f"the first log SNR is {first:.1f}: below 6 the finest lines are noisy already")
        last = math.log(left[-1] / (1 - left[-1])) if left[-1] else -math.inf
        hint = f"the last log SNR is {last:.1f}: the mean of 49,152 numbers still shows through, by more than 0.1"
        ask.need(last < -14.597, hint)  # the same limit, told as a log SNR
    for steps in (1000, 400):
        for calls, most in ((25, 0.35), (50, 0.22)):
            off = _error(ask(steps), calls)
            worst = int(np.abs(off).argmax())
            kind = "coarse" if worst < 4 else "middle" if worst < 12 else "fine"
            ask.need(
                abs(off[worst]) <= most,
                f"with {calls} calls in {steps} steps the {kind} waves are off by {off[worst]:+.2f} (wave {worst}), "
                f"where {most} is allowed: how many calls are near the log SNR where that wave is decided?",
            )


def _error(alphas_cumprod, calls):
    """How far off each wave of typical drawings is drawn, log (power drawn / true) (64,), by the package's own DDIM."""
    log_power = np.interp(np.arange(64), [0, 1, 2, 4, 8, 16, 32, 63], [4.9, 5.7, 4.1, 2.4, 1.3, 0.1, -2.1, -5.0])
    left, power = torch.from_numpy(alphas_cumprod), torch.from_numpy(log_power).exp().view(1, 1, 1, -1)
    schedule = NoiseSchedule(left.sqrt(), (1 - left).sqrt(), "x_0")

    def denoiser(x_t, t):  # in place of a network
        a, s = schedule.signal[t].view(-1, 1, 1, 1), schedule.noise[t].view(-1, 1, 1, 1)
        return a * power / (a**2 * power + s**2) * x_t

    path = range(len(left) - 1, -1, -(len(left) // calls))
    *_, last = samplers.ddim(denoiser, schedule, torch.ones_like(power), timesteps=list(path))
    return (last.x_t.square() / power).clamp(min=1e-30).log().flatten().numpy()
