import math
from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minildm import NoiseSchedule, checks
from minildm.attention import Attention, attention_maps


def good_latent(z_t, v, now, scale):
    """By the package: a schedule whose first timestep has this alpha bar."""
    schedule = NoiseSchedule.from_betas([1 - now]).predicting("v")
    x0_hat, _ = schedule.read(v.double(), z_t.double(), torch.zeros(len(z_t), dtype=torch.long))
    return x0_hat / scale


def good_models(first, steps, pixel, latent):
    """By trying one after the other."""
    if pixel <= latent:
        return math.inf
    models = 1
    while Fraction(first) + models * steps * Fraction(latent) > models * steps * Fraction(pixel):
        models += 1
    return models


def good_flops(n, dim, words, context):
    return 4 * n * dim**2 + 4 * words * context * dim + 4 * n * words * dim


RIGHT = [
    (checks.decodable_latent, good_latent),
    (checks.models_to_pay, good_models),
    (checks.cross_attention_flops, good_flops),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_the_flops_are_those_that_pytorch_counts():
    n, dim, words, context = 6, 20, 7, 12
    layer = Attention(dim, context, heads=5)
    with attention_maps(layer), FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, n, dim), torch.zeros(1, words, context))
    assert counter.get_total_flops() == good_flops(n, dim, words, context)


def latent(use):
    """A wrong answer from `use(z_t, v, root of now, root of 1 - now, scale)`."""
    return lambda z, v, now, scale: use(z, v, now**0.5, (1 - now) ** 0.5, scale)


def models(gain, whole=math.ceil, least=1):
    def answer(first, steps, pixel, latent):
        return max(least, whole(first / gain(steps, pixel, latent))) if pixel > latent else math.inf

    return answer


def saved(steps, pixel, latent):
    return steps * (pixel - latent)


def flops(
    linear=lambda n, d, m, c: 4 * n * d * d + 4 * m * c * d,
    product=lambda n, d, m, c: 4 * n * m * d,
):
    return lambda *case: linear(*case) + product(*case)


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.decodable_latent, latent(lambda z, v, a, b, s: a * z - b * v), "scale is missing"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: s * (a * z - b * v)), "that is the way in"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: a * z / s - b * v), "only z_t is divided"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (a * z + b * v) / s), "v is added"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (a**2 * z - b**2 * v) / s), "roots are missing"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (b * z - a * v) / s), "roots are swapped"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (z - b * v) / a / s), "as if it were the noise"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: v / s), "taken for z_0"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (b * z + a * v) / s), "this is the noise"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: a * z - b * v / s), "only v is divided"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: a * z + b * v), "v is added"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (a * z - (1 - a) * v) / s), "not 1 less the root"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (z - v) / s), "factors are missing"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: z / s), "v is not used"),
        (checks.decodable_latent, latent(lambda z, v, a, b, s: (z - b * v) / a), "as if it were the noise"),
        (checks.models_to_pay, models(lambda n, pixel, latent: (pixel - latent) / n), "divide by their number"),
        (checks.models_to_pay, models(lambda n, pixel, latent: n), "what a step saves is missing"),
        (checks.models_to_pay, models(lambda n, pixel, latent: n * (latent - pixel)), "in this order"),
        (checks.models_to_pay, models(lambda n, pixel, latent: n * pixel / latent), "a difference"),
        (checks.models_to_pay, models(saved, math.floor), "rounded down"),
        (checks.models_to_pay, models(saved, math.floor, least=0), "rounded down"),
        (checks.models_to_pay, models(saved, round), "nearest whole"),
        (checks.models_to_pay, models(saved, lambda x: math.floor(x) + 1), "comes out even"),
        (checks.models_to_pay, models(saved, lambda x: math.ceil(x) + 1), "one too many"),
        (checks.models_to_pay, models(saved, least=0), "at least 1"),
        (checks.models_to_pay, models(saved, float, least=0), "whole number"),
        (checks.models_to_pay, models(saved, float), "whole number"),
        (checks.models_to_pay, lambda f, n, p, q: math.ceil(f / n / (p - q)) if p != q else math.inf, "or longer"),
        (checks.models_to_pay, lambda f, n, p, q: good_models(f, n, p, q) if p >= q else 1, "however many"),
        (checks.models_to_pay, lambda f, n, p, q: good_models(f, n, p, q) if p > q else 0, "math.inf, not 0"),
        (checks.models_to_pay, lambda f, n, p, q: math.ceil(f / n / (p - q)), "nothing is left to divide by"),
        (checks.models_to_pay, models(lambda n, pixel, latent: pixel - latent), "at every step"),
        (checks.models_to_pay, models(lambda n, pixel, latent: n * pixel), "only the difference"),
        (checks.models_to_pay, models(lambda n, pixel, latent: n * latent), "how much less"),
        (checks.cross_attention_flops, lambda n, d, m, c: good_flops(n, d, m, c) // 2, "counts as two$"),
        (checks.cross_attention_flops, flops(lambda n, d, m, c: 2 * n * d * d + 2 * m * c * d), "linear layers, too"),
        (checks.cross_attention_flops, flops(lambda n, d, m, c: 8 * n * d * d), "layers of their own"),
        (checks.cross_attention_flops, flops(lambda n, d, m, c: 4 * n * d * d + 2 * m * c * d), "only one of keys"),
        (checks.cross_attention_flops, flops(lambda n, d, m, c: 4 * n * d * d + 4 * m * c * c), "have width dim"),
        (checks.cross_attention_flops, flops(lambda n, d, m, c: 4 * n * d + 4 * m * c), "width in · width out"),
        (checks.cross_attention_flops, flops(product=lambda n, d, m, c: 4 * n * m * c), "have width dim"),
        (checks.cross_attention_flops, flops(product=lambda n, d, m, c: 4 * n * n * d), "n · words scores"),
        (checks.cross_attention_flops, flops(product=lambda n, d, m, c: 4 * n * m), "an inner product"),
        (checks.cross_attention_flops, lambda n, d, m, c: 4 * n * d * d + 4 * n * m * d, "keys and values are missing"),
        (checks.cross_attention_flops, lambda n, d, m, c: good_flops(n, d, m, c) - 2 * n * d * d, "queries or output"),
        (checks.cross_attention_flops, lambda n, d, m, c: 4 * m * c * d + 4 * n * m * d, "layers on the places"),
        (
            checks.cross_attention_flops,
            lambda n, d, m, c: 4 * n * d * d + 4 * n * c * d + 4 * n * m * d,
            "not from the places",
        ),
        (checks.cross_attention_flops, lambda n, d, m, c: good_flops(n, d, m, d), "a width of their own"),
        (checks.cross_attention_flops, lambda n, d, m, c: 8 * n * d * d + 4 * n * n * d, "that is self-attention"),
        (checks.cross_attention_flops, lambda n, d, m, c: good_flops(n, d, m, c) - 2 * n * m * d, "one of the two"),
        (checks.cross_attention_flops, lambda n, d, m, c: 4 * n * d * d + 4 * m * c * d, "products are missing"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"(?m)likely: .*{hint}"):
        check(wrong)
