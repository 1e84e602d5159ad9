import math

import pytest
import torch

from minildm import NoiseSchedule, checks
from minildm.guidance import guided
from minildm.pipeline import _steering as steering


def good_guidance(told, untold, scale):
    """By the package: a model that is told which of the two answers to give."""
    both = torch.stack([untold, told])

    def model(x_t, t, y):
        b = len(told)
        return torch.cat([both[k, : len(part)] for k, part in zip(y[::b].tolist(), y.split(b), strict=True)])

    labels = [torch.full((len(told),), k) for k in (1, 0)]
    denoise = guided(model, scale, {"y": labels[0]}, {"y": labels[1]})
    return denoise(torch.zeros_like(told), labels[0])


def good_rescaled(guided_answer, conditional, share):
    """By the package: two answers whose guidance at scale 2 is the one that is given."""
    untold = 2 * conditional - guided_answer
    both = torch.stack([untold, conditional])

    def model(x_t, t, y):
        b = len(conditional)
        return torch.cat([both[k, : len(part)] for k, part in zip(y[::b].tolist(), y.split(b), strict=True)])

    labels = [torch.full((len(conditional),), k) for k in (1, 0)]
    denoise = guided(model, 2, {"y": labels[0]}, {"y": labels[1]}, rescale=share)
    return denoise(torch.zeros_like(conditional), labels[0])


def good_remaining(timesteps, strength):
    """By the package."""
    z = torch.zeros(1, 1, 1, 1)
    path, _ = steering.start(NoiseSchedule.linear(), list(timesteps), z, z, strength, None, False)
    return path


def good_overwriting(x_t, z, eps, now, new):
    """By the package: a schedule whose first timestep has this alpha bar."""
    noised = NoiseSchedule.from_betas([1 - now]).add_noise(z, eps, torch.zeros(len(z), dtype=torch.long))
    return torch.where(new > 0, x_t, noised)


RIGHT = [
    (checks.guidance, good_guidance),
    (checks.rescaled, good_rescaled),
    (checks.remaining, good_remaining),
    (checks.overwriting, good_overwriting),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def spread(factor, over=(1, 2, 3)):
    """A wrong answer, the guided one times `factor(its spread, that of the conditional one, share)`."""
    return lambda g, c, s: g * factor(*(x.std(over, keepdim=True) for x in (g, c)), s)


def left(cut):
    """A wrong answer from `cut(path, share of the steps as a number)`."""
    return lambda path, strength: cut(list(path), len(path) * strength)


def put(use):
    """A wrong answer from `use(z, eps, root of now, root of 1 - now)` where the picture is known."""
    return lambda x, z, e, now, new: torch.where(new > 0, x, use(z, e, now**0.5, (1 - now) ** 0.5))


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.guidance, lambda c, n, s: c + s * (c - n), "its scale is one less"),
        (checks.guidance, lambda c, n, s: n - s * (c - n), "sign of the difference"),
        (checks.guidance, lambda c, n, s: c + s * (n - c), "swapped"),
        (checks.guidance, lambda c, n, s: s * (c - n), "unconditional answer is missing"),
        (checks.guidance, lambda c, n, s: c + (s + 1) * (c - n), "at scale 1 that is not off"),
        (checks.guidance, lambda c, n, s: s * c + n, "only their difference is"),
        (checks.guidance, lambda c, n, s: n, "words are not heard"),
        (checks.guidance, lambda c, n, s: c, "that is scale 1"),
        (checks.rescaled, lambda g, c, s: g * (1 + s * (c.std() / g.std() - 1)), "whole batch"),
        (checks.rescaled, spread(lambda g, c, s: 1 + s * (c / g - 1), (2, 3)), "each channel"),
        (checks.rescaled, spread(lambda g, c, s: 1 + s * (g / c - 1)), "turned around: the guided"),
        (checks.rescaled, spread(lambda g, c, s: c / g), "share is not heard"),
        (checks.rescaled, spread(lambda g, c, s: s + (1 - s) * c / g), "at 0 nothing changes"),
        (checks.rescaled, spread(lambda g, c, s: s * c / g), "nothing is left"),
        (checks.rescaled, lambda g, c, s: s * c + (1 - s) * g, "only its spread is wanted"),
        (checks.remaining, left(lambda path, n: path[: len(path) - max(1, int(n))]), "steps that are skipped"),
        (checks.remaining, left(lambda path, n: path[: max(1, int(n))]), "from the start of the list"),
        (checks.remaining, left(lambda path, n: path[max(1, int(n)) :]), "not how much is skipped"),
        (checks.remaining, left(lambda path, n: path[-math.ceil(n) :]), "rounded up"),
        (checks.remaining, left(lambda path, n: path[len(path) - max(1, round(n)) :]), "rounded to the nearest"),
        (checks.remaining, left(lambda path, n: path[len(path) - int(n) :]), "one step must be left"),
        (checks.remaining, left(lambda path, n: path[-int(n) :]), "the whole list"),
        (checks.remaining, lambda path, s: [t for t in path if t < 1000 * s], "cut by the timestep"),
        (checks.overwriting, lambda x, z, e, now, new: good_overwriting(x, z, e, now, 1 - new), "turned around"),
        (checks.overwriting, put(lambda z, e, a, b: z), "has no noise"),
        (checks.overwriting, put(lambda z, e, a, b: a**2 * z + b**2 * e), "roots are missing"),
        (checks.overwriting, put(lambda z, e, a, b: b * z + a * e), "roots are swapped"),
        (checks.overwriting, put(lambda z, e, a, b: z + b * e), "signal is not weakened"),
        (checks.overwriting, put(lambda z, e, a, b: b * e), "only noise"),
        (checks.overwriting, lambda x, z, e, now, new: good_overwriting(x, z, e, now, 0 * new), "where new is 1"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)
