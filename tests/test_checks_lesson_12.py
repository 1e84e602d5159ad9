import numpy as np
import pytest
import torch
from scipy import stats

from minildm import checks, metrics
from minildm.data import paste


def good_pair(ground, objects, places, label=lambda k: k, inner=lambda inside: inside, order=1, transposed=False):
    """The right answer; each option makes a slip."""
    image, mask = np.array(ground), np.zeros(np.shape(ground), int)
    for k in range(len(objects))[::order]:
        picture, inside = objects[k]
        for r, c in np.argwhere(inner(inside)):
            at = (places[k][0] + r, places[k][1] + c)
            at = at[::-1] if transposed else at
            image[at], mask[at] = picture[r, c], label(k + 1)
    return image, mask


def slip(**how):
    return lambda *case: good_pair(*case, **how)


def mask_of_the_first(ground, objects, places):
    return good_pair(ground, objects, places)[0], good_pair(ground, objects, places, order=-1)[1]


def in_place(ground, objects, places):
    image, mask = good_pair(ground, objects, places)
    ground[:] = image
    return ground, mask


def box_written(*case, image_too=False, mask_too=False, add=False):
    """`inside` as a factor: what is around an object within its box is overwritten, or labels are added."""
    ground, objects, places = case
    image, mask = good_pair(*case)[0] if not image_too else np.array(ground), np.zeros(np.shape(ground), int)
    for k, ((picture, inside), (r, c)) in enumerate(zip(objects, places, strict=True), start=1):
        here = np.s_[r : r + len(inside), c : c + len(inside[0])]
        if image_too:
            image[here] = picture * inside
        mask[here] = k * inside + (mask[here] if add else 0 if mask_too else mask[here] * ~inside)
    return image, mask


def good_mix(real, made, n, share):
    k = round(n * share)
    one, other = real(n - k), made(k)
    return {name: torch.cat((one[name], other[name])) for name in one}


def mix_by(join, whole=round):
    return lambda real, made, n, share: join(real(n - whole(n * share)), made(whole(n * share)))


def each(join):
    return lambda one, other: {name: join((one[name], other[name])) for name in one}


def on_top(real, made, n, share):
    one, other = real(n), made(round(n * share))
    return {name: torch.cat((one[name], other[name])) for name in one}


def good_interval(one, other, n_of=len, sd=lambda d: np.std(d, ddof=1), quantile=0.975):
    d = np.asarray(other) - np.asarray(one)
    half = stats.t.ppf(quantile, len(d) - 1) * sd(d) / np.sqrt(n_of(d))
    return d.mean(), d.mean() - half, d.mean() + half


def unpaired(one, other):
    both = np.sqrt(np.var(one, ddof=1) + np.var(other, ddof=1))
    return good_interval(one, other, sd=lambda d: both)


def for_five(one, other):
    half = 2.78 * np.std(other - one, ddof=1) / np.sqrt(len(one))
    return np.mean(other - one) + np.array([0, -half, half])


RIGHT = [
    (checks.pasted_pair, good_pair),
    (checks.mixed_batch, good_mix),
    (checks.paired_interval, good_interval),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.pasted_pair, slip(inner=np.ones_like), "the whole box"),
        (checks.pasted_pair, slip(label=lambda k: 1), "melt into one"),
        (checks.pasted_pair, slip(label=lambda k: k - 1), "counted from 0"),
        (checks.pasted_pair, slip(order=-1), "the first object lies on top"),
        (checks.pasted_pair, mask_of_the_first, "image and mask disagree"),
        (checks.pasted_pair, in_place, "in place"),
        (checks.pasted_pair, lambda *case: good_pair(*case)[::-1], "the two results are exchanged"),
        (checks.pasted_pair, lambda *case: good_pair(*case)[0], "expected 2 results"),
        (
            checks.pasted_pair,
            lambda ground, objects, places: paste.compose(ground, [paste.Cutout(*one) for one in objects], places),
            "write it yourself",
        ),
        (checks.pasted_pair, lambda *case: box_written(*case, image_too=True), "box is 0 around"),
        (checks.pasted_pair, lambda *case: box_written(*case, image_too=True, mask_too=True), "box is 0 around"),
        (checks.pasted_pair, lambda *case: box_written(*case, mask_too=True), "wipes out labels"),
        (checks.pasted_pair, lambda *case: box_written(*case, add=True), "labels are added"),
        (checks.mixed_batch, mix_by(each(torch.cat), int), "int cuts off"),
        (checks.mixed_batch, mix_by(lambda one, other: one | other), "keeps one value for each name"),
        (checks.mixed_batch, mix_by(lambda one, other: one + other), "does not join two dicts"),
        (checks.mixed_batch, mix_by(each(torch.stack)), "makes a new axis"),
        (checks.mixed_batch, mix_by(each(lambda both: torch.cat(both, 1))), "along the first axis"),
        (checks.mixed_batch, on_top, "the budget must be equal"),
        (checks.mixed_batch, lambda real, made, n, share: good_mix(real, made, n, 1 - share), "that of real ones"),
        (checks.mixed_batch, lambda real, made, n, share: good_mix(made, real, n, 1 - share), "made ones come first"),
        (checks.mixed_batch, lambda real, made, n, share: good_mix(real, made, n, 0.5), "half of each"),
        (checks.mixed_batch, lambda real, made, n, share: real(n * share + 0.5), "whole number"),
        (checks.paired_interval, unpaired, "what pairing buys"),
        (checks.paired_interval, lambda a, b: good_interval(a, b, n_of=lambda d: 1), "root of n"),
        (checks.paired_interval, lambda a, b: good_interval(a, b, sd=np.std), "ddof=1"),
        (checks.paired_interval, lambda a, b: good_interval(a, b, quantile=0.95), "0.975"),
        (checks.paired_interval, lambda a, b: good_interval(a, b, quantile=0.025), "low and high are exchanged"),
        (checks.paired_interval, lambda a, b: good_interval(a, b, sd=lambda d: np.var(d, ddof=1)), "variance"),
        (checks.paired_interval, lambda a, b: good_interval(a, b, n_of=lambda d: len(d) ** 2), "divided by n;"),
        (checks.paired_interval, lambda a, b: good_interval(a, b, n_of=lambda d: len(d) - 1), "root of n - 1"),
        (checks.paired_interval, for_five, "for five pairs only"),
        (checks.paired_interval, lambda a, b: np.take(good_interval(a, b), [1, 0, 2]), "return it first"),
        (checks.paired_interval, lambda a, b: np.subtract(good_interval(a, b), [0, *[np.mean(b - a)] * 2]), "half the"),
        (checks.paired_interval, lambda a, b: good_interval(b, a), "the gain is other - one"),
        (checks.paired_interval, lambda a, b: tuple(metrics.paired_interval(a, b)), "write it yourself"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"(?s).*{hint}"):
        check(wrong)


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
def test_a_stub_does_not_pass(check, capsys):
    def stub(*arguments):
        raise NotImplementedError

    assert not check(stub)
    assert "not written yet" in capsys.readouterr().out


def test_the_answers_that_pass_are_the_package_s():
    draw = np.random.default_rng(0)
    objects = [paste.Cutout(draw.random((3, 4)), draw.random((3, 4)) < 0.5) for _ in range(3)]
    case = draw.random((8, 9)), objects, [(0, 0), (2, 1), (5, 5)]
    for mine, ours in zip(good_pair(*case), paste.compose(*case), strict=True):
        assert np.array_equal(mine, ours)
    one, other = draw.random(6), draw.random(6)
    assert good_interval(one, other) == pytest.approx(metrics.paired_interval(one, other))
