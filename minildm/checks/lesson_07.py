"""Checks of lesson 07: latent diffusion, and what it costs."""

import math

import torch

from ._check import Exercise, exercise


@exercise
def decodable_latent() -> Exercise:
    """`answer(z_t, v, now, scale)`, tensors (b, c, h, w) and two numbers -> what the decoder takes."""
    draw = torch.Generator().manual_seed(7)
    cases = []
    for shape, now, scale in (((1, 2, 2, 3), 0.9, 0.5), ((2, 4, 3, 5), 0.3, 0.18215), ((3, 4, 2, 6), 0.04, 1.7)):
        z_t, v = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        cases.append((z_t, v, now, scale))

    def estimate(signal=math.sqrt, noise=lambda now: math.sqrt(1 - now), sign=-1, to=lambda z, scale: z / scale):
        return lambda z_t, v, now, scale: to(signal(now) * z_t + sign * noise(now) * v, scale)

    def whether_scaled(**slip):  # a mistake in the estimate, and the same with the scale forgotten
        return [estimate(**slip), estimate(**slip, to=lambda z, scale: z)]

    mistakes = {
        "the scale is missing: the decoder takes latents as the encoder gave them": estimate(to=lambda z, scale: z),
        "multiplied by the scale: that is the way in; divide on the way out": estimate(to=lambda z, scale: z * scale),
        "only z_t is divided by the scale; the estimate as a whole must be": (
            lambda z_t, v, now, scale: math.sqrt(now) * z_t / scale - math.sqrt(1 - now) * v
        ),
        "only v is divided by the scale; the estimate as a whole must be": (
            lambda z_t, v, now, scale: math.sqrt(now) * z_t - math.sqrt(1 - now) * v / scale
        ),
        "v is added; to come to z_0 it is subtracted": whether_scaled(sign=1),
        "roots are missing: now is the share of the signal's power": whether_scaled(
            signal=lambda now: now, noise=lambda now: 1 - now
        ),
        "the second factor is the root of 1 - now, not 1 less the root": whether_scaled(
            noise=lambda now: 1 - math.sqrt(now)
        ),
        "the factors are missing: sqrt(now) and sqrt(1 - now)": whether_scaled(
            signal=lambda now: 1, noise=lambda now: 1
        ),
        "v is not used: z_t is no estimate yet": whether_scaled(signal=lambda now: 1, noise=lambda now: 0),
        "the roots are swapped: at little noise z_t is nearly z_0": whether_scaled(
            signal=lambda now: math.sqrt(1 - now), noise=math.sqrt
        ),
        "v is read as if it were the noise": [
            lambda z_t, v, now, scale: (z_t - math.sqrt(1 - now) * v) / math.sqrt(now) / scale,
            lambda z_t, v, now, scale: (z_t - math.sqrt(1 - now) * v) / math.sqrt(now),
        ],
        "v is taken for z_0 itself": lambda z_t, v, now, scale: v / scale,
        "this is the noise, not z_0": whether_scaled(signal=lambda now: math.sqrt(1 - now), noise=math.sqrt, sign=1),
    }
    return Exercise(estimate(), cases, mistakes)


@exercise
def models_to_pay() -> Exercise:
    """Exercise 1: `answer(first, steps, pixel, latent)`, seconds, steps, seconds a step twice -> how many models.

    Where both take equally long, it has paid. Sums of the cases that end so have no rounding.
    """
    cases = [(49.3, 10, 2.0, 1.0), (107.7, 10, 3.0, 1.0), (1010.1, 100, 0.75, 0.5), (7.3, 4, 1.0, 0.5)]
    cases += [
        (20.0, 10, 1.5, 1.0),
        (0.0, 10, 2.0, 1.5),
        (90.0, 10, 1.0, 2.0),
        (3600.7, 1000, 0.5, 0.125),
        (1.1, 10, 1.0, 0.5),
        (20.0, 5, 0.25, 0.25),
    ]

    def saved(steps, pixel, latent):
        return steps * (pixel - latent)

    def models(saved=saved, whole=math.ceil, never=lambda first, steps, pixel, latent: math.inf, least=1):
        def apply(first, steps, pixel, latent):
            if pixel <= latent:
                return never(first, steps, pixel, latent)
            return max(least, whole(first / saved(steps, pixel, latent)))

        return apply

    def unguarded(first, steps, pixel, latent):
        return math.ceil(first / saved(steps, pixel, latent)) if pixel != latent else math.inf

    def one_more(x):
        return math.floor(x) + 1

    mistakes = {
        "where a latent step takes as long as one in pixels, or longer, it never pays: math.inf": unguarded,
        "where a latent step takes longer it never pays, however many models there are: math.inf": (
            models(never=lambda first, steps, pixel, latent: 1 if pixel < latent else math.inf)
        ),
        "where it never pays the answer is math.inf, not 0": models(never=lambda *case: 0),
        "where it never pays the answer is math.inf, not 1": models(never=lambda *case: 1),
        "where it never pays the answer is math.inf, not -1": models(never=lambda *case: -1),
        "at least 1: even an autoencoder that costs nothing serves a model": models(least=0),
        "one too many where it comes out even: as soon as it takes no longer, it has paid": [
            models(whole=one_more),
            models(whole=lambda x: math.ceil(x) + (x == int(x))),
        ],
        "one too many": [models(whole=lambda x: math.ceil(x) + 1), models(whole=lambda x: math.ceil(x + 1))],
        "rounded down: that many models do not pay for it": [models(whole=math.floor, least=n) for n in (0, 1)],
        "rounded to the nearest whole number: less than that may not pay": [
            models(whole=round, least=n) for n in (0, 1)
        ],
        "expected a whole number of models": [models(whole=lambda x: x, least=n) for n in (0, 1)],
        "what is saved is saved at every step": [
            models(lambda steps, pixel, latent: pixel - latent, least=n) for n in (0, 1)
        ],
        "each step saves again: divide by their number": [
            models(lambda steps, pixel, latent: (pixel - latent) / steps, least=n) for n in (0, 1)
        ],
        "what a step saves is missing: pixel - latent": [
            models(lambda steps, pixel, latent: steps, least=n) for n in (0, 1)
        ],
        "what is saved is pixel - latent: a difference, in this order": [
            models(lambda steps, pixel, latent: steps * (latent - pixel), least=n) for n in (0, 1)
        ]
        + [models(lambda steps, pixel, latent: steps * (pixel / latent), least=n) for n in (0, 1)],
        "each model still costs its own latent steps: only the difference is saved": models(
            lambda steps, pixel, latent: steps * pixel
        ),
        "compared with the latent steps; what counts is how much less they take": models(
            lambda steps, pixel, latent: steps * latent
        ),
    }
    return Exercise(models(), cases, mistakes)


@exercise
def cross_attention_flops() -> Exercise:
    """Exercise 2: `answer(n, dim, words, context)`, the FLOPs of one cross-attention layer."""

    def count(
        of_places=2,
        of_words=2,
        made_from=lambda n, words: words,
        width=lambda dim, context: context * dim,
        product=lambda n, dim, words, context: n * words * dim,
        linear=2,
        each=2,
    ):
        def apply(n, dim, words, context):
            layers = of_places * n * dim**2 + of_words * made_from(n, words) * width(dim, context)
            return linear * layers + each * 2 * product(n, dim, words, context)

        return apply

    cases = [(4, 8, 3, 5), (64, 128, 77, 256), (100, 32, 16, 24), (256, 16, 5, 20), (4096, 320, 77, 768)]
    mistakes = {
        "a multiplication with its addition counts as two": count(linear=1, each=1),
        "a multiplication with its addition counts as two in the linear layers, too": count(linear=1),
        "keys and values are made from the words, by layers of their own: from context to dim": count(4, 0),
        "only one of keys and values is counted": count(of_words=1),
        "keys and values are missing: they are made from the words, by linear layers": count(of_words=0),
        "queries or output are missing: each of them is a linear layer on the places": count(of_places=1),
        "the linear layers on the places are missing: queries and output": count(of_places=0),
        "keys and values are made from the words, not from the places": count(made_from=lambda n, words: n),
        "words have a width of their own: keys and values go from context to dim": count(
            width=lambda dim, context: dim**2
        ),
        "keys and values have width dim; only the words have width context": [
            count(width=lambda dim, context: context**2),
            count(product=lambda n, dim, words, context: n * words * context),
        ],
        "places ask words: there are n · words scores": [
            count(product=lambda n, dim, words, context: n**2 * dim),
            count(product=lambda n, dim, words, context: words**2 * dim),
        ],
        "each of the n · words scores is an inner product of dim numbers": count(
            product=lambda n, dim, words, context: n * words
        ),
        "a linear layer takes products of width in · width out at each place": (
            lambda n, dim, words, context: 4 * n * dim + 4 * words * context + 4 * n * words * dim
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
    return Exercise(count(), cases, mistakes, tolerance=0)
