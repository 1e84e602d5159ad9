"""Homework 7, the project: right but unusual tools pass, wrong ones are caught with a hint that fits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from homework import Assignment

from minildm import images

BOOK = Assignment("7_project")


def pictures(n=80, side=24, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("60 pictures or more", lambda: pictures(20)),
        ("black is -1", lambda: pictures() / 2 + 0.5),
        ("from -1 to 1", lambda: pictures() * 127.5),
        ("not integers", lambda: (pictures() * 127).to(torch.int16)),
        ("of shape", lambda: pictures()[:, :1]),
        ("of shape", lambda: pictures().movedim(1, -1)),
        ("squares with a side", lambda: pictures(80, 30)),
        ("there twice", lambda: pictures(4).repeat(20, 1, 1, 1)),
        ("one flat colour", lambda: pictures()[:, :, :1, :1].expand(-1, -1, 24, 24)),
        ("a second call gives other", lambda: torch.rand(80, 3, 24, 24) * 2 - 1),
        ("NaN or infinity", lambda: pictures().log()),
        ("returned None|tensor", lambda: None),
        ("got a list", lambda: list(pictures())),
        ("got a ndarray", lambda: pictures().numpy()),
        ('data\\["image"\\]', lambda: images.to_model([{"image": 0}])),
    ],
)
def test_wrong_pictures(hint, answer):
    BOOK.refuses("my-pictures", hint, my_pictures=answer)


@pytest.mark.parametrize("answer", [pictures, lambda: pictures(61, 128).double(), lambda: pictures(300, 16)])
def test_right_pictures(answer):
    BOOK.accepts("my-pictures", my_pictures=answer)


def group(rounds=99, size=8, norm=lambda d, k: d / k**0.5, pick=None):
    def answer(x, limit):
        small = (pick or (lambda x: F.adaptive_avg_pool2d(x, size)))(x).flatten(1)
        distance = (small[:, None] - small).square().sum(2).sqrt()
        close = (norm(distance, small.shape[1]) < limit) | torch.eye(len(x), dtype=torch.bool)
        found = torch.arange(len(x))
        for _ in range(rounds):
            found = torch.where(close, found, len(x)).amin(1)
        return found

    return answer


def by_walking(x, limit):
    """From picture to picture, in plain Python; the numbers count down."""
    small = [one.double() for one in F.adaptive_avg_pool2d(x, (8, 8))]
    number, found = 1000, {}
    for start in range(len(x)):
        if start in found:
            continue
        number, todo = number - 1, [start]
        while todo:
            k = todo.pop()
            if k not in found:
                found[k] = number
                todo += [j for j in range(len(x)) if (small[j] - small[k]).pow(2).mean() < limit**2]
    return [found[k] for k in range(len(x))]


def leaders(x, limit):
    """Close to the first of a group: a chain is cut."""
    small, heads, found = F.adaptive_avg_pool2d(x, 8), [], []
    for k, one in enumerate(small):
        near = [h for h in heads if (small[h] - one).square().mean().sqrt() < limit]
        heads += [] if near else [k]
        found.append(near[0] if near else k)
    return torch.tensor(found)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("a chain", group(rounds=1)),
        ("a chain", leaders),
        ("averages, not single pixels|chain|same thumbnail", group(pick=lambda x: x)),
        (
            "averages, not single pixels|another size",
            group(pick=lambda x: x[:, :, :: x.shape[2] // 8, :: x.shape[3] // 8]),
        ),
        ("nothing in common|another size|chain", group(size=1)),
        ("another size|chain", group(size=4)),
        ("divided by the number of values", group(norm=lambda d, k: d)),
        ("compare all channels", lambda x, limit: group()(x.mean(1, keepdim=True), limit)),
        ("farther apart|root", group(norm=lambda d, k: d**2 / k)),
        ("a number for each", lambda x, limit: group()(x, limit).unique()),
        ("nothing in common", lambda x, limit: torch.zeros(len(x))),
        ("one group with its twin", lambda x, limit: torch.arange(len(x))),
        ("returned None", lambda x, limit: None),
    ],
)
def test_wrong_twins(hint, answer):
    BOOK.refuses("twins", hint, twins=answer)


@pytest.mark.parametrize("answer", [group(), by_walking, lambda x, limit: group()(x.double(), limit).numpy() * 7 - 3])
def test_right_twins(answer):
    BOOK.accepts("twins", twins=answer)


def parted(grouped=True, enough=lambda held, n, share: len(held) >= share * n, seeded=True, overlap=False, order=None):
    def answer(groups, share, seed):
        draw = torch.Generator().manual_seed(seed if seeded else 0)
        numbers = groups.unique() if grouped else torch.arange(len(groups))
        numbers = numbers[torch.randperm(len(numbers), generator=draw)] if order is None else order(numbers)
        held = []
        for number in numbers:
            if enough(held, len(groups), share):
                break
            held += (groups == number).nonzero()[:, 0].tolist() if grouped else [int(number)]
        known = [k for k in range(len(groups)) if overlap or k not in held]
        return known, held

    return answer


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("a group is in both parts", parted(grouped=False)),
        ("must be held out|of the pictures", parted(enough=lambda held, n, share: len(held) >= share * n / 2)),
        ("stop as soon as", parted(enough=lambda held, n, share: len(held) >= 2 * share * n)),
        ("another seed", parted(seeded=False)),
        ("another seed", parted(order=lambda numbers: numbers)),
        ("exactly one part", parted(overlap=True)),
        ("two results", lambda groups, share, seed: parted()(groups, share, seed)[1]),
        ("stop as soon as", lambda *case: parted()(*case)[::-1]),
        ("the same seed", lambda groups, share, seed: parted()(groups, share, int(torch.randint(10**6, ())))),
        (
            "global random stream",
            lambda groups, share, seed: (torch.manual_seed(seed), parted()(groups, share, seed))[1],
        ),
    ],
)
def test_wrong_splits(hint, answer):
    BOOK.refuses("split", hint, split=answer)


def test_a_split_that_seeds_torch_is_seen_before_grading():
    def seeding(groups, share, seed):
        torch.manual_seed(seed)
        return parted()(groups, share, seed)

    with pytest.raises(AssertionError, match="generator of your own"):
        BOOK.visible("split", split=seeding)


def by_numpy(groups, share, seed):
    groups, held = groups.numpy(), np.array([], int)
    for number in np.random.default_rng(seed).permutation(np.unique(groups)):
        if len(held) >= share * len(groups):
            break
        held = np.concatenate([held, np.flatnonzero(groups == number)])
    return np.setdiff1d(np.arange(len(groups)), held), held


@pytest.mark.parametrize("answer", [parted(), by_numpy, lambda *case: [torch.tensor(one) for one in parted()(*case)]])
def test_right_splits(answer):
    BOOK.accepts("split", split=answer)


def search(
    mirror=True, wrap=False, moves=lambda s: range(-s, s + 1), down=True, root=0.5, axis=3, whole=False, swap=False
):
    def answer(made, known, shift):
        found = torch.full((len(made), len(known)), torch.inf, dtype=made.dtype)
        h, w = known.shape[2:]
        for dy in moves(shift) if down else (0,):
            for dx in moves(shift):
                for other in (known, known.flip(axis)) if mirror else (known,):
                    rows = slice(None) if wrap else slice(max(0, dy), h + min(0, dy))
                    columns = slice(None) if wrap else slice(max(0, dx), w + min(0, dx))
                    apart = (made[:, None] - other.roll((dy, dx), (2, 3)))[..., rows, columns].square()
                    mean = apart.sum((2, 3, 4)) / other[0].numel() if whole else apart.mean((2, 3, 4))
                    found = torch.minimum(found, mean**root)
        return tuple(found.min(1))[:: -1 if swap else 1]

    return answer


def inner(made, known, shift):
    """What is left of a made picture without its edge, somewhere in a known one."""
    h, w = known.shape[2:]
    found = torch.full((len(made), len(known)), torch.inf, dtype=made.dtype)
    middle = made[:, :, shift : h - shift, shift : w - shift]
    for other in (known, known.flip(3)):
        for dy in range(2 * shift + 1):
            for dx in range(2 * shift + 1):
                part = other[:, :, dy : dy + h - 2 * shift, dx : dx + w - 2 * shift]
                found = torch.minimum(found, (middle[:, None] - part).square().mean((2, 3, 4)).sqrt())
    return tuple(found.min(1))


def by_masks(made, known, shift):
    """The same by padding with NaN, one made picture after the other."""
    h, w = known.shape[2:]
    distances, numbers = [], []
    for one in made:
        best = (torch.inf, -1)
        for k, other in enumerate(torch.cat([known, known.flip(-1)])):
            wide = F.pad(other, (shift,) * 4, value=torch.nan)
            for dy in range(2 * shift + 1):
                for dx in range(2 * shift + 1):
                    gap = (one - wide[:, dy : dy + h, dx : dx + w]).square().nanmean().sqrt().item()
                    best = min(best, (gap, k % len(known)))
        distances.append(best[0])
        numbers.append(best[1])
    return distances, numbers


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("mirrored copy", search(mirror=False)),
        ("mirrored copy", search(axis=2)),
        ("moved by", search(down=False)),
        ("moved by|one direction", search(moves=lambda s: range(0, s + 1))),
        ("only what both", search(wrap=True)),
        ("one inner part", inner),
        ("values that are compared", search(whole=True)),
        ("root", search(root=1.0)),
        ("mirrored copy|distance 0|copied", search(swap=True)),
        ("a distance for each", lambda *case: [one[None] for one in search()(*case)]),
        ("two results", lambda *case: search()(*case)[0]),
        ("moved by", lambda made, known, shift: search()(made, known, 0)),
        ("nothing may be moved|moved", lambda made, known, shift: search()(made, known, 2)),
    ],
)
def test_wrong_searches(hint, answer):
    BOOK.refuses("nearest", hint, nearest=answer)


@pytest.mark.parametrize(
    "answer", [search(), by_masks, lambda made, known, shift: search()(made.float(), known.float(), shift)]
)
def test_right_searches(answer):
    BOOK.accepts("nearest", nearest=answer)
