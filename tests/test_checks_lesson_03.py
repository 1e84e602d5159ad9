import math

import pytest
import torch
from torch import nn

from minildm import Denoiser, NoiseSchedule, checks
from minildm.tensors import count_parameters


def good_weights(channels, level):
    return count_parameters(nn.Linear(4 * channels[0], channels[level]))


def good_eps(x_t, v, kept):
    return (1 - kept).sqrt() * x_t + kept.sqrt() * v


def weights(x_t, points, p, kept):
    away = torch.cdist(x_t, kept.sqrt() * points).square()
    return torch.softmax(p.log() - away / (2 * (1 - kept)), dim=1)


def good_mean(x_t, points, p, kept):
    return weights(x_t, points, p, kept) @ points


def logits(of):
    def mean(x_t, points, p, kept):
        return torch.softmax(p.log() + of(torch.cdist(x_t, kept.sqrt() * points).square(), kept), dim=1) @ points

    return mean


def normalised_together(x_t, points, p, kept):
    weight = p * torch.exp(-torch.cdist(x_t, kept.sqrt() * points).square() / (2 * (1 - kept)))
    return weight / weight.sum() @ points


@pytest.mark.parametrize(
    "check, answer",
    [(checks.shift_weights, good_weights), (checks.eps_from_v, good_eps), (checks.posterior_mean, good_mean)],
)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_the_right_answers_are_the_package_s():
    channels = (8, 16, 24)
    model = Denoiser(3, 3, channels=channels, middle_attention=False)
    assert [good_weights(channels, k) for k in range(3)] == [
        count_parameters(model.down[2 * k].shift) for k in range(3)
    ]

    schedule, t = NoiseSchedule.cosine(), torch.tensor([3, 500, 998])
    x_t, v = torch.randn(2, 3, 1, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = schedule.alphas_cumprod[t].view(3, 1, 1, 1)
    assert (good_eps(x_t, v, kept) - schedule.v_to_eps(x_t, v, t)).abs().max() < 1e-12


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.shift_weights, lambda c, k: 4 * c[0] * c[k], "bias as well"),
        (checks.shift_weights, lambda c, k: (c[0] + 1) * c[k], "four times"),
        (checks.shift_weights, lambda c, k: (4 * c[k] + 1) * c[k], "follows channels"),
        (checks.shift_weights, lambda c, k: 4 * c[0] * (c[k] + 1), "for each output"),
        (checks.shift_weights, lambda c, k: (4 * c[0] + 1) * c[max(k - 1, 0)], "after the first convolution"),
        (checks.shift_weights, lambda c, k: (4 * c[0] + 1) * c[k - 1], "after the first convolution"),
        (checks.shift_weights, lambda c, k: (4 * c[0] + 1) * c[0], "after the first convolution"),
        (checks.shift_weights, lambda c, k: 4 * c[0] * c[k] + 1, "not one for all"),
        (checks.shift_weights, lambda c, k: 65 * c[k], "the lesson's own network"),
        (checks.shift_weights, lambda c, k: c[k], "those are its outputs"),
        (checks.shift_weights, lambda c, k: (36 * c[0] + 1) * c[k], "a linear layer"),
        (checks.eps_from_v, lambda x, v, kept: kept.sqrt() * x - (1 - kept).sqrt() * v, "clean picture, a x_t"),
        (checks.eps_from_v, lambda x, v, kept: kept.sqrt() * x + (1 - kept).sqrt() * v, "changed places"),
        (checks.eps_from_v, lambda x, v, kept: (1 - kept).sqrt() * x - kept.sqrt() * v, "sign of v"),
        (checks.eps_from_v, lambda x, v, kept: kept.sqrt() * v - (1 - kept).sqrt() * x, "sign of x_t"),
        (checks.eps_from_v, lambda x, v, kept: (1 - kept) * x + kept * v, "square roots"),
        (checks.eps_from_v, lambda x, v, kept: (x - kept.sqrt() * v) / (1 - kept).sqrt(), "not the clean picture"),
        (checks.eps_from_v, lambda x, v, kept: ((1 - kept).sqrt() * x + v) / kept.sqrt(), "in the place of x_0"),
        (checks.eps_from_v, lambda x, v, kept: (1 - kept).sqrt() * x + kept * v, "one of the two roots"),
        (checks.eps_from_v, lambda x, v, kept: (1 - kept) * x + kept.sqrt() * v, "one of the two roots"),
        (checks.eps_from_v, lambda x, v, kept: (1 - kept.sqrt()) * x + kept.sqrt() * v, "before the subtraction"),
        (checks.eps_from_v, lambda x, v, kept: math.sqrt(1 - kept) * x, "that are several numbers"),
        (checks.posterior_mean, logits(lambda away, k: -away / 2 * (1 - k)), "brackets are missing"),
        (checks.posterior_mean, logits(lambda away, k: -away / (2 * (1 - k) ** 2)), "it is not squared"),
        (checks.posterior_mean, logits(lambda away, k: away / (2 * (1 - k))), "what is far away counts most"),
        (checks.posterior_mean, lambda x, q, p, k: weights(x, q, p, k) @ (k.sqrt() * q), "the points themselves"),
        (
            checks.posterior_mean,
            lambda x, q, p, k: torch.softmax(-p * torch.cdist(x, k.sqrt() * q).square() / (2 * (1 - k)), 1) @ q,
            "p multiplies the distance",
        ),
        (checks.posterior_mean, normalised_together, "add up to 1 for each x_t"),
        (checks.posterior_mean, lambda x, q, p, k: weights(x, q, torch.ones_like(p), k) @ q, "their probabilities"),
        (checks.posterior_mean, lambda x, q, p, k: weights(x, q / k.sqrt(), p, k) @ q, "as they are"),
        (checks.posterior_mean, lambda x, q, p, k: weights(x, q * k.sqrt(), p, k) @ q, "not by kept"),
        (
            checks.posterior_mean,
            lambda x, q, p, k: p * torch.exp(-torch.cdist(x, k.sqrt() * q).square() / (2 * (1 - k))) @ q,
            "add up to 1",
        ),
        (
            checks.posterior_mean,
            lambda x, q, p, k: torch.softmax(p.log() - torch.cdist(x, k.sqrt() * q).square() / (1 - k), 1) @ q,
            "a 2 below",
        ),
        (
            checks.posterior_mean,
            lambda x, q, p, k: (
                torch.softmax(p.log() - torch.cdist(x, k.sqrt() * q).square() / (2 * (1 - k).sqrt()), 1) @ q
            ),
            "not its root",
        ),
        (
            checks.posterior_mean,
            lambda x, q, p, k: torch.softmax(-torch.cdist(x, k.sqrt() * q).square() / (2 * (1 - k)), 1) * p @ q,
            "p comes after the softmax",
        ),
        (
            checks.posterior_mean,
            lambda x, q, p, k: torch.softmax(p.log() - torch.cdist(x, k.sqrt() * q).square() / (2 * (1 - k)), 0) @ q,
            "the wrong axis",
        ),
        (
            checks.posterior_mean,
            lambda x, q, p, k: torch.softmax(p - torch.cdist(x, k.sqrt() * q).square() / (2 * (1 - k)), 1) @ q,
            "p itself is added",
        ),
        (
            checks.posterior_mean,
            lambda x, q, p, k: torch.softmax(p.log() - torch.cdist(x, k.sqrt() * q) / (2 * (1 - k)), 1) @ q,
            "not squared yet",
        ),
        (checks.posterior_mean, lambda x, q, p, k: q[weights(x, q, p, k).argmax(1)], "likeliest point"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)
