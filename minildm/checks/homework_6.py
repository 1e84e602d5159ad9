"""Visible checks of homework 6, the bug museum: what must hold of a repaired function, however it is written."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from minildm.guidance import guided as package_guided
from minildm.metrics import dice as package_dice
from minildm.tensors import seeded

from ._homework_6_answers import choice, experiment  # noqa: F401, checks of letters and of experiments
from ._homework_6_training import train_on, train_with_average  # noqa: F401, checks of exhibits 11 and 12
from ._probe import Probe, normal, probe


@probe()
def noise_walk(ask: Probe) -> None:
    """Exhibit 1: `answer(a, b, frames)`, two noises of one shape -> (frames, ...) from a to b."""
    for frames, shape in ((5, (3, 4)), (3, (2, 2, 5)), (9, (7,))):
        a, b = normal(*shape), normal(*shape, seed=1)
        walk = ask(a, b, frames)
        ask.need(walk.shape == (frames, *shape), f"expected shape {(frames, *shape)}, got {walk.shape}")
        ask.near(walk[0], a, "the walk does not begin at a")
        ask.near(walk[-1], b, "the walk does not end at b")
        one, other = torch.eye(2, dtype=torch.float64)
        shares = ask(one, other, frames)  # (frames, 2): how much of each
        ask.near((shares**2).sum(1), np.ones(frames), "on the way the variance is not that of a and b, which is 1")
        ask.near(
            shares[:, 1] ** 2,
            [k / (frames - 1) for k in range(frames)],
            "the variance is right, but the share of it that comes from b does not rise evenly from 0 to 1",
        )
        ask.need((shares > -1e-6).all(), "a noise is subtracted on the way")


@probe()
def noise_levels(ask: Probe) -> None:
    """Exhibit 2: `answer(steps, lowest, highest, rho)` -> (steps + 1,), the noise levels in the order of sampling."""
    for steps, lowest, highest, rho in ((4, 0.1, 10.0, 7.0), (7, 0.02, 80.0, 3.0), (10, 1.0, 5.0, 1.0)):
        levels = ask(steps, lowest, highest, rho)
        ask.need(levels.shape == (steps + 1,), f"expected steps + 1 = {steps + 1} levels, got shape {levels.shape}")
        ask.near(levels[-1], 0.0, "the last level must be 0, the clean picture")
        ask.need(levels[0] > levels[1], "a sampler goes from noise to the picture, and this list begins the other way")
        ask.near(levels[0], highest, "the first level must be the highest", 1e-4 * highest)
        ask.near(levels[-2], lowest, "the last level above 0 must be the lowest", 1e-4 * highest)
        ask.need((levels[:-1] > levels[1:]).all(), "each level must be below the one before it")
        bends = (levels[:-1] ** (1 / rho))[1:] - (levels[:-1] ** (1 / rho))[:-1]
        ask.near(
            bends, np.full_like(bends, bends.mean()), "the roots of order rho must be evenly spaced", 1e-4 * highest
        )


@probe()
def ancestral(ask: Probe) -> None:
    """Exhibit 3: `answer(denoise, alphas_cumprod, x_t, timesteps, draw)` -> the picture, shaped like x_t."""
    alphas_cumprod = torch.linspace(0.95, 0.05, 10, dtype=torch.float64)
    for timesteps, shape in (([9, 6, 1], (2, 3)), ([8, 4], (1, 4)), ([7], (3, 2)), ([9, 7, 5, 2, 0], (2, 5))):
        x_t, clean = normal(*shape, seed=2), normal(*shape, seed=3)

        def run(answer, asked, value, x_t=x_t, clean=clean, timesteps=timesteps):
            def denoise(x, t):
                asked.append((int(t), x.detach().clone()))
                return clean

            return answer(denoise, alphas_cumprod.clone(), x_t, list(timesteps), lambda x: torch.full_like(x, value))

        quiet, loud = [], []
        ask(run=partial(run, asked=quiet, value=0.0))
        result = ask(run=partial(run, asked=loud, value=1.0))
        told = [moment for moment, _ in loud]
        ask.need(told == timesteps, f"the denoiser must be asked at {timesteps}, once each; it was asked at {told}")
        hint = "the denoiser names one picture at every step, so the result is that picture; it is not: what came last?"
        ask.near(result, clean, hint)
        if len(timesteps) > 1:
            now, then = alphas_cumprod[timesteps[:2]]
            added = loud[1][1] - quiet[1][1]
            smaller = (added.square() - (1 - then) / (1 - now) * (1 - now / then)).abs().max() < 1e-6
            ask.need(not smaller, "this is f² of lesson 04, the smaller variance: keep the exhibit's larger one")
            hint = "before the last step, fresh noise of variance 1 - a / a_then is to be added"
            ask.near(added, (1 - now / then).sqrt().expand(shape), hint)


@probe()
def redraw(ask: Probe) -> None:
    """Exhibit 4: `answer(denoise, alphas_cumprod, x_0, eps, timesteps, strength)` -> a picture like x_0."""
    alphas_cumprod = torch.linspace(0.96, 0.02, 12, dtype=torch.float64)
    cases = [([11, 8, 5, 2], 0.5, (2, 3)), ([10, 7, 3], 1.0, (1, 5)), ([11, 9, 7, 5, 3, 1], 1 / 3, (3, 2))]
    for timesteps, strength, shape in cases:
        x_0, eps, asked = normal(*shape, seed=4), normal(*shape, seed=5), []

        def denoise(x, t, asked=asked, x_0=x_0):
            asked.append((int(t), x.detach().clone()))
            return x_0

        result = ask(denoise, alphas_cumprod, x_0, eps, timesteps, strength)
        left = timesteps[len(timesteps) - round(len(timesteps) * strength) :]
        told = [moment for moment, _ in asked]
        ask.need(bool(told), "the denoiser is never asked")
        a = alphas_cumprod[told[0]]
        hint = f"the denoiser is told t = {told[0]}, but what it is shown does not hold the noise of that timestep"
        ask.near(asked[0][1], a.sqrt() * x_0 + (1 - a).sqrt() * eps, hint)
        ask.need(told == left, f"at strength {strength:.2f} the timesteps {left} are left; it was asked at {told}")
        ask.near(result, x_0, "a denoiser that knows the picture must bring it back")
    # A denoiser that sees no picture at all: what is left at the end is its own answer.
    result = ask(lambda x, t: 0 * x, alphas_cumprod, normal(2, 4), normal(2, 4, seed=1), [9, 4], 1.0)
    ask.near(result, 0 * result, "the last step must go all the way to the clean picture")


@probe(own=[package_guided])
def guided(ask: Probe) -> None:
    """Exhibit 5: `answer(model, x_t, t, words, empty, scale)` -> the guided answer, shaped like x_t."""
    for b, scale in ((1, 1.0), (2, 0.0), (3, 2.0), (2, 7.5)):
        x_t, words, empty = normal(b, 3, 2), normal(b, 4, seed=1), normal(b, 4, seed=2)

        def model(x_t, t, words):
            return x_t + words.sum(1).view(-1, 1, 1) + t.view(-1, 1, 1)

        t = torch.arange(b) + 3
        said = {name: model(x_t, t, one) for name, one in (("words", words), ("empty", empty))}
        result = ask(model, x_t, t, words, empty, scale)
        ask.need(result.shape == x_t.shape, f"expected shape {tuple(x_t.shape)}, got {result.shape}")
        if scale == 1:
            ask.near(result, said["words"], "scale 1 is off: the answer with the words must come back as it is")
        if scale == 0:
            ask.near(result, said["empty"], "at scale 0 nothing is left of the words")
        way = said["words"] - said["empty"]
        along = (torch.from_numpy(result) - said["empty"]) / way
        ask.need(bool((along > -1e-6).all()), "it moves away from what the words ask for")
        ask.near(along, torch.full_like(along, scale), "it must go `scale` times the way from the empty text's answer")


@probe()
def read_words(ask: Probe) -> None:
    """Exhibit 6: `answer(attention, x, words, is_word)` -> x with what was read, (b, c, h, w); maps (b, h * w, m)."""
    for (b, c, h, w), lengths, m in (((1, 4, 2, 3), [3], 5), ((2, 8, 3, 2), [1, 4], 6), ((3, 4, 1, 5), [2, 3, 1], 3)):
        with seeded(b):
            attention = nn.MultiheadAttention(c, 2, batch_first=True, dtype=torch.float64).eval()
        x, words = normal(b, c, h, w), normal(b, m, c, seed=1)
        is_word = torch.arange(m) < torch.tensor(lengths)[:, None]
        seen, maps = ask.raw(attention, x, words, is_word)
        ask.need(seen.shape == x.shape, f"expected pixels of shape {tuple(x.shape)}, got {tuple(seen.shape)}")
        padding = maps.detach() * ~is_word[:, None]
        ask.near(padding, torch.zeros_like(padding), "the padding is looked at")
        other = torch.where(is_word[:, :, None], words, normal(b, m, c, seed=7))
        again, _ = ask.raw(attention, x, other, is_word)
        ask.near(again.detach(), seen.detach(), "what stands in the padding changes the picture")
        n = lengths[0]
        alone, _ = ask.raw(attention, x[:1], words[:1, :n], is_word[:1, :n])
        ask.near(seen[:1].detach(), alone.detach(), "a sentence without padding must give the same as with padding")


class _Affine:
    """Stands in for an autoencoder: latents are 3 x + 1, and a denoiser is given them times the scale factor."""

    scale_factor = 0.25

    def decode(self, z):
        return (z - 1) / 3


@probe()
def to_pictures(ask: Probe) -> None:
    """Exhibit 7: `answer(vae, latents, batch)`, (n, c, h, w) scaled -> pictures in [0, 1], in the same order."""
    for shape, batch in (((5, 1, 2, 3), 2), ((3, 2, 3, 2), 3), ((4, 3, 1, 2), 8)):
        x = normal(*shape).clamp(-2, 2)
        pictures = ask(_Affine(), (3 * x + 1) * _Affine.scale_factor, batch)
        ask.need(pictures.shape == shape, f"expected shape {shape}, got {pictures.shape}")
        ask.need(bool((pictures >= 0).all() and (pictures <= 1).all()), "pixels must lie between 0 and 1")
        hint = "an encoded, scaled picture does not come back: the decoder is given numbers of another size"
        ask.near(pictures, (x / 2 + 0.5).clamp(0, 1), hint)


class Stateful:
    """A scheduler that counts its steps: its results depend on how often it was called."""

    def __init__(self, timesteps: Sequence[int]):
        self.timesteps, self.calls = timesteps, []

    def step(self, prediction: torch.Tensor, x_t: torch.Tensor) -> SimpleNamespace:
        self.calls.append((prediction, x_t))
        k = len(self.calls)
        return SimpleNamespace(x_0=prediction * k, x_t=x_t + k * prediction)

    def __getattr__(self, name: str) -> Any:  # only for what is not there
        raise AttributeError(f"this scheduler has no {name!r}: use only `step` and `timesteps`")


@probe()
def paint(ask: Probe) -> None:
    """Exhibit 8: `answer(denoise, scheduler, x_t)` -> the picture, and a list with the preview of each step."""
    for timesteps, shape in (([7, 3], (1, 2)), ([9], (2, 3)), ([8, 5, 2, 0], (3, 1))):
        x_t, scheduler, told = normal(*shape), Stateful(timesteps), []

        def denoise(x, t, told=told):
            told.append(t)
            return 0.5 * x + t

        found = ask.raw(denoise, scheduler, x_t)
        ask.need(isinstance(found, tuple) and len(found) == 2, "expected two results: the picture, and the previews")
        picture, previews = found
        n = len(timesteps)
        calls = len(scheduler.calls)
        ask.need(told == timesteps, f"the denoiser must be asked at {timesteps}, once each; it was asked at {told}")
        ask.need(calls == n, f"for {n} timesteps the scheduler was called {calls} times, and each call moves it on")
        ask.need(len(previews) == n, f"expected a preview for each of the {n} steps, got {len(previews)}")
        expected, answers, x = [], [], x_t
        for k, t in enumerate(timesteps, 1):
            said = 0.5 * x + t
            answers.append(said)
            expected.append(k * said)
            x = x + k * said
        ask.near(picture, x, "the picture is not what the scheduler's last step made of it")
        shown = torch.stack(list(previews))
        told_as_is = n > 1 and shown.shape == (n, *shape) and torch.allclose(shown, torch.stack(answers))
        ask.need(not told_as_is, "these are the network's answers, and another scheduler's x_0 need not be one of them")
        ask.near(shown, torch.stack(expected), "a preview is the x_0 of its own step")


@probe(own=[package_dice])
def dice(ask: Probe) -> None:
    """Exhibit 9: `answer(predicted, true, smooth)`, (b, h, w) twice -> (b,)."""
    masks = (normal(4, 5, 6) > 0.3).double()
    masks[0], masks[1, 1:] = 0, 0
    for smooth in (1.0, 0.1):
        score = ask(masks, masks, smooth)
        ask.need(score.shape == (4,), f"expected a number for each picture, shape (4,), got {score.shape}")
        hint = "a perfect prediction must have a Dice of 1, whatever the size of the mask, also if both are empty"
        ask.near(score, [1.0] * 4, hint)
    other = (normal(4, 5, 6, seed=1) > 0).double()
    score = ask(other, masks, 1.0)
    ask.need(bool((score <= 1).all() and (score >= 0).all()), "a Dice lies between 0 and 1")
    ask.need(bool((score < 0.999).all()), "a wrong prediction has a Dice of 1")
    two = torch.zeros(1, 4, 4, dtype=torch.float64)
    two[0, 0, :2] = 1
    one = two * two.roll(1, 2)  # one of the two pixels
    ask.need(ask(one, two, 1.0)[0] < 0.9, "a wrong prediction has a Dice of 1: of two pixels only one was found")
    ask.near(ask(masks, other, 1.0), score, "the two masks play the same part: exchanged, they give the same")
    half = torch.zeros(1, 4, 4, dtype=torch.float64)
    half[0, :2] = 1
    hint = "half of each of two equal masks is shared: that is a Dice of 0.5"
    ask.near(ask(half, half.roll(1, 1), 1e-9), [0.5], hint)


class _Squares:
    """Stands in for an autoencoder: it does not change what it is given."""

    scale_factor = 0.5

    def decode(self, z):
        return torch.tanh(z).repeat_interleave(2, 2).repeat_interleave(2, 3)


@probe()
def preview(ask: Probe) -> None:
    """Exhibit 10: `answer(vae, z)`, a scaled latent (b, c, h, w) -> a small picture of whole numbers, 0 to 255."""
    for shape in ((1, 3, 2, 3), (2, 1, 4, 2)):
        z = normal(*shape)
        seen = ask.raw(_Squares(), z)
        ask.need(torch.is_tensor(seen) and seen.dtype == torch.uint8, "expected a tensor of torch.uint8")
        ask.need(seen.shape == shape, f"expected shape {shape}, got {tuple(seen.shape)}")
        wanted = 127.5 * torch.tanh(z / 0.5) + 127.5
        ask.near(seen.double(), wanted, "the picture is not the decoder's", tolerance=1.001)
