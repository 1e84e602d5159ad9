"""Checks of lesson 04: sampling."""

import math

import numpy as np

from minildm import samplers

from ._check import Exercise, exercise


@exercise
def trailing() -> Exercise:
    """Exercise 1: `answer(total, steps)`, where steps divides total -> list of timesteps, "trailing" spacing."""

    def spaced(total, steps):
        return list(range(total - 1, -1, -(total // steps)))

    def apart(whole, up):
        """Both ends and what lies evenly between them; a single step is at the end where it starts."""

        def spacing(total, steps):
            return whole(np.linspace(0, total - 1, steps)[::-1] if up else np.linspace(total - 1, 0, steps))

        return spacing

    def leading(total, steps):
        return [t - total // steps + 1 for t in spaced(total, steps)]

    cases = [(6, 3), (10, 5), (10, 1), (12, 12), (1000, 10), (8192, 64)]
    mistakes = {
        "it starts past the end: the last timestep of a schedule of `total` steps is total - 1": lambda total, steps: [
            t + 1 for t in spaced(total, steps)
        ],
        "this is ascending; a sampler goes from noise, the highest t, to picture": lambda total, steps: spaced(
            total, steps
        )[::-1],
        'this is "leading": it counts up from 0 and leaves the end, the pure noise, out': [
            leading,
            lambda total, steps: leading(total, steps)[::-1],
        ],
        'this is "linspace", which includes both ends; "trailing" includes t = total - 1 and leaves out t = 0': [
            apart(whole, up) for whole in (np.round, np.floor, np.ceil, np.array) for up in (False, True)
        ],
        "these are the first timesteps next to each other; `steps` of them must span the whole schedule": (
            lambda total, steps: list(range(total - 1, total - 1 - steps, -1))
        ),
        "range ends before its second argument, so that t = 0 is lost where the stride is 1": (
            lambda total, steps: list(range(total - 1, 0, -(total // steps)))
        ),
        "the stride is total // steps; `steps` is how many there are": (
            lambda total, steps: list(range(total - 1, -1, -steps))
        ),
        "one timestep too many: the last of them is the stride less 1, not below": [
            lambda total, steps: [*spaced(total, steps), 0],
            lambda total, steps: [*spaced(total, steps), -1],
        ],
    }
    return Exercise(spaced, cases, mistakes, tolerance=0, own=[samplers.timesteps])


@exercise
def ddim_inversion() -> Exercise:
    """Exercise 2: `answer(x_t, eps_hat, now, then)`, pictures and two alphas_cumprod, then < now -> noisier x_next."""
    rng = np.random.default_rng(4)
    cases = []
    for shape, now, then in [((1, 2), 0.4, 0.3), ((3, 4), 0.2, 0.1), ((2, 5, 3), 0.85, 0.8), ((4, 7), 0.999, 0.6)]:
        cases.append((*rng.normal(size=(2, *shape)), now, then))

    def step(signal=math.sqrt, noise=math.sqrt, remove=1, divide=math.sqrt, back=False, swap=False, add=1):
        def take(x_t, eps_hat, now, then):
            x0_hat = (x_t - remove * math.sqrt(1 - now) * eps_hat) / divide(now)
            end = now if back else then
            first, second = (eps_hat, x0_hat) if swap else (x0_hat, eps_hat)
            return signal(end) * first + add * noise(1 - end) * second

        return take

    def roots_forgotten(x_t, eps_hat, now, then):
        x0_hat = (x_t - (1 - now) * eps_hat) / now
        return then * x0_hat + (1 - then) * eps_hat

    def towards_the_picture(x_t, eps_hat, now, then):
        return step()(x_t, eps_hat, then, now)

    def as_if_clean(x_t, eps_hat, now, then):
        return math.sqrt(then) * x_t + math.sqrt(1 - then) * eps_hat

    def one_way_of_the_chain(x_t, eps_hat, now, then):
        return math.sqrt(then / now) * x_t + math.sqrt(1 - then / now) * eps_hat

    def on_top(x_t, eps_hat, now, then):
        return x_t + (math.sqrt(1 - then) - math.sqrt(1 - now)) * eps_hat

    mistakes = {
        "noise is laid on top of x_t; the picture must get weaker, too, from sqrt(now) to sqrt(then)": on_top,
        "x_t is taken for the clean picture: take the noise out and divide by the signal first": as_if_clean,
        "the noise is not taken out of x_t before it is called x0_hat": step(remove=0),
        "a sign: x_t holds the noise already, so x0_hat is x_t minus its share of eps_hat": step(remove=-1),
        "a sign at the end: to the noisier picture eps_hat is added": step(add=-1),
        "two signs: take the noise out of x_t first, and add more of it then": step(remove=-1, add=-1),
        "x0_hat is not divided by the signal in x_t, sqrt(now)": step(divide=lambda now: 1.0),
        "x0_hat is divided by now; the signal in x_t is its square root": step(divide=float),
        "no square roots at all: signal and noise each need one": roots_forgotten,
        "the square root of then is missing before x0_hat": step(signal=float),
        "the square root of 1 - then is missing before eps_hat": step(noise=float),
        "the coefficients of x0_hat and eps_hat are swapped": step(swap=True),
        "the proportions are those of now, so that x_t comes out again": step(back=True),
        "now and then are swapped: x_t is at now": towards_the_picture,
        "that adds noise as the forward chain does, fresh; here eps_hat is the noise that x_t already holds": (
            one_way_of_the_chain
        ),
        "that is x0_hat, and with the noise of the wrong level: mix it again with eps_hat": (
            lambda x_t, eps_hat, now, then: (x_t - math.sqrt(1 - then) * eps_hat) / math.sqrt(then)
        ),
        "that is x0_hat; mix it again with eps_hat": (
            lambda x_t, eps_hat, now, then: (x_t - math.sqrt(1 - now) * eps_hat) / math.sqrt(now)
        ),
    }
    return Exercise(step(), cases, mistakes)
