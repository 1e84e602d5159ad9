"""Visible checks of homework 4, another compression: sums, limits, and answers that cannot be bettered."""

import numpy as np
import torch
from torch import nn

from ._probe import Probe, normal, probe

BUDGET = (130_000, 170_000)  # parameters of an autoencoder in part 1


@probe()
def build(ask: Probe) -> None:
    """Part 1: `answer(f, latent_channels)` -> an AutoencoderKL that divides height and width by f."""
    least, most = BUDGET
    for f, c in ((4, 4), (8, 16), (2, 1)):
        vae = ask.raw(f, c)
        ask.need(isinstance(vae, nn.Module), f"expected an AutoencoderKL, got {type(vae).__name__}")
        shapes = ask(f, c, run=_shapes)
        ask.need(tuple(shapes[:3]) == (c, 64 // f, 32 // f), _latent(f, c, shapes[:3]))
        ask.need(tuple(shapes[3:]) == (3, 64, 32), "the decoder must give pictures of the size that came in")
        number = sum(one.numel() for one in vae.parameters())
        hint = f"for f = {f} it has {number:,} parameters; for a fair comparison all need {least:,} to {most:,}"
        ask.need(least <= number <= most, hint)
        ask.need(all(one.requires_grad for one in vae.parameters()), "some of its parameters cannot be trained")


def _shapes(answer, f, c):
    vae = answer(f, c)
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, 64, 32)).mean
        return [*z.shape[1:], *vae.decode(z).shape[1:]]


def _latent(f, c, found):
    wanted = (c, 64 // f, 32 // f)
    found = tuple(map(int, found))
    return f"a picture of 64×32 must become a latent of {wanted} for f = {f}, {c} channels; it becomes {found}"


@probe()
def split_error(ask: Probe) -> None:
    """Part 2: `answer(x, x_hat, f)`, pictures (b, c, h, w) -> the error below and above, two of shape (b,)."""
    sizes = ((2, 3, 16, 8, 2), (1, 1, 24, 24, 4), (3, 2, 8, 32, 4), (2, 1, 12, 18, 1), (1, 1, 12, 20, 4))
    for b, c, h, w, f in sizes:
        x = normal(b, c, h, w)
        x_hat = x + normal(b, c, h, w, seed=1) * torch.arange(1, b + 1).view(-1, 1, 1, 1)

        def parts(error, x=x, f=f):
            return ask(x, x + error, f, run=lambda answer, *case: torch.stack(tuple(answer(*case))))

        found = ask(x, x_hat, f, run=lambda answer, *case: torch.stack(tuple(answer(*case))))
        hint = f"expected two results of shape ({b},), a number for each picture, got {found.shape[1:]} twice"
        ask.need(found.shape == (2, b), hint)
        squares = (x - x_hat).square().mean((1, 2, 3))
        hint = "both parts together must be the mean squared error, of each picture"
        ask.near(found.sum(0), squares, hint)
        ask.need((found > -1e-9).all(), "an error of a band cannot be negative")
        flat = parts(torch.ones_like(x))
        ask.near(
            flat, [[1.0] * b, [0.0] * b], "an error that is the same everywhere has no frequency at all: it is below"
        )
        stripes = (-1.0) ** torch.arange(w, dtype=torch.float64).expand_as(x)
        finest = parts(stripes)[0]
        for k in range(1, w // 2):
            wave = torch.cos(2 * torch.pi * k * torch.arange(w, dtype=torch.float64) / w).expand_as(x)
            low, high = parts(wave)
            below = k < w / (2 * f)
            can = "can" if below else "cannot"
            hint = f"f = {f}: a grid of {w // f} places {can} hold a wave of {k} cycles across {w} pixels"
            twice = f"half of a wave of {k} cycles counts as below: an FFT has it twice, at {k} and at -{k}"
            ask.need(below or (np.abs(low - 0.25) > 1e-6).any(), twice)
            everything = "stripes of one pixel across count as below: a wave must be below in both directions, and its "
            everything += "cycles are counted over the whole picture (`fftfreq` counts them for each pixel)"
            ask.need(below or (finest < 0.9).all(), everything)
            ask.near(low if below else high, [0.5] * b, hint)
        down, across = ((side - 1) // (2 * f) for side in (h, w))  # the finest that are below
        waves = [torch.cos(2 * torch.pi * k * torch.arange(n).double() / n) for k, n in ((down, h), (across, w))]
        slanted = waves[0][:, None] * waves[1].expand_as(x)
        hint = "a slanted wave is below if it is below down and below across, each for itself: a rectangle, no circle"
        ask.near(parts(slanted)[0], slanted.square().mean((1, 2, 3)), hint)
        if f > 1:
            rows = (-1.0) ** torch.arange(h, dtype=torch.float64).view(-1, 1).expand_as(x)
            ask.near(parts(rows)[1], [1.0] * b, "a change from row to row is as fine as one from column to column")


@probe()
def channel_units(ask: Probe) -> None:
    """Part 3: `answer(z)`, latents (n, c, h, w) -> the mean and spread of each channel, (1, c, 1, 1) each."""
    for n, c, h, w in ((3, 2, 4, 5), (2, 4, 3, 2), (5, 1, 2, 2)):
        z = normal(n, c, h, w) * torch.arange(1, c + 1).view(-1, 1, 1) + torch.arange(c).view(-1, 1, 1) - 7
        both = ask.raw(z)
        ask.need(isinstance(both, tuple | list) and len(both) == 2, "expected two results: the means, the spreads")
        mean, std = (torch.as_tensor(one) for one in both)
        for name, one in (("means", mean), ("spreads", std)):
            hint = f"expected {name} of shape {(1, c, 1, 1)}, so that they fit latents, got {tuple(one.shape)}"
            ask.need(one.shape == (1, c, 1, 1), hint)
        ask.need(bool((std > 0).all()), "a spread cannot be 0 or negative here")
        units = (z - mean) / std
        ask.near(units.mean((0, 2, 3)), torch.zeros(c), "in these units each channel must have the mean 0")
        hint = "in these units the mean square of each channel must be 1 (divide by the number, not by one less)"
        ask.near(units.square().mean((0, 2, 3)), torch.ones(c), hint)


@probe()
def decoder_gain(ask: Probe) -> None:
    """Part 4: `answer(decode, z, sigma, eps)`, latents (b, c, h, w) -> RMS change of pixels by sigma, (b,)."""
    for b, c, h, w, sigma in ((2, 3, 2, 4, 0.1), (3, 1, 3, 2, 0.5), (1, 4, 5, 2, 2.0)):
        z, eps = normal(b, c, h, w), normal(b, c, h, w, seed=1)

        def linear(z):
            return (3 * z + 1).repeat_interleave(2, 2)

        gain = ask(linear, z, sigma, eps)
        ask.need(gain.shape == (b,), f"expected a number for each picture, shape ({b},), got {gain.shape}")
        hint = "by sigma itself, not by the size that sigma * eps happens to have"
        ask.need(not np.allclose(gain, 3), f"a gain is the change divided {hint}")
        hint = "a decoder that multiplies by 3: its gain is 3 times the RMS of the eps given, over all numbers of a "
        hint += "picture together, whatever sigma"
        ask.near(gain, 3 * eps.square().mean((1, 2, 3)).sqrt(), hint)
        ask.near(
            ask(lambda z: 0 * z + 5, z, sigma, eps), np.zeros(b), "a decoder that is deaf to its latent has no gain"
        )

        def square(z):
            return z**2

        ask.near(ask(square, 0 * z, 1e-4, eps), np.zeros(b), "what counts is the change, from the picture of z", 1e-3)


@probe()
def linear_denoiser(ask: Probe) -> None:
    """Part 5: `answer(z)`, latents (n, d) -> denoise(z_t, a, s), the best linear guess behind z_t = a z + s eps."""
    turn = torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    spreads = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3).repeat(40, 1)
    for way in (torch.eye(3, dtype=torch.float64), turn):
        middle = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        z = middle + signs * spreads @ way  # along the rows of `way` the spreads are known exactly

        def guess(z_t, a, s, z=z):
            return ask(z, z_t, run=lambda answer, z, z_t: answer(z)(z_t, a, s))

        found = guess(z, 0.0, 1.0)
        ask.need(found.shape == z.shape, f"expected guesses of shape {tuple(z.shape)}, got {found.shape}")
        ask.near(found, middle.expand_as(z), "where z_t is noise alone, the best guess is the mean of the latents")
        ask.near(guess(z, 1.0, 1e-6), z, "where there is next to no noise, z_t is the answer", 1e-4)
        for a, s in ((0.8, 0.6), (0.3, 0.95), (1.0, 0.5)):
            ask.near(guess(a * middle[None], a, s), middle[None], "what lies in the middle must stay there")
            for direction, spread in zip(way, spreads, strict=True):
                step = guess((a * middle + direction)[None], a, s)[0] - middle.numpy()
                kept = float(step @ direction.numpy())
                hint = "a step along an axis of the cloud must lead along that axis: are the coordinates independent?"
                ask.near(step, kept * direction, hint)

                def cost(share, a=a, s=s, spread=float(spread)):  # the mean squared error along this axis
                    return (1 - a * share) ** 2 * spread**2 + (share * s) ** 2

                better = min(("smaller", 0.99), ("larger", 1.01), key=lambda one: cost(kept * one[1]))
                hint = f"with a = {a}, s = {s}, along an axis of spread {spread:.1f} a {better[0]} step would be better"
                ask.need(cost(kept) <= cost(kept * better[1]) and kept > 0, hint)
    # Few pictures, many coordinates: where the cloud has no spread, a guess must not leave it.
    flat = torch.zeros(4, 6, dtype=torch.float64)
    flat[:, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    moved = ask(flat, run=lambda answer, z: answer(z)(torch.ones(1, 6, dtype=z.dtype), 0.8, 0.6))
    ask.near(moved[:, 1:], np.zeros((1, 5)), "where all latents are the same, the guess must be that, too")
    # With few latents it matters what their squares are divided by.
    z = middle + signs[:8] * spreads
    step = ask(z, run=lambda answer, z: answer(z)((0.8 * middle + turn[2])[None], 0.8, 0.6))[0, 2] - 0.5
    less = 0.99 * step
    hint = "with eight latents a smaller step would be better: is their covariance divided by eight, not by one less?"
    ask.need(((1 - 0.8 * np.array([step, less])) ** 2 * 0.04 + (0.6 * np.array([step, less])) ** 2).argmin() == 0, hint)
