import math

import pytest

from minildm import NoiseSchedule, checks, samplers


def good_trailing(total, steps):
    return samplers.spaced(NoiseSchedule.linear(total), steps)


def good_step(x0_hat, eps_hat, z, kept, kept_next):
    fresh = (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)
    return kept_next**0.5 * x0_hat + (1 - kept_next - fresh) ** 0.5 * eps_hat + fresh**0.5 * z


@pytest.mark.parametrize(
    "check, answer",
    [
        (checks.trailing, good_trailing),
        (checks.ddpm_step, good_step),
        (checks.to_sigma, lambda kept: (1 / kept - 1) ** 0.5),
        (checks.from_sigma, lambda sigma: 1 / (1 + sigma**2)),
    ],
)
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_the_step_that_passes_is_the_sampler_s():
    """At x0_hat = 2, eps_hat = -1, z = 0.5, from 0.36 to 0.64: samplers.ddpm is tested against these numbers, too."""
    fresh = 0.36 / 0.64 * 0.4375
    expected = 0.8 * 2 - math.sqrt(0.36 - fresh) + math.sqrt(fresh) * 0.5
    assert good_step(2.0, -1.0, 0.5, 0.36, 0.64) == pytest.approx(expected)


def step(signal=1.0, old=1.0, new=1.0):
    """The right step with other roots: signal, old and new are twice the powers of the three variances."""

    def answer(x0_hat, eps_hat, z, kept, kept_next):
        fresh = (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)
        return (
            kept_next ** (signal / 2) * x0_hat + (1 - kept_next - fresh) ** (old / 2) * eps_hat + fresh ** (new / 2) * z
        )

    return answer


def last_noise(x0_hat, eps_hat, z, kept, kept_next):
    return good_step(x0_hat, eps_hat, z, kept, kept_next) + (math.sqrt(1 - kept) * z if kept_next == 1 else 0)


def on_top(x0_hat, eps_hat, z, kept, kept_next):
    fresh = (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)
    return kept_next**0.5 * x0_hat + (1 - kept_next) ** 0.5 * eps_hat + fresh**0.5 * z


def first_factor(x0_hat, eps_hat, z, kept, kept_next):
    fresh = 1 - kept / kept_next if kept_next < 1 else 0
    return kept_next**0.5 * x0_hat + (1 - kept_next - fresh) ** 0.5 * eps_hat + fresh**0.5 * z


def old_proportions(x0_hat, eps_hat, z, kept, kept_next):
    fresh = (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)
    return kept**0.5 * x0_hat + (1 - kept - fresh) ** 0.5 * eps_hat + fresh**0.5 * z


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.trailing, lambda total, n: list(range(total, 0, -total // n)), "past the end"),
        (checks.trailing, lambda total, n: good_trailing(total, n)[::-1], "ascending"),
        (checks.trailing, lambda total, n: list(range(0, total, total // n))[::-1], "leading"),
        (checks.trailing, lambda total, n: list(range(total))[::-1][:n], "span the whole schedule"),
        (checks.ddpm_step, step(signal=2), "missing before x0_hat"),
        (checks.ddpm_step, step(old=2), "before eps_hat"),
        (checks.ddpm_step, step(new=2), "before z"),
        (checks.ddpm_step, step(2, 2, 2), "no square roots at all"),
        (checks.ddpm_step, lambda x, e, z, k, n: good_step(e, x, z, k, n), "swapped"),
        (checks.ddpm_step, last_noise, "at the last step"),
        (checks.ddpm_step, on_top, "on top of all the old"),
        (checks.ddpm_step, lambda x, e, z, k, n: n**0.5 * x + (1 - n) ** 0.5 * e, "this is DDIM"),
        (checks.ddpm_step, old_proportions, "those of t"),
        (checks.ddpm_step, first_factor, "first factor"),
        (checks.to_sigma, lambda k: 1 / k - 1, "sigma squared"),
        (checks.to_sigma, lambda k: (1 - k) ** 0.5, "divided by its signal"),
        (checks.to_sigma, lambda k: (k / (1 - k)) ** 0.5, "noise per signal"),
        (checks.to_sigma, lambda k: k / (1 - k), "signal-to-noise ratio"),
        (checks.to_sigma, lambda k: (1 - k) ** 0.5 / k, "is its square root"),
        (checks.from_sigma, lambda s: 1 / (1 + s), "not squared"),
        (checks.from_sigma, lambda s: (1 + s**2) ** -0.5, "this is the signal"),
        (checks.from_sigma, lambda s: s**2 / (1 + s**2), "share of the noise"),
        (checks.from_sigma, lambda s: 1 - s**2, "not per signal"),
        (checks.from_sigma, lambda s: s**-2, "signal-to-noise"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)


@pytest.mark.parametrize("check", [checks.trailing, checks.ddpm_step, checks.to_sigma, checks.from_sigma])
def test_a_stub_is_left_alone(check, capsys):
    def stub(*arguments):
        raise NotImplementedError

    check(stub)
    assert capsys.readouterr().out == f"– {check.__name__}: not written yet\n"
