"""Exercises of lesson 13: right in several ways, wrong in likely ones."""

import pytest
import torch

from minildm import NoiseSchedule, checks
from minildm.stable_diffusion.successors import SD_3_MEDIUM, parameters


def expect(check, wrong, hint):
    with pytest.raises(checks.CheckFailed, match=f"likely: .*{hint}"):
        check(wrong)


def solved(x_t, x_next, a, s, a_next, s_next):
    eps = (a * x_next - a_next * x_t) / (a * s_next - s * a_next)
    return (x_next - s_next * eps) / a_next, eps


def by_matrix(x_t, x_next, a, s, a_next, s_next):
    mix = torch.tensor([[a, s], [a_next, s_next]], dtype=x_t.dtype)
    return torch.einsum("ij,j...->i...", mix.inverse(), torch.stack([x_t, x_next])).unbind()


@pytest.mark.parametrize("answer", [solved, by_matrix, lambda *call: list(solved(*call))])
def test_jump_pair_right(answer):
    assert checks.jump_pair(answer)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda *call: solved(*call)[::-1], "the other way round"),
        (lambda *call: tuple(-part for part in solved(*call)), "signs are turned around"),
        (
            lambda x, y, a, s, b, r: ((r * x - s * y) / (a * r + s * b), (a * y - b * x) / (a * r + s * b)),
            "a sum where",
        ),
        (lambda x, y, a, s, b, r: (r * x - s * y, a * y - b * x), "not divided"),
        (lambda x, y, a, s, b, r: solved(y, x, a, s, b, r), "mixed up"),
        (lambda x, y, a, s, b, r: (y, (x - a * y) / s), "no picture yet"),
        (lambda x, y, a, s, b, r: ((x - s / r * y) / (a - s / r * b), y), "s_next at the clean end"),
        (lambda x, y, a, s, b, r: (x, (y - b / a * x) / (r - b / a * s)), "a is 0 where all is noise"),
    ],
)
def test_jump_pair_wrong(answer, hint):
    with pytest.raises(checks.CheckFailed, match=hint):
        checks.jump_pair(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda t, shift: shift * t / (1 + (shift - 1) * t),
        lambda t, shift: shift * t / (1 - t + shift * t),
        lambda t, shift: 1 - (1 - t) / (1 - t + shift * t),
    ],
)
def test_shifted_time_right(answer):
    assert checks.shifted_time(answer)


def test_shifted_time_is_what_the_schedule_does():
    plain, moved = NoiseSchedule.flow(), NoiseSchedule.flow(shift=3)
    checked = (3 * plain.noise / (1 + 2 * plain.noise) - moved.noise).abs().max()
    assert checked < 1e-12


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda t, shift: shift * t, "t is multiplied"),
        (lambda t, shift: t / (shift + (1 - shift) * t), "turned around"),
        (lambda t, shift: shift * t / (1 - t), "the new noise per signal"),
        (lambda t, shift: (1 - t) / (1 - t + shift * t), "the new share of signal"),
        (lambda t, shift: shift**2 * t / (1 + (shift**2 - 1) * t), "squared"),
        (lambda t, shift: t**shift, "raised to a power"),
        (lambda t, shift: shift * t / (1 + shift * t), "not yet the noise per signal"),
        (lambda t, shift: shift * t / (1 + (shift + 1) * t), "a sign"),
        (lambda t, shift: (r := shift * t / (1 - t + 1e-3)) / (1 + r), "no small number"),
        (lambda t, shift: 3 * t / (1 + 2 * t), "always 3"),
    ],
)
def test_shifted_time_wrong(answer, hint):
    expect(checks.shifted_time, answer, hint)


def test_double_block_right():
    assert checks.double_block(lambda dim: 36 * dim**2 + 30 * dim)
    assert checks.double_block(lambda d: 2 * (4 * (d * d + d) + d * 6 * d + 6 * d + d * 4 * d + 4 * d + 4 * d * d + d))


def test_double_block_is_that_of_stable_diffusion_3():
    more, less = (parameters(SD_3_MEDIUM._replace(double=n)) for n in (25, 24))
    assert sum(more.values()) - sum(less.values()) == 36 * 1536**2 + 30 * 1536


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda dim: 18 * dim**2 + 15 * dim, "that is one stream"),
        (lambda dim: 36 * dim**2, "biases are missing"),
        (lambda dim: 24 * dim**2 + 18 * dim, "modulation is missing"),
        (lambda dim: 30 * dim**2 + 24 * dim, "each has its own"),
        (lambda dim: 32 * dim**2 + 26 * dim, "meet in one attention"),
        (lambda dim: 36 * dim**2 + 38 * dim, "no weights of their own"),
        (lambda dim: 36 * dim**2 + 20 * dim, "a bias for each number that comes out"),
        (lambda dim: 36 * dim**2 + 36 * dim, "a bias for each number that comes out"),
        (lambda dim: 36 * 1536**2 + 30 * 1536, "for dim = 1536"),
    ],
)
def test_double_block_wrong(answer, hint):
    expect(checks.double_block, answer, hint)


@pytest.mark.parametrize("check", [checks.jump_pair, checks.shifted_time, checks.double_block])
def test_what_is_not_written_does_not_pass(check):
    def stub(*arguments):
        raise NotImplementedError

    assert not check(stub)
    with pytest.raises(checks.CheckFailed):
        check(stub, strict=True)
