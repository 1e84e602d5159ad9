"""Checks of what learners write of noise: a schedule, adding noise, the steps that take it away."""

import math

import torch

from minildm.schedule import NoiseSchedule

from ._check import Exercise, exercise


@exercise
def schedule() -> Exercise:
    """`answer(steps, beta_start, beta_end)`: betas on a line, both ends included -> alphas_cumprod (steps,)."""
    cases = [(2, 0.1, 0.3), (5, 0.02, 0.4), (9, 0.3, 0.05), (1000, 1e-4, 0.02)]

    def line(steps, start, end):
        return torch.linspace(start, end, steps, dtype=torch.float64)

    def cumulative(betas=line, of=lambda betas: 1 - betas, gather=lambda a: a.cumprod(0)):
        return lambda steps, start, end: gather(of(betas(steps, start, end)))

    mistakes = {
        "those are the betas; alphas_cumprod is asked for, the product of all 1 - beta up to each t": cumulative(
            of=lambda betas: betas, gather=lambda betas: betas
        ),
        "the product runs over the betas; it runs over 1 - beta": cumulative(of=lambda betas: betas),
        "1 minus the product of the betas; it is the other way round, the product of all 1 - beta": cumulative(
            of=lambda betas: betas, gather=lambda betas: 1 - betas.cumprod(0)
        ),
        "those are the alphas, 1 - beta; the product of all up to t is missing": cumulative(gather=lambda a: a),
        "a sum instead of a product: each step keeps a share of what the steps before it left": cumulative(
            gather=lambda a: a.cumsum(0)
        ),
        "one minus the sum of the betas: shares are multiplied, not subtracted": cumulative(
            of=lambda betas: betas, gather=lambda betas: 1 - betas.cumsum(0)
        ),
        "that is the noise, 1 - alphas_cumprod": cumulative(gather=lambda a: 1 - a.cumprod(0)),
        "that is its square root, the signal": cumulative(gather=lambda a: a.cumprod(0).sqrt()),
        "the first step is missing: at t = 0 one beta has passed already": cumulative(
            gather=lambda a: torch.cat([torch.ones(1, dtype=a.dtype), a[:-1]]).cumprod(0)
        ),
        "the last beta is missing: beta_end is included, as in linspace": cumulative(
            lambda steps, start, end: start + (end - start) * torch.arange(steps, dtype=torch.float64) / steps
        ),
        "the betas run backwards": cumulative(lambda steps, start, end: line(steps, end, start)),
        "all of the product, not up to each t: cumprod": [
            cumulative(gather=lambda a: a.prod().expand(len(a))),
            cumulative(gather=lambda a: a.prod()),
        ],
        "one number too few: arange leaves its end out, linspace does not": cumulative(lambda *ends: line(*ends)[:-1]),
        "one number too many: the list begins after the first step, not with the clean picture": cumulative(
            gather=lambda a: torch.cat([torch.ones(1, dtype=a.dtype), a.cumprod(0)])
        ),
        "one number too many: linspace takes how many numbers, not how many gaps": cumulative(
            lambda steps, start, end: line(steps + 1, start, end)
        ),
        "alphas_cumprod alone is asked for, without the betas": cumulative(
            of=lambda betas: betas, gather=lambda betas: torch.stack([betas, (1 - betas).cumprod(0)])
        ),
        "the betas lie on a straight line, not their roots": cumulative(
            lambda steps, start, end: line(steps, start**0.5, end**0.5) ** 2
        ),
    }
    errors = {
        '"dim"': "say along which axis the product runs: cumprod(0)",
        "linspace() received": "linspace takes start and end first, then how many",
    }
    return Exercise(cumulative(), cases, mistakes, own=[NoiseSchedule.linear], errors=errors)


@exercise
def add_noise() -> Exercise:
    """`answer(x_0, eps, t, alphas_cumprod)`: pictures (b, c, h, w) at timesteps t (b,) -> x_t (b, c, h, w)."""
    draw = torch.Generator().manual_seed(2)
    alphas_cumprod = torch.tensor([0.98, 0.9, 0.75, 0.5, 0.3, 0.1, 0.02], dtype=torch.float64)
    cases = []
    for shape, t in (((1, 2, 3, 4), [4]), ((2, 3, 5, 4), [0, 6]), ((4, 1, 2, 3), [5, 2, 3, 1])):
        x_0, eps = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        cases.append((x_0, eps, torch.tensor(t), alphas_cumprod))

    def mix(signal=torch.sqrt, noise=lambda a: (1 - a).sqrt(), at=lambda a, t: a[t], swapped=False, sign=1):
        def apply(x_0, eps, t, alphas_cumprod):
            left = at(alphas_cumprod, t).view(-1, 1, 1, 1)
            first, second = (eps, x_0) if swapped else (x_0, eps)
            return signal(left) * first + sign * noise(left) * second

        return apply

    mistakes = {
        "roots are missing: alphas_cumprod is a share of the variance": mix(lambda a: a, lambda a: 1 - a),
        "the root before x_0 is missing": mix(signal=lambda a: a),
        "the root before eps is missing": mix(noise=lambda a: 1 - a),
        "the root is taken before the subtraction: it is the root of 1 - alphas_cumprod": mix(
            noise=lambda a: 1 - a.sqrt()
        ),
        "signal and noise are exchanged: at small t the picture is strong": mix(swapped=True),
        "the picture does not get weaker: x_0 is multiplied, too": mix(signal=lambda a: a**0),
        "the noise is not weighted": mix(noise=lambda a: a**0),
        "all pictures get the noise of the first: each has its own t": mix(at=lambda a, t: a[t[:1]]),
        "one timestep too far: t counts from 0, as the list does": mix(
            at=lambda a, t: a[(t + 1).clamp(max=len(a) - 1)]
        ),
        "one timestep too early: t counts from 0, as the list does": mix(at=lambda a, t: a[t - 1]),
        "noise is added, not subtracted": mix(sign=-1),
        "alphas_cumprod is the product already: no cumprod is needed": mix(at=lambda a, t: a.cumprod(0)[t]),
        "alphas_cumprod is not squared: it is a share of the variance, and its root is the signal": [
            mix(noise=lambda a: (1 - a**2).sqrt()),
            mix(lambda a: a, lambda a: (1 - a**2).sqrt()),
        ],
        "brackets are missing: eps is multiplied by the root of (1 - alphas_cumprod)": (
            lambda x_0, eps, t, a: mix(noise=lambda a: -a.sqrt())(x_0, eps, t, a) + 1
        ),
    }
    errors = {
        "must match the size": (
            "alphas_cumprod[t] is (b,), a number for each picture: give it the shape (b, 1, 1, 1) to multiply pictures"
        ),
    }
    return Exercise(mix(), cases, mistakes, own=[NoiseSchedule.add_noise], errors=errors)


def _levels():
    """Cases of a step: shapes, and alphas_cumprod before and after it; one goes to the clean picture."""
    return [((1, 2, 3), 0.3, 0.6), ((2, 3, 4), 0.05, 0.2), ((3, 5, 2), 0.85, 0.95), ((4, 2, 3), 0.9, 1.0)]


def _step(x_t, eps_hat, now, then, *, remove=math.sqrt, divide=math.sqrt, signal=math.sqrt, noise=math.sqrt, sign=1):
    x0_hat = (x_t - sign * remove(1 - now) * eps_hat) / divide(now)
    return signal(then) * x0_hat + noise(1 - then) * eps_hat


@exercise
def ddim_step() -> Exercise:
    """`answer(x_t, eps_hat, now, then)`: from alphas_cumprod `now` to the larger `then`, without fresh noise."""
    draw = torch.Generator().manual_seed(41)
    cases = [(*torch.randn(2, *shape, generator=draw, dtype=torch.float64), *levels) for shape, *levels in _levels()]

    def slip(**other):
        return lambda *case: _step(*case, **other)

    def one(number):
        return 1.0

    def ddpm(x_t, eps_hat, now, then):
        alpha = now / then
        return (x_t - (1 - alpha) / math.sqrt(1 - now) * eps_hat) / math.sqrt(alpha)

    def difference(x_t, eps_hat, now, then):
        return x_t - (math.sqrt(1 - now) - math.sqrt(1 - then)) * eps_hat

    def of_z(x_t, eps_hat, now, then):
        return x_t + (math.sqrt(1 / then - 1) - math.sqrt(1 / now - 1)) * eps_hat

    mistakes = {
        "x_t is taken for the clean picture: first take the noise out of it": lambda x, e, now, then: (
            math.sqrt(then) * x + math.sqrt(1 - then) * e
        ),
        "that is the step of z = x_t / sqrt(now); this one goes from x_t to x_t": of_z,
        "only the difference of the noises is taken off; the picture gets stronger, too, from sqrt(now) to sqrt(then): "
        "go by x0_hat": difference,
        "that is x0_hat; the noise of the new level comes back": slip(signal=one, noise=lambda n: 0.0),
        "the noise that comes back is missing": slip(noise=lambda n: 0.0),
        "x0_hat is not weakened to the new level": slip(signal=one),
        "the noise comes back in full, not as much as the new level has": slip(noise=one),
        "a sign: to come to x0_hat the noise is subtracted": slip(sign=-1),
        "x0_hat is not divided by the signal, sqrt(now)": slip(divide=one),
        "x0_hat is divided by now; the signal is its square root": slip(divide=float),
        "the root of 1 - now is missing": slip(remove=float),
        "the root of then is missing": slip(signal=float),
        "the root of 1 - then is missing": slip(noise=float),
        "roots are missing everywhere": slip(remove=float, divide=float, signal=float, noise=float),
        "now and then are exchanged: x_t is at now": lambda x, e, now, then: _step(x, e, then, now),
        "the noise that is put back is that of now, so that x_t hardly changes": lambda x, e, now, then: (
            math.sqrt(then) * (x - math.sqrt(1 - now) * e) / math.sqrt(now) + math.sqrt(1 - now) * e
        ),
        "the weights at the end are exchanged": lambda x, e, now, then: (
            math.sqrt(1 - then) * (x - math.sqrt(1 - now) * e) / math.sqrt(now) + math.sqrt(then) * e
        ),
        "that is the mean of DDPM's step; DDIM goes by x0_hat and the same noise": ddpm,
        "brackets are missing: what is left without the noise is divided, all of it": lambda x, e, now, then: (
            math.sqrt(then) * (x - math.sqrt(1 - now) * e / math.sqrt(now)) + math.sqrt(1 - then) * e
        ),
        "a sign: at the end the noise is added": lambda x, e, now, then: (
            math.sqrt(then) * (x - math.sqrt(1 - now) * e) / math.sqrt(now) - math.sqrt(1 - then) * e
        ),
        "now and then are shares of the picture, 1 - now and 1 - then of the noise": [
            lambda x, e, now, then: _step(x, e, 1 - now, then),
            lambda x, e, now, then: _step(x, e, 1 - now, 1 - then),
        ],
    }
    return Exercise(_step, cases, mistakes)


class _Denoiser:
    """A function (x, level) -> eps_hat that is no straight line in either, and counts how often it is asked."""

    def __init__(self, k):
        self.k, self.calls = k, 0

    def __call__(self, x, level):
        self.calls += 1
        return torch.tanh(x * (0.5 + 0.1 * self.k)) + 0.3 * level * x

    def __repr__(self):
        return "denoise(x, alphas_cumprod) -> eps_hat"


def _counted(answer, x_t, denoise, now, then):
    """The result of a step, and how often it asked."""
    asked = _Denoiser(denoise.k)
    result = answer(x_t, asked, now, then)
    return {"the result": result, "model evaluations": asked.calls}


@exercise
def heun_step() -> Exercise:
    """`answer(x_t, denoise, now, then)`: Heun's step from alphas_cumprod `now` to the larger `then`.

    denoise(x, level) -> eps_hat, where level is an alphas_cumprod. A DDIM step forward, a look there, and a DDIM step
    again from x_t with the mean of both eps_hat. Where then is 1, at the clean picture, the first step is the answer.
    """
    draw = torch.Generator().manual_seed(42)
    cases = [
        (torch.randn(shape, generator=draw, dtype=torch.float64), _Denoiser(k), *levels)
        for k, (shape, *levels) in enumerate(_levels())
    ]

    def heun(
        second=lambda x_t, x_next, now, then: (x_next, then), join=lambda a, b: (a + b) / 2, last=True, start=None
    ):
        def apply(x_t, denoise, now, then):
            eps = denoise(x_t, now)
            x_next = _step(x_t, eps, now, then)
            if then == 1 and last:
                return x_next
            joined = join(eps, denoise(*second(x_t, x_next, now, then)))
            return start(x_next, joined, now, then) if start else _step(x_t, joined, now, then)

        return apply

    def euler(x_t, denoise, now, then):
        return _step(x_t, denoise(x_t, now), now, then)

    def of_states(x_t, denoise, now, then):
        x_next = euler(x_t, denoise, now, then)
        return x_next if then == 1 else (x_next + _step(x_t, denoise(x_next, then), then, then)) / 2

    def in_a_row(x_t, denoise, now, then):
        x_next = euler(x_t, denoise, now, then)
        return x_next if then == 1 else (x_next + _step(x_next, denoise(x_next, then), now, then)) / 2

    def asked_for_nothing(x_t, denoise, now, then):
        eps = denoise(x_t, now)
        x_next = _step(x_t, eps, now, then)
        other = denoise(x_next, then)
        return x_next if then == 1 else _step(x_t, (eps + other) / 2, now, then)

    def asked_twice(x_t, denoise, now, then):
        x_next = euler(x_t, denoise, now, then)
        return x_next if then == 1 else _step(x_t, (denoise(x_t, now) + denoise(x_next, then)) / 2, now, then)

    def midpoint(x_t, denoise, now, then):
        middle = (now + then) / 2
        return _step(x_t, denoise(euler(x_t, denoise, now, middle), middle), now, then)

    def midpoint_but_last(x_t, denoise, now, then):
        return (euler if then == 1 else midpoint)(x_t, denoise, now, then)

    def twice(x_t, denoise, now, then):
        x_next = euler(x_t, denoise, now, then)
        return x_next if then == 1 else _step(x_next, denoise(x_next, then), now, then)

    mistakes = {
        "that is the first step alone, Euler's or DDIM's: look once more where it arrives": euler,
        "at the clean picture there is nothing to look at: the first step is the answer": heun(last=False),
        "the second look is at x_t again: look at what the first step came to": heun(
            lambda x_t, x_next, now, then: (x_t, then)
        ),
        "the second look is at the new picture but still at level now": heun(
            lambda x_t, x_next, now, then: (x_next, now)
        ),
        "only the second eps_hat is used: take the mean of both": heun(join=lambda a, b: b),
        "the sum of both eps_hat: divide it by 2": heun(join=lambda a, b: a + b),
        "the second step starts from where the first arrived: it starts from x_t again": [
            twice,
            heun(start=lambda x_next, joined, now, then: _step(x_next, joined, then, then)),
            heun(start=_step),
            heun(start=_step, last=False),
        ],
        "the states are averaged; the mean is of both eps_hat": [of_states, in_a_row],
        "brackets are missing: both eps_hat are added, then divided": heun(join=lambda a, b: a + b / 2),
        "asked once too often: where then is 1, return before the second question": asked_for_nothing,
        "the first eps_hat is asked for twice: keep it": asked_twice,
        "that is the midpoint method; Heun asks at the end of the step": [midpoint, midpoint_but_last],
    }
    return Exercise(heun(), cases, mistakes, run=_counted)
