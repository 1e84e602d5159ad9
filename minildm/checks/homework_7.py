"""Visible checks of homework 7, the project: that data are sound, that a split is one, that copies are found."""

import numpy as np
import torch

from ._probe import Probe, probe

LEAST = 60  # pictures of a project


def _pictures(n, c, h, w, seed=0):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@probe(patience=120.0)  # photographs are large, and read twice
def my_pictures(ask: Probe) -> None:
    """Part 1: `answer()` -> your pictures, (n, 3, s, s) in [-1, 1], the same at each call."""
    x = ask.raw()
    kind = f"a tensor of {x.dtype}" if torch.is_tensor(x) else f"a {type(x).__name__}"
    hint = f"expected one tensor of numbers with a point, not integers, got {kind}"
    ask.need(torch.is_tensor(x) and x.is_floating_point(), hint)
    ask.need(x.ndim == 4 and x.shape[1] == 3, f"expected pictures of shape (n, 3, s, s), got {tuple(x.shape)}")
    n, _, h, w = x.shape
    ask.need(h == w and h % 8 == 0 and 16 <= h <= 128, f"expected squares with a side of 16, 24, …, 128, got {h}×{w}")
    ask.need(n >= LEAST, f"expected {LEAST} pictures or more, got {n}")
    ask.need(bool(x.isfinite().all()), "there is NaN or infinity in your pictures")
    low, high = x.min().item(), x.max().item()
    ask.need(low < -0.2, f"the darkest value is {low:.2f}: black is -1 here, not 0; see minildm.images.to_model")
    ask.need(max(-low, high) <= 1.001 and high - low > 1, f"expected values from -1 to 1, got {low:.2f} to {high:.2f}")
    flat = (x.flatten(2).std(2).amax(1) < 0.01).sum().item()
    ask.need(flat < n / 10, f"{flat} of the {n} pictures are one flat colour")
    same = n - len({one.numpy().tobytes() for one in x})
    ask.need(same < n / 2, f"{same} of the {n} pictures are there twice, pixel by pixel")
    ask.need(torch.equal(x, ask.raw()), "a second call gives other pictures, or the same in another order")


@probe()
def twins(ask: Probe) -> None:
    """Part 2: `answer(x, limit)`, pictures (n, c, h, w) -> a group's number for each, (n,)."""
    for c, h, w in ((3, 16, 16), (1, 24, 16), (2, 8, 8)):
        x = _pictures(5, c, h, w)
        x[3] = x[1]
        groups = ask(x, 0.05)
        ask.need(groups.shape == (5,), f"expected a number for each picture, shape (5,), got {groups.shape}")
        ask.need(groups[3] == groups[1], "a picture that is there twice must be in one group with its twin")
        ask.need(len(set(groups)) == 4, "pictures that have nothing in common must be in groups of their own")
        ask.need(len(set(ask(x, 10.0))) == 1, "with a limit above all distances there is one group")
    flat = torch.linspace(0, 0.7, 8, dtype=torch.float64).view(-1, 1, 1, 1).expand(8, 3, 16, 16).contiguous()
    hint = "0.1 brighter everywhere is a distance of 0.1: a mean is divided by the number of values"
    ask.need(len(set(ask(flat[:2], 0.11))) == 1, hint)
    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    hint = "a chain: each is close to the next one, so all belong together, in whatever order they come"
    ask.need(len(set(ask(flat[order], 0.11))) == 1, hint)
    chain = torch.cat([flat[:3], flat[:3] - 1])
    groups = ask(chain, 0.11)
    ask.need(len(set(groups[:3])) == len(set(groups[3:])) == 1 and groups[0] != groups[3], "two chains are two groups")
    groups = ask(flat[:3], 0.09)
    ask.need(len(set(groups)) == 3, "pictures that are farther apart than the limit were put together")
    colours = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1).expand(3, 3, 16, 16).contiguous()
    hint = "red, green and blue of one brightness have nothing in common: compare all channels"
    ask.need(len(set(ask(colours, 0.2))) == 3, hint)
    fine = _pictures(1, 3, 32, 32)
    speckled = fine + 0.6 * (-1.0) ** torch.arange(32)  # stripes of one pixel: a thumbnail does not see them
    hint = "two pictures with the same thumbnail of 8×8 belong together: compare averages, not single pixels"
    ask.need(len(set(ask(torch.cat([fine, speckled]), 0.05))) == 1, hint)


@probe()
def split(ask: Probe) -> None:
    """Part 3: `answer(groups, share, seed)` -> the numbers of the pictures to learn from, and of those held out."""
    for sizes, share in (((1,) * 20, 0.25), ((3, 1, 2, 4, 1, 1, 5, 3), 0.2), ((2,) * 15, 0.5)):
        groups = [7 * k for k, size in enumerate(sizes) for _ in range(size)]
        groups = torch.tensor(groups)[torch.randperm(len(groups), generator=torch.Generator().manual_seed(1))]
        n, found = len(groups), []
        states = {torch.random.get_rng_state().numpy().tobytes()}
        for seed in (0, 0, 1, 2, 3):
            both = ask.raw(groups, share, seed)
            states.add(torch.random.get_rng_state().numpy().tobytes())
            ask.need(isinstance(both, tuple | list) and len(both) == 2, "expected two results: to learn from, held out")
            known, held = ([int(k) for k in one] for one in both)
            hint = f"each of the {n} pictures must be in exactly one part; there are {len(known)} and {len(held)}"
            ask.need(sorted(known + held) == list(range(n)), hint)
            shared = {int(groups[k]) for k in known} & {int(groups[k]) for k in held}
            ask.need(not shared, "a group is in both parts: its twins would be copied, and look like a success")
            hint = f"at least {share:.0%} of the pictures must be held out; it is {len(held)} of {n}"
            ask.need(len(held) >= share * n - 1e-9, hint)
            hint = f"{len(held)} of {n} are held out: stop as soon as there are enough"
            ask.need(len(held) < share * n + max(sizes), hint)
            found.append(frozenset(held))
        ask.need(found[0] == found[1], "the same seed must give the same split")
        ask.need(len(set(found)) > 1, "another seed must give another split")
        ask.need(len(states) == 1, "torch's global random stream has moved on: draw from a generator of your own")


@probe()
def nearest(ask: Probe) -> None:
    """Part 4: `answer(made, known, shift)` -> for each made picture the distance and the number of the nearest."""
    for (a, b), (c, h, w), shift in (((3, 5), (3, 8, 6), 1), ((2, 4), (1, 7, 9), 2), ((4, 3), (2, 6, 6), 0)):
        known = _pictures(b, c, h, w)
        at = torch.arange(a) % b
        for what, made in (("a copy", known[at]), ("a mirrored copy", known[at].flip(3))):
            distance, index = _two(ask, made, known, shift)
            ask.near(distance, np.zeros(a), f"{what} has the distance 0")
            ask.need(list(index) == at.tolist(), f"the nearest to {what} is the picture that was copied")
        if shift:
            for down, across in ((shift, 0), (0, -shift), (-1, shift), (shift, -1)):
                moved = _pictures(a, c, h, w, seed=9)  # what comes in at the edges is new
                rows, columns = (slice(max(k, 0), n + min(k, 0)) for k, n in ((down, h), (across, w)))
                moved[:, :, rows, columns] = known[at].roll((down, across), (2, 3))[:, :, rows, columns]
                distance, index = _two(ask, moved, known, shift)
                hint = (
                    f"a copy moved by ({down}, {across}) has the distance 0: only what both pictures show is compared"
                )
                ask.near(distance, np.zeros(a), hint)
        else:
            made = known[at].roll(1, 3)
            ask.need(_two(ask, made, known, 0)[0].min() > 0.1, "with shift 0 nothing may be moved")
        distance, _ = _two(ask, known[at] + 0.25, known, shift)
        ask.need((distance <= 0.25 + 1e-6).all(), "the distance is the root of the mean square: 0.25 brighter is 0.25")
        alone, _ = _two(ask, known[:1] * 0 + 3, known[:1] * 0, shift)
        ask.near(
            alone, [3.0], "the root of the mean square: divided by the number of values that are compared, not by all"
        )


def _two(ask, made, known, shift):
    both = ask.raw(made, known, shift)
    ask.need(isinstance(both, tuple | list) and len(both) == 2, "expected two results: the distances, the numbers")
    distance, index = (np.asarray(torch.as_tensor(one)) for one in both)
    for name, one in (("distance", distance), ("number", index)):
        ask.need(one.shape == (len(made),), f"expected a {name} for each of {len(made)} pictures, got {one.shape}")
    return distance, index
