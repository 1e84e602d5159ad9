"""Homework 5, guidance: right but unusual answers pass, wrong ones are caught with a hint that fits."""

import pytest
import torch
import torch.nn.functional as F
from homework import Assignment

from minildm import attention, guidance

BOOK = Assignment("5_guidance")


def line(at=lambda u: u, low=1.0, top=lambda mean: 2 * mean - 1, constant=lambda mean: mean, turned=False):
    def answer(t, last, mean, shape):
        u = t / last if (shape == "falling") != turned else 1 - t / last
        return torch.full(t.shape, constant(mean)) if shape == "constant" else low + (top(mean) - low) * at(u)

    return answer


def by_numpy(t, last, mean, shape):
    ends = {"constant": (mean, mean), "rising": (2 * mean - 1, 1), "falling": (1, 2 * mean - 1)}[shape]
    return torch.tensor([ends[0] + (ends[1] - ends[0]) * int(k) / last for k in t], dtype=torch.float64)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("grows on the way from noise", line(turned=True)),
        ("mean must be", line(top=lambda mean: mean)),
        ("must be off", line(low=0.0, top=lambda mean: 2 * mean)),
        ("mean must be", line(at=lambda u: u**2)),
        ("mean must be", line(constant=lambda mean: 1.0)),
        ("straight line", line(at=lambda u: u + 0.1 * torch.sin(2 * torch.pi * u))),
        (
            "its own t alone",
            lambda t, last, mean, shape: line()(t - t.min(), int((t - t.min()).max()), mean, shape),
        ),
        ("a scale for each t", lambda t, last, mean, shape: torch.tensor(mean)),
        ("returned None", lambda t, last, mean, shape: None),
    ],
)
def test_wrong_schedules(hint, answer):
    BOOK.refuses("scale-at", hint, scale_at=answer)


@pytest.mark.parametrize(
    "answer", [line(), by_numpy, lambda t, last, mean, shape: line()(t.double(), last, mean, shape)]
)
def test_right_schedules(answer):
    BOOK.accepts("scale-at", scale_at=answer)


def guide(scales=lambda s, x: s.view(-1, 1, 1, 1), rule=lambda c, u, s: u + s * (c - u), asks=lambda t: t):
    def answer(model, scale_of, words, empty):
        def denoise(x_t, t):
            s = scales(scale_of(asks(t)).to(x_t.dtype), x_t)
            return rule(model(x_t, t, words), model(x_t, t, empty), s)

        return denoise

    return answer


def in_one_batch(model, scale_of, words, empty):
    def denoise(x_t, t):
        answers = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([empty, words])).unflatten(0, (2, -1))
        s = torch.as_tensor(scale_of(t), dtype=x_t.dtype)
        return torch.einsum("sb,sbchw->bchw", torch.stack([1 - s, s]), answers)

    return denoise


def by_lerp(model, scale_of, words, empty):
    return lambda x_t, t: torch.lerp(model(x_t, t, empty), model(x_t, t, words), scale_of(t).view(-1, 1, 1, 1))


def by_the_package(model, scale_of, words, empty):
    def denoise(x_t, t):
        def ask(x, t, context):
            return model(x, t, context)

        return guidance.guided(ask, float(scale_of(t)[0]), {"context": words}, {"context": empty})(x_t, t)

    return denoise


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("a scale, of its own", guide(lambda s, x: s[0])),
        ("a scale, of its own", guide(lambda s, x: s.mean())),
        ("nothing must be left|three times as far|is 1, guidance", guide(rule=lambda c, u, s: c + s * (u - c))),
        ("is 1, guidance is off", guide(rule=lambda c, u, s: c + s * (c - u))),
        ("is 1, guidance is off", guide(rule=lambda c, u, s: s * (c - u))),
        (
            "scale_of is to be asked|own",
            guide(lambda s, x: s.chunk(2)[0].view(-1, 1, 1, 1), asks=lambda t: torch.cat([t, t])),
        ),
        ("a scale, of its own", guide(lambda s, x: s[-1:].view(-1, 1, 1, 1))),
        ("package's own guided", by_the_package),
        ("return that function itself", lambda model, scale_of, words, empty: torch.zeros(1)),
        ("return that function itself", lambda model, scale_of, words, empty: None),
    ],
)
def test_wrong_guidance(hint, answer):
    BOOK.refuses("guided-over-time", hint, guided_over_time=answer)


@pytest.mark.parametrize("answer", [guide(), guide(rule=lambda c, u, s: s * c + (1 - s) * u), in_one_batch, by_lerp])
def test_right_guidance(answer):
    BOOK.accepts("guided-over-time", guided_over_time=answer)


def aside(over=(1, 2, 3), power=1.0, take=lambda n, along: n - along, onto="c", sign=1, safe=True, from_empty=True):
    def answer(with_words, with_negative, without, scale, away):
        c, n = (with_words - without, with_negative - without) if from_empty else (with_words, with_negative)
        base = c if onto == "c" else n
        length = base.square().sum(over, keepdim=True) ** power
        length = length.where(length > 0, 1) if safe else length
        along = (c * n).sum(over, keepdim=True) / length * base
        return without + scale * (with_words - without) - sign * away * take(n, along)

    return answer


def by_unit_vectors(with_words, with_negative, without, scale, away):
    c, n = ((one - without).flatten(1) for one in (with_words, with_negative))
    unit = F.normalize(c, dim=1)
    along = torch.einsum("bk,bk->b", unit, n)
    guided = without.flatten(1) + scale * c - away * n + away * torch.einsum("b,bk->bk", along, unit)
    return guided.view_as(without)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("says the same as the prompt", aside(take=lambda n, along: n)),
        ("says the same as the prompt", aside(take=lambda n, along: along)),
        ("says the same|right angles|along what the words", aside((0, 1, 2, 3))),
        ("one angle, over all its numbers", aside((2, 3))),
        ("says the same", aside(power=0.5)),
        ("right angles|says the opposite|along", aside(onto="n")),
        ("right angles", aside(sign=-1)),
        ("NaN or infinity", aside(safe=False)),
        ("says the same|says the opposite", aside(from_empty=False)),
        ("expected", lambda *case: aside()(*case).flatten(1)),
        ("returned None", lambda *case: None),
        ("in place", lambda c, n, u, s, a: aside()(c, n.sub_(u).add_(u * 1.5), u, s, a)),
    ],
)
def test_wrong_negative_prompts(hint, answer):
    BOOK.refuses("perpendicular", hint, perpendicular=answer)


@pytest.mark.parametrize(
    "answer",
    [aside(), by_unit_vectors, lambda *case: aside()(*(x.double() if torch.is_tensor(x) else x for x in case))],
)
def test_right_negative_prompts(answer):
    BOOK.accepts("perpendicular", perpendicular=answer)


def region(
    alike=lambda x: x / x.mean(1, keepdim=True),
    heads=lambda x: x.mean(1),
    tokens=lambda x: x.sum(-1),
    turned=False,
    sign=1,
    whole=False,
    count=round,
    largest=False,
    **how,
):
    def answer(maps, words, size, share):
        h, w = size
        total = torch.zeros(len(maps[0]), h * w, dtype=torch.float64)
        how.setdefault("mode", "bilinear")
        for one in maps:
            seen = tokens(heads(one.double())[:, :, list(words)])
            k = round((h * w / seen.shape[1]) ** 0.5)
            seen = alike(seen)
            seen = seen.unflatten(1, (w // k, h // k)).mT if turned else seen.unflatten(1, (h // k, w // k))
            layer = sign * F.interpolate(seen[:, None], size=size, **how).flatten(1)
            total = torch.maximum(total, layer) if largest else total + layer
        n = count(share * h * w)
        rank = total.argsort(1, descending=True).argsort(1)
        if whole:
            rank = total.flatten().argsort(descending=True).argsort().view_as(total) / len(total)
        return (rank < n).view(-1, 1, h, w)

    return answer


def by_mean_map(maps, words, size, share):
    mean = attention.mean_map({str(k): [one] for k, one in enumerate(maps)}, size)[:, words].sum(1, keepdim=True)
    edge = mean.flatten(1).sort(1, descending=True).values[:, round(share * size[0] * size[1]) - 1]
    return mean >= edge.view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("layers count alike", region(alike=lambda x: x)),
        ("its largest place", region(alike=lambda x: x / x.amax(1, keepdim=True))),
        ("sum over the places", region(alike=lambda x: x / x.sum(1, keepdim=True))),
        ("mean of the whole batch", region(alike=lambda x: x / x.mean())),
        ("largest of the layers", region(largest=True)),
        ("largest of the heads", region(heads=lambda x: x.amax(1))),
        ("enlarged in another way", region(mode="bicubic")),
        ("enlarged in another way", region(align_corners=True)),
        ("a share of 0.3", region(count=int)),
        ("row k // w", region(turned=True)),
        ("several tokens", region(tokens=lambda x: x[..., 0])),
        ("only the first head", region(heads=lambda x: x[:, 0])),
        ("row k // w|look least", region(sign=-1)),
        ("places in the region|whole batch", region(whole=True)),
        ("a share of", region(count=lambda n: round(n) + 1)),
        ("0 and 1 alone", lambda *case: region()(*case) * 0.5),
        ("expected shape", lambda *case: region()(*case)[:, 0]),
        ("package's own mean_map", by_mean_map),
        ("returned None", lambda *case: None),
    ],
)
def test_wrong_regions(hint, answer):
    BOOK.refuses("word-region", hint, word_region=answer)


@pytest.mark.parametrize(
    "answer", [region(), lambda *case: region()(*case).float(), lambda *case: region()(*case).numpy()]
)
def test_right_regions(answer):
    BOOK.accepts("word-region", word_region=answer)


def edit(when=lambda k, n: True, swapped=False, fresh=False, before=False, only=False, turns=1):
    def answer(source, target, move, x_T, path, region):
        here = 1 - region if swapped else region
        kept = edited = x_T
        steps = list(zip(path, [*path[1:], -1], strict=True))
        for k, (now, then) in enumerate(steps):
            previous, begin = kept, kept if fresh else edited
            for _ in range(turns):
                kept = move(source, previous, now, then)
            edited = move(target, begin, now, then)
            if when(k, len(steps) - 1):
                edited = torch.where(here > 0, edited, previous if before else kept)
        return edited if only else (kept, edited)

    return answer


def in_two_rounds(source, target, move, x_T, path, region):
    """First all of the source, then the edited picture along its states."""
    states, ends = [x_T], [*path[1:], -1]
    for now, then in zip(path, ends, strict=True):
        states.append(move(source, states[-1], now, then))
    edited = x_T
    for now, then, state in zip(path, ends, states[1:], strict=True):
        edited = torch.lerp(state, move(target, edited, now, then), region.to(state))
    return states[-1], edited


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("outside of the region|all is in the region", edit(swapped=True)),
        ("only at the end", edit(when=lambda k, n: k == n)),
        ("outside of the region|nothing is in", edit(when=lambda k, n: k == 0)),
        ("outside of the region", edit(when=lambda k, n: k < n)),
        ("must be what the target paints|source's state", edit(fresh=True)),
        ("outside of the region", edit(before=True)),
        ("once each", edit(turns=2)),
        ("two results", edit(only=True)),
        ("outside of the region", edit(when=lambda k, n: False)),
        ("once each", lambda s, t, move, x, path, region: edit()(s, t, move, x, path[:-1], region)),
    ],
)
def test_wrong_edits(hint, answer):
    BOOK.refuses("local-edit", hint, local_edit=answer)


@pytest.mark.parametrize("answer", [edit(), in_two_rounds])
def test_right_edits(answer):
    BOOK.accepts("local-edit", local_edit=answer)
