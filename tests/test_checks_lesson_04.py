import pytest
import torch

from minildm import NoiseSchedule, checks, samplers


def good_trailing(total, steps):
    return list(range(total - 1, -1, -total // steps))


def inversion(signal=0.5, noise=0.5, divide=0.5, remove=1.0, add=1.0):
    """The step with other powers of the signal and the noise at the end, and of the signal at the start."""

    def answer(x_t, eps_hat, now, then):
        x0_hat = (x_t - remove * (1 - now) ** 0.5 * eps_hat) / now**divide
        return then**signal * x0_hat + add * (1 - then) ** noise * eps_hat

    return answer


good_inversion = inversion()


@pytest.mark.parametrize("total, steps", [(6, 3), (10, 1), (1000, 8)])
def test_the_timesteps_that_pass_are_the_package_s(total, steps):
    assert good_trailing(total, steps) == samplers.timesteps(NoiseSchedule.linear(total), steps)


@pytest.mark.parametrize("check, answer", [(checks.trailing, good_trailing), (checks.ddim_inversion, good_inversion)])
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def test_the_inversion_that_passes_undoes_a_step_of_ddim():
    """A denoiser that always says the same noise is asked on the way down; the way up must end where it began."""
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, generator=generator)
    schedule = NoiseSchedule.cosine()
    _, after, _ = samplers.ddim(lambda x_t, t: eps, schedule, x, timesteps=[700, 400])
    now, then = (schedule.alphas_cumprod[t].item() for t in (400, 700))
    torch.testing.assert_close(good_inversion(after.x_t, eps, now, then), x)


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.trailing, lambda total, n: list(range(total, 0, -total // n)), "past the end"),
        (checks.trailing, lambda total, n: good_trailing(total, n)[::-1], "ascending"),
        (checks.trailing, lambda total, n: list(range(0, total, total // n))[::-1], "leading"),
        (checks.trailing, lambda total, n: list(range(0, total, total // n)), "leading"),
        (checks.trailing, lambda total, n: torch.linspace(total - 1, 0, n), "linspace"),
        (checks.trailing, lambda total, n: list(range(total))[::-1][:n], "span the whole schedule"),
        (checks.trailing, lambda total, n: torch.linspace(total - 1, 0, n).round().int(), "linspace"),
        (checks.trailing, lambda total, n: torch.linspace(0, total - 1, n).int().flip(0), "linspace"),
        (checks.trailing, lambda total, n: list(range(total - 1, 0, -total // n)), "range ends before"),
        (checks.trailing, lambda total, n: list(range(total - 1, -1, -n)), "`steps` is how many"),
        (checks.trailing, lambda total, n: [*good_trailing(total, n), 0], "one timestep too many"),
        (checks.trailing, lambda total, n: [*good_trailing(total, n), -1], "one timestep too many"),
        (checks.trailing, lambda total, n: list(range(total - 1, -1, -total / n)), "divide with //"),
        (checks.trailing, lambda total, n: samplers.timesteps(NoiseSchedule.linear(total), n), "write it yourself"),
        (checks.ddim_inversion, lambda x, e, now, then: then**0.5 * x + (1 - then) ** 0.5 * e, "for the clean picture"),
        (
            checks.ddim_inversion,
            lambda x, e, now, then: x + ((1 - then) ** 0.5 - (1 - now) ** 0.5) * e,
            "laid on top of x_t",
        ),
        (checks.ddim_inversion, inversion(remove=0), "not taken out"),
        (checks.ddim_inversion, inversion(remove=-1), "a sign: x_t holds the noise already"),
        (checks.ddim_inversion, inversion(add=-1), "a sign at the end"),
        (checks.ddim_inversion, inversion(remove=-1, add=-1), "two signs"),
        (checks.ddim_inversion, inversion(divide=0), "not divided"),
        (checks.ddim_inversion, inversion(divide=1), "divided by now"),
        (
            checks.ddim_inversion,
            lambda x, e, now, then: then * (x - (1 - now) * e) / now + (1 - then) * e,
            "no square roots at all",
        ),
        (checks.ddim_inversion, inversion(signal=1), "square root of then is missing"),
        (checks.ddim_inversion, inversion(noise=1), "square root of 1 - then is missing"),
        (
            checks.ddim_inversion,
            lambda x, e, now, then: then**0.5 * e + (1 - then) ** 0.5 * (x - (1 - now) ** 0.5 * e) / now**0.5,
            "coefficients .* swapped",
        ),
        (checks.ddim_inversion, lambda x, e, now, then: good_inversion(x, e, now, now), "those of now"),
        (checks.ddim_inversion, lambda x, e, now, then: good_inversion(x, e, then, now), "now and then are swapped"),
        (
            checks.ddim_inversion,
            lambda x, e, now, then: (then / now) ** 0.5 * x + (1 - then / now) ** 0.5 * e,
            "forward chain",
        ),
        (checks.ddim_inversion, lambda x, e, now, then: (x - (1 - then) ** 0.5 * e) / then**0.5, "the wrong level"),
        (checks.ddim_inversion, lambda x, e, now, then: (x - (1 - now) ** 0.5 * e) / now**0.5, "that is x0_hat; mix"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=hint if hint == "write it yourself" else f"likely: .*{hint}"):
        check(wrong)
