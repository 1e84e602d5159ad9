"""Checks of what learners write to train a denoiser, of pixels and of latents."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.losses import denoising_error, denoising_loss, draw_noise

from ._check import Exercise, exercise
from ._drawn import ALPHAS, roots, watch

OWN = [draw_noise, denoising_error, denoising_loss]
CALLS = {
    "argument: 't'": "the model is told the time, too: model(x_t, t)",
    "backward through the graph a second time": "return the loss; whoever called your function calls backward",
}
ERRORS = CALLS | {
    "must match the size": (
        "alphas_cumprod[t] is (b,), a number for each picture: give it the shape (b, 1, 1, 1) to multiply pictures"
    ),
    "out of bounds": "timesteps go from 0 to len(alphas_cumprod) - 1, and here that is another number than 999",
}


def _draw_t(x_0):
    return torch.randint(len(ALPHAS), (len(x_0),))


def wide(level: Tensor) -> Tensor:
    """A number for each picture, (b,), in a shape that multiplies pictures: (b, 1, 1, 1)."""
    return level.view(-1, 1, 1, 1)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean squared error."""
    return (prediction - target).square().mean()


def _eps(x_0, eps, x_t, a):
    return eps


def _v(x_0, eps, x_t, a):
    return a.sqrt() * eps - (1 - a).sqrt() * x_0


def _step(
    t=_draw_t,
    noise=torch.randn_like,
    mix=None,
    target=_eps,
    loss=mse,
    shown=lambda t: t,
    seen=lambda x_0, eps, x_t: x_t,
):
    """A denoiser's training step, with something else in a place."""

    def usual(x_0, eps, a):
        return a.sqrt() * x_0 + (1 - a).sqrt() * eps

    def apply(model, x_0, alphas_cumprod):
        at, eps = t(x_0), noise(x_0)
        a = wide(alphas_cumprod[at.long().clamp(0, len(alphas_cumprod) - 1)])
        x_t = (mix or usual)(x_0, eps, a)
        return loss(model(seen(x_0, eps, x_t), shown(at)), target(x_0, eps, x_t, a))

    return apply


_CLEAN = "the model is shown the clean picture; it must see x_t, and say what is asked of it"
_ALONE = "the model is shown the noise alone; it must see x_t"


def _draws(steps, asked="the noise"):
    """Mistakes in what a step draws and compares, for `steps`, which makes a step with something else in a place."""
    return {
        "t is drawn once for the whole batch; each picture has its own": steps(
            t=lambda x_0: torch.randint(len(ALPHAS), (1,)).expand(len(x_0))
        ),
        "the last timestep is never drawn: randint leaves its upper end out": steps(
            t=lambda x_0: torch.randint(len(ALPHAS) - 1, (len(x_0),))
        ),
        "the first timestep is never drawn: t counts from 0": steps(
            t=lambda x_0: torch.randint(1, len(ALPHAS), (len(x_0),))
        ),
        "one noise for the whole batch; each picture has its own": steps(
            noise=lambda x_0: torch.randn_like(x_0[:1]).expand_as(x_0)
        ),
        "the noise is drawn with rand, between 0 and 1; it is normal: randn": steps(noise=torch.rand_like),
        "roots are missing: alphas_cumprod is a share of the variance": steps(mix=lambda x, e, a: a * x + (1 - a) * e),
        "signal and noise are exchanged": steps(mix=lambda x, e, a: (1 - a).sqrt() * x + a.sqrt() * e),
        _CLEAN: [
            steps(seen=lambda x, e, x_t: x),
            steps(seen=lambda x, e, x_t: x, target=lambda x, e, x_t, a: x_t),
            steps(seen=lambda x, e, x_t: x, target=lambda x, e, x_t, a: x),
        ],
        _ALONE: steps(seen=lambda x, e, x_t: e),
        "t goes to the model as it is, a whole number, not as a share of the steps": [
            steps(shown=lambda t: t / len(ALPHAS)),
            steps(shown=lambda t: t / (len(ALPHAS) - 1)),
        ],
        f"the answer is compared with what was clean; asked is {asked}": steps(target=lambda x, e, x_t, a: x),
        "the answer is compared with x_t, which the model was given": steps(target=lambda x, e, x_t, a: x_t),
        "a sum of squares grows with the picture: take the mean": steps(loss=lambda p, y: (p - y).square().sum()),
        "the errors are not squared": steps(loss=lambda p, y: (p - y).abs().mean()),
        "the errors are averaged with their signs: square them first": steps(loss=lambda p, y: (p - y).mean()),
        "no gradient can go through: leave out detach, no_grad and item": steps(loss=lambda p, y: mse(p, y).detach()),
    }


@exercise
def denoiser_training_step() -> Exercise:
    """`answer(model, x_0, alphas_cumprod)`: pictures (b, c, h, w) -> the loss of a denoiser that says eps.

    Draw t (b,), whole numbers, and eps; the model is asked once, as model(x_t, t); the loss is the mean squared error.
    """
    cases = [(1, (1, 2, 3)), (2, (2, 4, 3)), (3, (3, 2, 5))]

    def run(answer, seed, shape):
        def ask(model, x_0):
            return answer(model, x_0, ALPHAS.clone())

        return watch(seed, shape, ask, lambda x_0: {"x_0": x_0}, roots(ALPHAS))

    mistakes = _draws(_step) | {
        "the noise is drawn twice: the one in x_t is the one to compare with": _step(
            target=lambda x, e, x_t, a: torch.randn_like(e)
        ),
        "the root of the mean squared error; the mean itself is asked for": _step(loss=lambda p, y: mse(p, y).sqrt()),
    }
    return Exercise(_step(), cases, mistakes, run=run, own=OWN, errors=ERRORS, patience=30)


class _Encoder(nn.Module):
    """Stands in for an autoencoder, trainable, whose latents have a spread that needs its scale factor."""

    scale_factor = 0.25

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(8.0, dtype=torch.float64))
        self.encoded = self.drawn = False

    def encode(self, x):
        self.encoded, self.mean = True, self.weight * F.avg_pool2d(x, 2).flip(1)
        return self

    @property
    def std(self):
        self.drawn = True
        return torch.full_like(self.mean, 1e-6)  # so small that a sample is the mean, for what is found out of it

    @property
    def logvar(self):
        return 2 * self.std.log()

    def sample(self, generator=None):
        return self.at(torch.randn_like(self.mean))

    def at(self, eps):
        return self.mean + self.std * eps

    def scale(self, z):
        return z * self.scale_factor


@exercise
def latent_training_step() -> Exercise:
    """`answer(model, vae, x_0, alphas_cumprod)`: pictures (b, c, h, w) -> the loss of a latent denoiser that says v.

    A latent z is a sample of vae.encode(x_0), times vae.scale_factor; the vae learns nothing. Draw t (b,), whole
    numbers, and eps; the model is asked once, as model(z_t, t), for v = sqrt(a) eps - sqrt(1 - a) z, with a =
    alphas_cumprod[t]; the loss is the mean squared error.
    """
    cases = [(4, (1, 4, 6)), (5, (2, 8, 6)), (6, (3, 4, 10))]

    def run(answer, seed, shape):
        made = []

        def ask(model, x_0):
            made.append(_Encoder())
            loss = answer(model, made[-1], x_0, ALPHAS.clone())
            if len(made) == 1 and torch.is_tensor(loss) and loss.requires_grad and not loss.ndim:
                loss.backward()
            return loss

        def bases(x_0):
            vae = made[-1]
            if not vae.encoded:
                return {"the pictures; vae.encode is never called": x_0}
            z, factor = vae.mean.detach(), vae.scale_factor
            return {
                "the scaled latent": factor * z,
                "a latent, not scaled": z,
                "a latent, divided by the factor": z / factor,
                "a latent, scaled twice": factor**2 * z,
            }

        facts = watch(seed, shape, ask, bases, roots(ALPHAS))
        drawn = {"the latent is a sample of its cloud, not its mean": made[0].drawn}
        return drawn | facts | {"the vae gets no gradient": made[0].weight.grad is None}

    def latent(scale=lambda z, vae: z * vae.scale_factor, draw=lambda cloud: cloud.sample(), frozen=True, **other):
        def apply(model, vae, x_0, alphas_cumprod):
            with torch.set_grad_enabled(not frozen):
                z = scale(draw(vae.encode(x_0)), vae)
            return _step(**{"target": _v} | other)(model, z, alphas_cumprod)

        return apply

    def compared_with(target):  # target(z, eps, root of a, root of 1 - a)
        return latent(target=lambda z, eps, z_t, a: target(z, eps, a.sqrt(), (1 - a).sqrt()))

    mistakes = {
        "the latent is not scaled: times vae.scale_factor its spread is 1": latent(lambda z, vae: z),
        "divided by the scale factor: that is the way back, before decoding": latent(
            lambda z, vae: z / vae.scale_factor
        ),
        "scaled twice: vae.scale multiplies by the factor already": latent(lambda z, vae: z * vae.scale_factor**2),
        "the middle of the cloud is taken; a sample is asked for": latent(draw=lambda cloud: cloud.mean),
        "the pictures themselves are noised; encode them first": (
            lambda model, vae, x_0, alphas_cumprod: _step(target=_v)(model, x_0, alphas_cumprod)
        ),
        "the autoencoder is trained along: encode inside torch.no_grad()": latent(frozen=False),
        "the answer is compared with the noise, as lesson 03 did at first; these models are asked for v": (
            compared_with(lambda z, eps, a, s: eps)
        ),
        "v has its sign turned around: with a little noise v is nearly the noise, not its opposite": (
            compared_with(lambda z, eps, a, s: s * z - a * eps)
        ),
        "the roots in v are exchanged: with a little noise v is nearly the noise": (
            compared_with(lambda z, eps, a, s: s * eps - a * z)
        ),
        "the noise and the latent are exchanged in v: the noise comes first": (
            compared_with(lambda z, eps, a, s: a * z - s * eps)
        ),
        "the two parts of v are added; the latent's is subtracted": compared_with(lambda z, eps, a, s: a * eps + s * z),
        "roots are missing in v: alphas_cumprod is a share of the variance": (
            compared_with(lambda z, eps, a, s: a**2 * eps - s**2 * z)
        ),
        **_draws(latent, "v"),
    }
    # Compared with v, these two look alike.
    either = [*mistakes.pop(_CLEAN), mistakes.pop(_ALONE)]
    mistakes["the model must be shown a z + s eps, with a and s as roots: neither z nor the noise alone"] = either
    errors = ERRORS | {
        "must match the size": ERRORS["must match the size"].replace("pictures", "latents")
        + "; and eps and v have the shape of the latents, not of the pictures",
        "'_Encoder'": "vae.encode gives a Gaussian: .sample() draws a latent from it",
    }
    return Exercise(latent(), cases, mistakes, run=run, own=OWN, errors=errors, patience=30)
