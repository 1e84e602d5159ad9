import math

import numpy as np
import pytest
import torch

from minildm import checks


def good_dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def good_weight(d_1, d_2, w_0, sigma):
    return 1 + w_0 * np.exp(-((d_1 + d_2) ** 2) / (2 * sigma**2))


def bell(over, height=lambda w: w):
    return lambda a, b, w, s: 1 + height(w) * np.exp(-(over(a, b) ** 2) / (2 * s**2))


def without_brackets(a, b):
    with np.errstate(all="ignore"):
        return 2 * (a & b).sum() / a.sum() + b.sum()


def through(down, bottom, up):
    """The size that comes out of a U whose blocks lose so many pixels."""

    def answer(size, levels):
        for _ in range(levels - 1):
            size = (size - down) // 2
        size -= bottom
        for _ in range(levels - 1):
            size = 2 * size - up
        return size

    return answer


@pytest.mark.parametrize("check, answer", [(checks.dice, good_dice), (checks.border_weight, good_weight)])
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_the_paper_s_own_size_passes(capsys):
    """572 -> 388 stands in figure 1 of the paper."""

    def answer(size, levels):
        down = [size]
        for _ in range(levels - 1):
            down.append((down[-1] - 4) / 2)
        up = down[-1] - 4
        for _ in range(levels - 1):
            up = up * 2 - 4
        return up

    assert answer(572, 5) == 388
    checks.valid_size(answer)
    assert "largest difference 0 " in capsys.readouterr().out


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.dice, lambda a, b: (a & b).sum() / (a | b).sum(), "intersection over union"),
        (checks.dice, lambda a, b: 2 * (a & b).sum() / (a | b).sum(), "never exceed 1"),
        (checks.dice, lambda a, b: (a & b).sum() / (a.sum() + b.sum()), "two equal masks must give 1"),
        (checks.dice, lambda a, b: (a == b).mean(), "foreground alone"),
        (checks.dice, lambda a, b: 2 * (a == b).sum() / (a.sum() + b.sum()), "foreground alone"),
        (checks.dice, lambda a, b: 2 * (a & b).sum() / (a.size + b.size), "these are all pixels"),
        (checks.dice, lambda a, b: 2 * len(a & b) / (len(a) + len(b)), "these are all pixels"),
        (checks.dice, without_brackets, "brackets are missing"),
        (checks.dice, lambda a, b: 2 * (a and b).sum(), "for arrays use &"),
        (checks.border_weight, lambda a, b, w, s: 1 + w * np.exp(-(a + b) / (2 * s**2)), "not squared yet"),
        (checks.border_weight, lambda a, b, w, s: 1 + w * np.exp(-((a + b) ** 2) / s**2), "below the fraction bar"),
        (checks.border_weight, lambda a, b, w, s: 1 + w * np.exp(-((a + b) ** 2) / 2 * s**2), "brackets are missing"),
        (
            checks.border_weight,
            lambda a, b, w, s: 1 + w * np.exp((-(a + b)) ** 2 / (2 * s**2)),
            "look at the sign of the exponent",
        ),
        (checks.border_weight, lambda a, b, w, s: 1 + w * np.exp(-(a**2 + b**2) / (2 * s**2)), "not each distance"),
        (checks.border_weight, lambda a, b, w, s: 1 + w * torch.exp(-((a + b) ** 2) / (2 * s**2)), "use np.exp"),
        (checks.border_weight, lambda a, b, w, s: w * np.exp(-((a + b) ** 2) / (2 * s**2)), "still count once"),
        (
            checks.border_weight,
            lambda a, b, w, s: 1 + w / (s * (2 * np.pi) ** 0.5) * np.exp(-((a + b) ** 2) / (2 * s**2)),
            "the density of a normal distribution",
        ),
        (checks.border_weight, bell(lambda a, b: a + b, height=lambda w: w - 1), r"at 0 is 1 \+ w_0"),
        (checks.border_weight, lambda *case: np.maximum(1, good_weight(*case) - 1), "the larger of both"),
        (checks.border_weight, lambda a, b, w, s: good_weight(a, b, w, s) - 1 + w, "is not multiplied by it"),
        (checks.border_weight, lambda a, b, w, s: good_weight(a, b, w, 2**0.5 * s), "only sigma is squared"),
        (checks.border_weight, bell(lambda a, b: a), "one of the two distances is missing"),
        (checks.border_weight, bell(lambda a, b: b), "one of the two distances is missing"),
        (checks.border_weight, bell(lambda a, b: a - b), "not over their difference"),
        (
            checks.border_weight,
            lambda a, b, w, s: 1 + w * math.exp(-((a + b) ** 2) / (2 * s**2)),
            "math take a single one",
        ),
        (checks.valid_size, through(2, 2, 2), "a block has two of them"),
        (checks.valid_size, through(1, 1, 1), "a block has two of them"),
        (checks.valid_size, through(4, 0, 4), "the block at the bottom"),
        (checks.valid_size, through(0, 4, 4), "blocks of the way down"),
        (checks.valid_size, through(4, 4, 0), "blocks of the way up"),
        (
            checks.valid_size,
            lambda size, n: through(4, 0, 4)(size + 4, n) - 4 * 2 ** (n - 1),
            "before the first pooling",
        ),
        (checks.valid_size, through(4, 4, 8), "doubled first"),
        (checks.valid_size, lambda size, n: size - 4 * (2 * n - 1), "worth several above"),
        (checks.valid_size, lambda size, n: 388, "write it for any size"),
        (checks.valid_size, lambda size, levels: size, "padded network"),
        (checks.valid_size, lambda size, levels: (size + 4) // 2 ** (levels - 1) - 8, "the map at the bottom"),
        (
            checks.valid_size,
            lambda size, levels: (((size + 4) // 2**levels - 8) - 4) * 2**levels + 4,
            "pooled once too often",
        ),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)


def test_an_unknown_mistake_gets_the_smallest_failing_case_and_no_hint():
    with pytest.raises(AssertionError) as info:
        checks.dice(lambda a, b: 0.123)
    text = str(info.value)
    assert "likely" not in text and "yours: 0.123" in text
    assert text.count("shape (2, 3)") == 2  # the smallest case of all


def test_pictures_are_told_by_their_shape_and_a_few_numbers():
    with pytest.raises(
        AssertionError, match=r"argument 1: shape \(2, 3, 4, 5\): \[ *0\. +1\. +2\. \.\.\. 117\."
    ) as info:
        checks.check("turned", lambda x: x, lambda x: -x, [(torch.arange(120.0).view(2, 3, 4, 5),)])
    assert len(str(info.value).splitlines()) == 5


def test_dice_in_an_answer_are_named():
    with pytest.raises(AssertionError, match="likely: two calls with the same arguments give different results"):
        checks.check("noise", lambda x: x + np.random.rand(), lambda x: x + 1, [(np.zeros(3),)])
    with pytest.raises(AssertionError) as info:
        checks.check("no noise", lambda x: x + 0.3, lambda x: x + 1, [(np.zeros(3),)])
    assert "two calls" not in str(info.value)


def test_only_the_cases_that_fail_are_shown():
    def wrong_when_large(a, b):
        return good_dice(a, b) if a.size < 30 else 0.5

    with pytest.raises(AssertionError, match=r"argument 1: shape \(7, 6\)"):
        checks.dice(wrong_when_large)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda a, b: None, "is there a return"),
        (lambda a, b: np.array([0.5]), r"expected a result of shape \(\), got \(1,\)"),
        (lambda a, b: float("nan"), "divided by zero"),
        (lambda a, b: "half", "expected numbers"),
        (lambda a, b: a.foo, "your function raised AttributeError"),
    ],
)
def test_answers_of_the_wrong_kind(wrong, says):
    with pytest.raises(AssertionError, match=says):
        checks.dice(wrong)


def test_an_answer_may_not_change_what_the_caller_holds():
    def greedy(a, b):
        result = good_dice(a, b)
        b[:] = False
        return result

    with pytest.raises(AssertionError, match="changes its argument 2 in place"):
        checks.dice(greedy)


def test_torch_answers_are_welcome():
    checks.border_weight(lambda a, b, w, s: 1 + w * torch.exp(-((torch.from_numpy(a + b)) ** 2) / (2 * s**2)))


def test_tensors_are_cases_like_any_other_and_stay_as_they_are(capsys):
    cases = [(torch.ones(3, 4), torch.zeros(3)), (torch.ones(1, 2), torch.ones(1))]
    checks.check("rows", lambda x, y: x.sum(1) + y, lambda x, y: x.sum(1) + y, cases)
    assert capsys.readouterr().out.startswith("✓ rows: 2 random cases")
    with pytest.raises(AssertionError, match=r"argument 1: shape \(1, 2\)"):  # the smallest case, unspoilt
        checks.check("rows", lambda x, y: x.zero_().sum(1) + y, lambda x, y: x.sum(1) + y, cases)
    assert cases[0][0].sum() == 12
