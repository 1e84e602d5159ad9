"""Homework 1: right but unusual answers pass, wrong ones are caught with a hint that fits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from homework import Assignment
from scipy import ndimage
from skimage.segmentation import watershed

BOOK = Assignment("1_touching_cells")


def seams(window=None, background=True, empty=True, names=(0, 1, 2)):
    """Part 1 by a loop over nuclei; the arguments make mistakes."""

    def answer(mask, reach):
        shape = np.ones((2 * reach + 1,) * 2) if window is None else window(reach)
        numbers = [n for n in np.unique(mask) if n or not background]
        seen = sum((ndimage.binary_dilation(mask == n, shape)).astype(int) for n in numbers)
        seam = (seen > 1) & ((mask > 0) | empty)
        return np.where(seam, names[2], np.where(mask > 0, names[1], names[0]))

    return answer


def round_window(reach):
    line = np.arange(-reach, reach + 1)
    return line[:, None] ** 2 + line**2 <= reach**2


def rolled(mask, reach):
    seam = np.zeros(mask.shape, bool)
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            other = np.roll(mask, (i, j), (0, 1))
            seam |= (mask > 0) & (other > 0) & (other != mask)
    return np.where(seam, 2, (mask > 0).astype(int))


def changes_the_mask(mask, reach):
    mask[mask == 0] = 0
    mask += 1
    return seams()(mask - 1, reach)


def sentinel(number):
    """Two filters, and a number that stands for the background in the second."""

    def answer(mask, reach):
        side, names = 2 * reach + 1, mask.astype(np.int64)
        low = ndimage.minimum_filter(np.where(names > 0, names, number), side, mode="constant", cval=number)
        high = ndimage.maximum_filter(names, side, mode="constant")
        return np.where((high > 0) & (low != high), 2, (names > 0).astype(int))

    return answer


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("where a nucleus meets the background there is none", seams(background=False)),
        ("seam is 1 wide|pixels of the background count as well", seams(empty=False)),
        ("70,000: no fixed number", sentinel(255)),
        ("3,000,000: no fixed number", sentinel(10**6)),
        ("window is a square", seams(round_window)),
        ("window is a square", seams(lambda r: ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), r))),
        ("your seam is 4 wide", seams(lambda r: np.ones((4 * r + 1,) * 2))),
        ("there is no seam|seam is 2 wide", seams(lambda r: np.ones((2 * r - 1,) * 2))),
        ("opposite edges", rolled),
        ("class 2 is the seam alone", seams(names=(0, 2, 1))),
        ("no seam in your map|alone", lambda mask, reach: (mask > 0).astype(int)),
        ("the classes 0, 1 and 2", lambda mask, reach: mask),
        ("changes its argument 1 in place", changes_the_mask),
        ("returned None", lambda mask, reach: None),
        ("one class for each pixel", lambda mask, reach: seams()(mask, reach)[None]),
        ("not written yet", lambda mask, reach: ...),
    ],
)
def test_wrong_seams_are_caught(hint, answer):
    BOOK.refuses("seam-classes", hint, seam_classes=answer)


@pytest.mark.parametrize("background", [np.inf, 2**40])
def test_right_seams_pass_with_a_number_above_all_names(background):
    BOOK.accepts("seam-classes", seam_classes=sentinel(background))


@pytest.mark.parametrize("kind", [float, np.uint8, np.int64, torch.tensor])
def test_right_seams_pass_in_any_dtype(kind):
    def answer(mask, reach):
        classes = seams()(mask, reach)
        return torch.tensor(classes) if kind is torch.tensor else classes.astype(kind)

    BOOK.accepts("seam-classes", seam_classes=answer)


def entropy(weigh=lambda t, s: 1 + (s - 1) * (t == 2), below=lambda w: w.sum(), squash=lambda x: x.log_softmax(1)):
    def answer(logits, target, seam):
        weight = weigh(target, seam)
        each = -squash(logits).gather(1, target[:, None])[:, 0]
        return (weight * each).sum() / below(weight)

    return answer


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("sum of the weights", entropy(below=torch.numel)),
        ("sum of the weights", entropy(below=lambda w: 1)),
        ("seam pixel counts `seam` times", entropy(weigh=lambda t, s: torch.ones(t.shape))),
        ("seam pixel counts `seam` times", entropy(weigh=lambda t, s: 1 + (s - 1) * (t != 2))),
        ("class that is not the seam|`seam` times", entropy(weigh=lambda t, s: 1 + (s - 1) * (t == 1))),
        ("applied twice|`seam` times", entropy(weigh=lambda t, s: 1 + (s**2 - 1) * (t == 2))),
        ("in one step", entropy(squash=lambda x: x.softmax(1).log())),
        ("log 3|softmax over axis 1", entropy(squash=lambda x: x.softmax(-1).log())),
        ("no gradient", lambda x, t, s: entropy()(x.detach(), t, s)),
        ("no gradient", lambda x, t, s: entropy()(x, t, s).item()),
        (
            "not picture by picture",
            lambda x, t, s: sum(entropy()(a[None], b[None], s) for a, b in zip(x, t, strict=True)) / len(x),
        ),
        (
            r"where the \*target\* is seam",
            lambda x, t, s: entropy(lambda t, s: 1 + (s - 1) * (x.argmax(1) == 2))(x, t, s),
        ),
        ("softmax taken of a softmax", entropy(squash=lambda x: x.softmax(1).log_softmax(1))),
        ("float64", lambda x, t, s: F.cross_entropy(x, t, weight=torch.tensor([1.0, 1.0, s]))),
        ("without axes", lambda x, t, s: entropy()(x, t, s)[None]),
    ],
)
def test_a_wrong_weighted_loss_is_caught(hint, answer):
    BOOK.refuses("weighted-cross-entropy", hint, weighted_cross_entropy=answer)


def by_torch(logits, target, seam):
    return F.cross_entropy(logits, target, weight=torch.tensor([1, 1, seam], dtype=logits.dtype))


def by_einsum(logits, target, seam):
    one_hot = F.one_hot(target, 3).to(logits.dtype)
    weight = one_hot @ logits.new_tensor([1, 1, seam])
    costs = torch.logsumexp(logits, 1) - torch.einsum("bchw,bhwc->bhw", logits, one_hot)
    return torch.einsum("bhw,bhw->", costs, weight) / weight.sum()


@pytest.mark.parametrize("answer", [entropy(), by_torch, by_einsum, lambda x, t, s: by_torch(x.float(), t, s)])
def test_right_weighted_losses_pass(answer):
    BOOK.accepts("weighted-cross-entropy", weighted_cross_entropy=answer)


def dice(twice=2, k=2, one=1, squash=lambda x: x.softmax(1), union=0, axes=(0, 1, 2), minus=True, power=1):
    def answer(logits, target):
        p, s = squash(logits)[:, k], (target == k).to(logits.dtype)
        both = (p * s).sum(axes)
        value = ((twice * both + one) / ((p**power).sum(axes) + s.sum(axes) + one - union * both)).mean()
        return 1 - value if minus else value

    return answer


def dice_by_hand(logits, target, s):
    p = logits.softmax(1)[:, 2]
    return 1 - (2 * (p * s).sum() + 1) / (p.sum() + s.sum() + 1)


def dice_of_all(logits, target):
    s = F.one_hot(target, 3).movedim(-1, 1)
    return 1 - (2 * (logits.softmax(1) * s).sum() + 1) / (2 * target.numel() + 1)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("counted twice", dice(twice=1)),
        ("intersection over union", dice(twice=1, union=1)),
        ("right and certain", dice(union=1)),
        ("class nucleus", dice(k=1)),
        ("of the background", dice(k=0)),
        ("all three classes", dice_of_all),
        ("no class", lambda x, t: dice_by_hand(x, t, t)),
        ("parentheses", lambda x, t: 1 - 2 * (x.softmax(1)[:, 2] * (t == 2)).sum() + dice(twice=0, minus=False)(x, t)),
        ("squared below", dice(power=2)),
        ("softmax over axis 1", dice(squash=torch.sigmoid)),
        ("softmax over axis 1", dice(squash=lambda x: x.softmax(-1))),
        ("softmax over axis 1", dice(squash=lambda x: x.softmax(0))),
        ("softmax over axis 1", dice(squash=lambda x: x)),
        ("1 is added above and below", dice(one=0)),
        ("each picture has its own Dice", dice(axes=(1, 2))),
        ("Dice itself", dice(minus=False)),
        ("& and | are for booleans", lambda x, t: (x.softmax(1)[:, 2] & (t == 2)).sum()),
        ("softmax|no gradient|1/3", lambda x, t: dice(squash=lambda x: (x == x.amax(1, True)).double())(x, t)),
        ("no gradient", lambda x, t: float(dice()(x, t))),
    ],
)
def test_a_wrong_overlap_is_caught(hint, answer):
    BOOK.refuses("seam-dice-loss", hint, seam_dice_loss=answer)


def dice_by_einsum(logits, target):
    p = torch.exp(logits - logits.logsumexp(1, keepdim=True))[:, 2].float()
    s = (target == 2).float()
    total = torch.einsum("bhw->", p) + torch.einsum("bhw->", s)
    return (total - 2 * torch.einsum("bhw,bhw->", p, s)) / (total + 1)


@pytest.mark.parametrize("answer", [dice(), dice_by_einsum, lambda x, t: dice()(x.double(), t)])
def test_a_right_overlap_passes(answer):
    BOOK.accepts("seam-dice-loss", seam_dice_loss=answer)


def nearest(p, connect=None, inside=True, fill=True, seed=lambda p: p.argmax(0) == 1):
    """Part 4 seed by seed, piece by piece; the arguments make mistakes."""
    seeds, _ = ndimage.label(seed(p), connect)
    foreground = (p[0] < 0.5) | (seeds > 0)
    pieces, count = ndimage.label(foreground)
    found = np.zeros(seeds.shape)
    for k in range(1, count + 1):
        here = np.where(pieces == k, seeds, 0) if inside else seeds
        if here.any():
            at = ndimage.distance_transform_edt(here == 0, return_distances=False, return_indices=True)
            found[pieces == k] = seeds[tuple(at)][pieces == k]
    return found if fill else np.where(seeds > 0, found, 0)


def flooded(foreground=lambda p: p[0] < 0.5, height=lambda p, seeds: np.zeros(seeds.shape), connectivity=1):
    """Part 4 by a watershed; the arguments make mistakes."""

    def answer(p):
        seeds, _ = ndimage.label(p.argmax(0) == 1)
        return watershed(height(p, seeds), seeds, connectivity=connectivity, mask=foreground(p))

    return answer


def grown(p, steps=1000):
    """Part 4 a pixel at a time."""
    found, _ = ndimage.label(p.argmax(0) == 1)
    for _ in range(steps):
        wider = ndimage.maximum_filter(found, footprint=ndimage.generate_binary_structure(2, 1))
        found = np.where((found == 0) & (p[0] < 0.5), wider, found)
    return found


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("part them first", lambda p: ndimage.label(p[0] < 0.5)[0]),
        ("left without a label", lambda p: nearest(p, fill=False)),
        ("corner", lambda p: nearest(p, np.ones((3, 3)))),
        ("touches no nucleus", lambda p: nearest(p, inside=False)),
        ("where background is more likely than 1/2", lambda p: np.where(nearest(p) == 0, 1, nearest(p))),
        ("nucleus is the most likely class", lambda p: nearest(p, seed=lambda p: p[1] > 0.5)),
        ("a bridge of .* melts two nuclei", lambda p: nearest(p, seed=lambda p: (p[1] > p[2]) & (p[0] < 0.5))),
        ("less likely than 1/2", flooded(foreground=lambda p: p.argmax(0) > 0)),
        ("touches a nucleus at a corner alone", flooded(connectivity=2)),
        ("however its probabilities rise", flooded(height=lambda p, seeds: -p[1])),
        ("however its probabilities rise", flooded(height=lambda p, seeds: p[2])),
        ("is nearer", flooded(height=lambda p, seeds: -ndimage.distance_transform_edt(p[0] < 0.5))),
        ("60 pixels wide a part is left", lambda p: grown(p, 5)),
        ("part them first", lambda p: nearest(p, seed=lambda p: p.argmax(0) == 2)),
        ("return two things", lambda p: np.where(p[0] < 0.5, np.array(ndimage.label(p.argmax(0) == 1)), 0)),
        ("one label for each pixel", lambda p: nearest(p)[None]),
        ("whole numbers", lambda p: nearest(p) + 0.5 * (p[0] < 0.5)),
        ("one label|part them", lambda p: (nearest(p) > 0).astype(int)),
        ("several labels", lambda p: np.arange(p[0].size).reshape(p[0].shape) * (p[0] < 0.5)),
        ("the package's own", lambda p: __import__("minildm").segmentation.instances(1 - p[0], p[1])),
    ],
)
def test_wrong_instances_are_caught(hint, answer):
    BOOK.refuses("to-instances", hint, to_instances=answer)


@pytest.mark.parametrize(
    "answer",
    [
        nearest,
        flooded(),
        lambda p: grown(p, 60),
        lambda p: 100 - nearest(p) * 7 - 100 * (nearest(p) == 0),
        lambda p: torch.tensor(nearest(p)).int(),
    ],
)
def test_right_instances_pass(answer):
    BOOK.accepts("to-instances", to_instances=answer)


class Painted(torch.nn.Module):
    """Stands in for a trained network: says what the expert drew, with some pixels wrong."""

    def __init__(self, mask, kind, seed, seam_classes):
        super().__init__()
        classes = torch.tensor(seam_classes(mask, 1))
        classes[:3] = torch.randint(0, 3, classes[:3].shape, generator=torch.Generator().manual_seed(seed))
        three = 6.0 * F.one_hot(classes, 3).movedim(-1, 0)
        self.logits = three if kind == "three" else 6.0 * (classes[None] > 0).float() - 3
        self.head = torch.nn.Conv2d(1, len(self.logits), 1)

    def forward(self, x):
        return self.logits[None].float()


def experiment(change=lambda nets, found: None):
    names = BOOK.names
    nets, found = {}, {}
    for kind in ("two", "three"):
        for seed in (0, 1):
            net = nets[kind, seed] = Painted(names["test_mask"], kind, seed, names["seam_classes"])
            two, three = lambda y: ndimage.label(y[0] > 0)[0], lambda y: names["to_instances"](y.softmax(0).numpy())
            found[kind, seed] = (two if kind == "two" else three)(net(None)[0])
    change(nets, found)
    return {"nets": nets, "found": found}


@pytest.mark.parametrize(
    "hint, change",
    [
        ("not written yet .nothing in found", lambda nets, found: (nets.clear(), found.clear())),
        ("is a pair", lambda nets, found: found.update({("two", 0): ndimage.label(found["two", 0])})),
        ("the keys", lambda nets, found: found.pop(("two", 1))),
        ("both seeds give the same map", lambda nets, found: found.update({("three", 1): found["three", 0]})),
        ("not what this network says", lambda nets, found: found.update({("two", 1): found["three", 1]})),
        ("one network stands for several", lambda nets, found: nets.update({("two", 1): nets["two", 0]})),
        ("maps .* of one size", lambda nets, found: found.update({("two", 1): found["two", 1][:9]})),
        ("four trained networks", lambda nets, found: nets.clear()),
    ],
)
def test_a_wrong_experiment_is_caught(hint, change):
    BOOK.refuses("experiment", hint, **experiment(change))


def test_a_right_experiment_passes():
    BOOK.accepts("experiment", **experiment())


@pytest.mark.parametrize("solved", [[], ["seam-classes", "seam-dice-loss"]])
def test_what_is_handed_out_runs_to_its_end(solved, tmp_path):
    """Cells after a part that is not written say so, and do not stop the notebook: five checks, two cells between."""
    said = BOOK.handed_out(tmp_path, solved)
    assert said.count("– ") == 5 - len(solved) and said.count("✓ ") == len(solved)
    assert said.count("this needs is not written yet") == (1 if "seam-classes" in solved else 2)
