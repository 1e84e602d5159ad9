"""Visible checks of homework 5, guidance: averages, limits and angles, never a formula."""

import numpy as np
import torch

from minildm.attention import mean_map
from minildm.guidance import guided as package_guided

from ._probe import Probe, normal, probe


@probe()
def scale_at(ask: Probe) -> None:
    """Part 1: `answer(t, last, mean, shape)`, t (b,) whole numbers from 0 to last -> the scales, (b,)."""
    for last, mean in ((9, 3.0), (4, 1.5), (99, 6.0)):
        t = torch.arange(last + 1)
        found = {}
        for shape in ("constant", "rising", "falling"):
            scales = found[shape] = ask(t, last, mean, shape)
            ask.need(
                scales.shape == t.shape, f"expected a scale for each t, shape {tuple(t.shape)}, got {scales.shape}"
            )
            ask.near(scales.mean(), mean, f"{shape}: over all timesteps the mean must be `mean`", 1e-5)
        ask.near(found["constant"], np.full(last + 1, mean), "constant: the same scale everywhere")
        hint = "painting goes from t = last down to t = 0: a rising scale grows on the way from noise to picture"
        ask.need(found["rising"][0] > found["rising"][-1], hint)
        ask.need(found["falling"][0] < found["falling"][-1], "falling is the other way round than rising")
        ask.near(found["rising"][-1], 1.0, "rising: where painting begins, guidance must be off", 1e-5)
        ask.near(found["falling"][0], 1.0, "falling: where painting ends, guidance must be off", 1e-5)
        for shape in ("rising", "falling"):
            steps = np.diff(found[shape])
            ask.near(steps, np.full(last, steps[0]), f"{shape}: the scale must be a straight line in t", 1e-5)
        some = torch.tensor([last // 2, last // 2 + 1])
        hint = "a scale depends on its own t alone, not on the others in the batch"
        ask.near(ask(some, last, mean, "rising"), found["rising"][some], hint)


def _model(x_t, t, context):
    return torch.tanh(x_t + context.mean((1, 2)).view(-1, 1, 1, 1)) * (t + 1).view(-1, 1, 1, 1)


@probe(own=[package_guided])
def guided_over_time(ask: Probe) -> None:
    """Part 2: `answer(model, scale_of, words, empty)` -> denoise(x_t, t), guided by scale_of(t) in each picture."""
    for b, shape, n in ((1, (2, 3, 4), 2), (3, (1, 2, 5), 4), (2, (2, 2, 3), 3)):
        x_t, words, empty = normal(b, *shape), normal(b, n, 5, seed=1), normal(b, n, 5, seed=2)
        t = torch.arange(b) * 2 + 1
        with_words, without = _model(x_t, t, words), _model(x_t, t, empty)
        asked = []

        def scale_of(moments, value, asked=asked):
            asked.append(len(moments))
            return torch.full(moments.shape, value, dtype=torch.float64)

        def run(answer, x_t, t, words, empty, value=None, scale_of=scale_of):
            wanted = scale_of if value is None else lambda moments: scale_of(moments, value)
            return answer(_model, wanted, words, empty)(x_t, t)

        for value, expected, hint in (
            (1.0, with_words, "where the scale is 1, guidance is off: the answer with the words must come back"),
            (0.0, without, "where the scale is 0, nothing must be left of the words"),
            (3.0, 3 * with_words - 2 * without, "at scale 3 it must go three times as far as the words move it"),
        ):
            found = ask(x_t, t, words, empty, run=lambda answer, *case, value=value: run(answer, *case, value=value))
            ask.need(found.shape == x_t.shape, f"expected a prediction of shape {tuple(x_t.shape)}, got {found.shape}")
            ask.near(found, expected, hint)
        ask.need(set(asked) == {b}, f"scale_of is to be asked about the {b} pictures' t, and was asked about {asked}")

        def by_moment(moments, latest=int(t[-1])):
            return 1 + (moments == latest).double()

        found = ask(x_t, t, words, empty, run=lambda answer, *case: run(answer, *case, scale_of=by_moment))
        way = (torch.from_numpy(found) - without) / (with_words - without)
        expected = by_moment(t).double().view(-1, 1, 1, 1).expand_as(way)
        ask.near(way, expected, "each picture has a t, and so a scale, of its own")


def _dots(one, other):
    return (one * other).sum((1, 2, 3))


@probe()
def perpendicular(ask: Probe) -> None:
    """Part 4: `answer(with_words, with_negative, without, scale, away)`, (b, c, h, w) three times -> the guided one."""
    for b, shape, scale, away in ((2, (2, 3, 4), 3.0, 2.0), (3, (1, 2, 5), 1.0, 1.0), (1, (4, 2, 2), 6.0, 0.5)):
        without, wanted, other = (normal(b, *shape, seed=k) for k in range(3))
        aside = other - (_dots(other, wanted) / _dots(wanted, wanted)).view(-1, 1, 1, 1) * wanted
        plain = without + scale * wanted

        def found(negative, scale=scale, away=away, without=without, wanted=wanted):
            return ask(without + wanted, without + negative, without, scale, away)

        result = found(aside)
        ask.need(result.shape == plain.shape, f"expected shape {tuple(plain.shape)}, got {result.shape}")
        ask.near(found(other, away=0.0), plain, "with away = 0 it must be ordinary guidance at this scale")
        hint = "a negative prompt that says the same as the prompt must not take anything away"
        ask.near(found(wanted), plain, hint)
        ask.near(found(-2 * wanted), plain, "nor may one that says the opposite: all of it lies along the prompt")
        hint = (
            "a negative prompt at right angles to the prompt must be subtracted whole, `away` times; a picture has one "
        )
        hint += "angle, over all its numbers"
        ask.near(result, plain - away * aside, hint)
        kept = _dots(torch.from_numpy(found(other)) - without, wanted) / _dots(wanted, wanted)
        hint = "along what the words ask for, each picture must go `scale` times the way, whatever the negative prompt"
        ask.near(kept, torch.full_like(kept, scale), hint)
    silent = normal(2, 1, 2, 3)
    hint = "where the words change nothing, all of the negative prompt is at right angles to them"
    result = ask(silent, silent + 1, silent, 3.0, 1.0)
    ask.near(result, silent - 1, hint)


@probe(own=[mean_map])
def word_region(ask: Probe) -> None:
    """Part 5: `answer(maps, words, size, share)`, a list of (b, heads, places, tokens) -> (b, 1, h, w), 0 or 1."""
    for b, (h, w), layers, m in ((2, (4, 8), ((4, 8), (2, 4)), 5), (1, (6, 6), ((3, 3), (6, 6), (2, 2)), 4)):
        maps = [normal(b, 2 + k, rows * columns, m, seed=k).softmax(-1) for k, (rows, columns) in enumerate(layers)]
        for share in (0.25, 0.3):
            region = ask(maps, [1, 2], (h, w), share)
            ask.need(region.shape == (b, 1, h, w), f"expected shape {(b, 1, h, w)}, got {region.shape}")
            ask.need(np.isin(region, (0, 1)).all(), "expected 0 and 1 alone")
            count = round(share * h * w)
            hint = f"each picture must have {count} of its {h * w} places in the region, a share of {share}"
            ask.near(region.sum((1, 2, 3)), np.full(b, count), hint)
        louder = [maps[0] * 50, *maps[1:]]
        hint = "a layer that gives the words fifty times as much must not count more: layers count alike"
        ask.near(ask(louder, [1], (h, w), 0.25), ask(maps, [1], (h, w), 0.25), hint)
        full = [one for one, (rows, _) in zip(maps, layers, strict=True) if rows == h]
        spot = torch.zeros_like(full[0])
        spot[:, :, :: h * w // 4, 2] = 1  # four places look at token 2
        region = ask([spot], [2], (h, w), 4 / (h * w))
        wanted = torch.zeros(b, h * w)
        wanted[:, :: h * w // 4] = 1
        hint = "the places that look at the word are in rows: place k stands in row k // w, column k % w"
        ask.near(region, wanted.view(b, 1, h, w), hint)
        two = normal(*spot.shape, seed=9).sigmoid() / 100
        two[:, :, : h * w // 2, m - 3] += spot[:, :, : h * w // 2, 2]  # two of them look at the one, two at the other
        two[:, :, h * w // 2 :, m - 1] += spot[:, :, h * w // 2 :, 2]
        region = ask([two], [m - 3, m - 1], (h, w), 4 / (h * w))
        ask.near(region, wanted.view(b, 1, h, w), "a word of several tokens: their maps are added")


@probe()
def local_edit(ask: Probe) -> None:
    """Part 6: `answer(source, target, move, x_T, path, region)` -> the source's picture, and the edited one."""

    def move(denoise, x_t, now, then):
        return 0.5 * x_t + denoise(x_t, torch.full((len(x_t),), now)) * (then + 2) / 10

    def alone(denoise, x_T, path):
        states = [x_T]
        for now, then in zip(path, [*path[1:], -1], strict=True):
            states.append(move(denoise, states[-1], now, then))
        return states[-1]

    for shape, path in (((1, 2, 3, 4), [9, 5, 2]), ((2, 1, 4, 2), [7]), ((3, 3, 2, 5), [8, 6, 4, 1])):
        x_T = normal(*shape)
        asked = {"source": [], "target": []}

        def denoiser(name, asked=asked):
            def denoise(x_t, t):
                asked[name].append(int(t[0]))
                around = x_t.roll(1, -1) if name == "target" else x_t.roll(1, -2)
                return torch.tanh(x_t + around + (name == "target"))

            return denoise

        source, target = denoiser("source"), denoiser("target")
        first, second = alone(source, x_T, path), alone(target, x_T, path)
        half = (torch.arange(shape[3]) < shape[3] // 2).double().expand(shape[0], 1, *shape[2:])
        for region in (torch.zeros_like(half), torch.ones_like(half), half):
            for calls in asked.values():
                calls.clear()
            both = ask.raw(source, target, move, x_T, list(path), region)
            ask.need(
                isinstance(both, tuple) and len(both) == 2, "expected two results: the source's picture, the edited"
            )
            for name, calls in asked.items():
                hint = f"the {name}'s denoiser must be asked at {path}, once each; it was asked at {calls}"
                ask.need(calls == path, hint)
            ask.near(both[0], first, "the source's picture must be what the source paints alone, down to -1")
            outside = (1 - region) * (both[1] - both[0])
            ask.near(
                outside, torch.zeros_like(outside), "outside of the region the edited picture must be the source's"
            )
            if region.all():
                ask.near(both[1], second, "where all is in the region, it must be what the target paints alone")
            if region.any() and not region.all() and len(path) > 1:
                hint = "inside, it is what the target paints alone: is outside taken over only at the end?"
                ask.need(not np.allclose(region * both[1], region * second), hint)
            if not region.any():
                ask.near(both[1], first, "where nothing is in the region, nothing may change")
