"""Checks of lesson 07: latent diffusion, and what it costs."""

import math

import torch

from ._check import Function, check


def decodable_latent(answer: Function) -> None:
    """Exercise 2: `answer(z_t, v, now, scale)`, tensors (b, c, h, w) and two numbers -> what the decoder takes."""
    draw = torch.Generator().manual_seed(7)
    cases = []
    for shape, now, scale in (((1, 2, 2, 3), 0.9, 0.5), ((2, 4, 3, 2), 0.3, 0.18215), ((3, 4, 4, 5), 0.04, 1.7)):
        z_t, v = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        cases.append((z_t, v, now, scale))

    def estimate(signal=math.sqrt, noise=lambda now: math.sqrt(1 - now), sign=-1, to=lambda z, scale: z / scale):
        return lambda z_t, v, now, scale: to(signal(now) * z_t + sign * noise(now) * v, scale)

    mistakes = {
        "the scale is missing: the decoder takes latents as the encoder gave them": estimate(to=lambda z, scale: z),
        "multiplied by the scale: that is the way in; divide on the way out": estimate(to=lambda z, scale: z * scale),
        "only z_t is divided by the scale; the estimate as a whole must be": (
            lambda z_t, v, now, scale: math.sqrt(now) * z_t / scale - math.sqrt(1 - now) * v
        ),
        "v is added; to come to z_0 it is subtracted": estimate(sign=1),
        "roots are missing: now is the share of the signal's power": estimate(lambda now: now, lambda now: 1 - now),
        "the roots are swapped: at little noise z_t is nearly z_0": estimate(
            lambda now: math.sqrt(1 - now), lambda now: math.sqrt(now)
        ),
        "v is read as if it were the noise": (
            lambda z_t, v, now, scale: (z_t - math.sqrt(1 - now) * v) / math.sqrt(now) / scale
        ),
        "v is taken for z_0 itself": lambda z_t, v, now, scale: v / scale,
        "this is the noise, not z_0": (
            lambda z_t, v, now, scale: (math.sqrt(1 - now) * z_t + math.sqrt(now) * v) / scale
        ),
    }
    check("decodable_latent", answer, estimate(), cases, mistakes)


def models_to_pay(answer: Function) -> None:
    """Exercise 3: `answer(first, steps, pixel, latent)`, seconds, steps, seconds a step twice -> how many models."""
    cases = [(50, 10, 2.0, 1.0), (100, 10, 3.0, 1.0), (1000, 100, 0.75, 0.5), (7, 4, 1.0, 0.5), (90, 10, 1.0, 2.0)]
    cases += [(3600, 1000, 0.5, 0.125), (1, 10, 1.0, 0.5)]

    def models(saved=lambda steps, pixel, latent: steps * (pixel - latent), whole=lambda x: math.floor(x) + 1):
        def apply(first, steps, pixel, latent):
            return max(1, whole(first / saved(steps, pixel, latent))) if pixel > latent else math.inf

        return apply

    mistakes = {
        "at equality nothing is gained yet: one model more": models(whole=math.ceil),
        "rounded down: that many models do not pay for it": models(whole=math.floor),
        "expected a whole number of models": models(whole=lambda x: x),
        "what is saved is saved at every step": models(lambda steps, pixel, latent: pixel - latent),
        "each model still costs its own latent steps: only the difference is saved": models(
            lambda steps, pixel, latent: steps * pixel
        ),
        "compared with the latent steps; what counts is how much less they take": models(
            lambda steps, pixel, latent: steps * latent
        ),
    }
    check("models_to_pay", _finite(answer), _finite(models()), cases, {k: _finite(f) for k, f in mistakes.items()})


def _finite(answer):
    """Infinity as a number that can be compared: here it is a right answer."""

    def apply(*case):
        value = answer(*case)
        return -1 if isinstance(value, float) and value == math.inf else value

    return apply


def cross_attention_flops(answer: Function) -> None:
    """Exercise 4: `answer(n, dim, words, context)`, the FLOPs of one cross-attention layer."""

    def count(of_places=2, of_words=2, made_from=lambda n, words: words, width=lambda dim, context: context, each=2):
        def apply(n, dim, words, context):
            linear = of_places * n * dim**2 + of_words * made_from(n, words) * width(dim, context) * dim
            return each * (linear + 2 * n * words * dim)

        return apply

    cases = [(4, 8, 3, 5), (64, 128, 77, 256), (100, 32, 16, 24), (256, 16, 5, 20), (4096, 320, 77, 768)]
    mistakes = {
        "a multiplication with its addition counts as two": count(each=1),
        "keys and values are missing: they are made from the words, by linear layers": count(of_words=0),
        "queries or output are missing: each of them is a linear layer on the places": count(of_places=1),
        "the linear layers on the places are missing: queries and output": count(of_places=0),
        "keys and values are made from the words, not from the places": count(made_from=lambda n, words: n),
        "words have a width of their own: keys and values go from context to dim": count(
            width=lambda dim, context: dim
        ),
        "that is self-attention: places ask words here, not one another": (
            lambda n, dim, words, context: 8 * n * dim**2 + 4 * n**2 * dim
        ),
        "only one of the two products is counted: scores, and weights times values": (
            lambda n, dim, words, context: 4 * n * dim**2 + 4 * words * context * dim + 2 * n * words * dim
        ),
        "the products are missing: scores, and weights times values": (
            lambda n, dim, words, context: 4 * n * dim**2 + 4 * words * context * dim
        ),
    }
    check("cross_attention_flops", answer, count(), cases, mistakes, tolerance=0)
