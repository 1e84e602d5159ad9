"""Homework 2: right but unusual answers pass, wrong ones are caught with a hint that fits."""

import warnings

import numpy as np
import pytest
import torch
from homework import Assignment

from minildm import NoiseSchedule, samplers
from minildm.checks import CheckFailed, homework_2

BOOK = Assignment("2_schedules")


def expit(x):
    return 1 / (1 + np.exp(-x))


def good_levels(log_snr):
    x = torch.as_tensor(log_snr, dtype=torch.float64)
    return torch.sigmoid(x).sqrt(), torch.sigmoid(-x).sqrt()


def with_changed_argument(log_snr):
    log_snr /= 2
    return good_levels(2 * log_snr)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("is a root missing", lambda x: (expit(x), expit(-x))),
        ("a square, a sign or a swap", lambda x: good_levels(x)[::-1]),
        ("a square, a sign or a swap", lambda x: good_levels(2 * x)),
        ("a square, a sign or a swap", lambda x: good_levels(x * np.log(10))),
        ("1 minus nearly 1", lambda x: (expit(x) ** 0.5, (1 - expit(x)) ** 0.5)),
        ("overflow|NaN|infinity|in your result", lambda x: ((np.exp(x) / (1 + np.exp(x))) ** 0.5, expit(-x) ** 0.5)),
        ("two arrays", lambda x: good_levels(x)[0]),
        ("in place", with_changed_argument),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(overflow|invalid|divide).*:RuntimeWarning")
def test_wrong_levels_are_caught(hint, answer):
    BOOK.refuses("levels", hint, levels=answer)


@pytest.mark.parametrize("answer", [good_levels, lambda x: list(good_levels(x)), lambda x: np.stack(good_levels(x))])
def test_right_levels_pass(answer):
    BOOK.accepts("levels", levels=answer)


def brightness(apart=2 / 3, many=lambda n: 3 * n * n, power=1, root=lambda n: n**0.5):
    return lambda a, s, n: apart * (a / s) ** power * root(many(n))


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("greys lie at -1/3 and .1/3: how far", brightness(1 / 3)),
        ("likely: compare with a thousand pictures", brightness(2)),
        ("three channels.*thousand pictures", brightness(many=lambda n: n * n)),
        ("nine times as many", brightness(many=lambda n: 3 * n)),
        ("nine times as many", brightness(root=lambda n: n)),
        ("nine times as many", brightness(many=lambda n: 1)),
        ("twice the signal", brightness(power=2)),
        ("twice the noise", lambda a, s, n: 2 / 3 * a * (3 * n * n) ** 0.5),
        ("returned None", lambda a, s, n: None),
    ],
)
def test_a_wrong_brightness_is_caught(hint, answer):
    BOOK.refuses("brightness-left", hint, brightness_left=answer)


@pytest.mark.parametrize(
    "answer",
    [
        brightness(),
        lambda a, s, n: torch.tensor(2 * n / 3**0.5 * a / s),
        lambda a, s, n: np.float64(brightness()(a, s, n)),
    ],
)
def test_a_right_brightness_passes(answer):
    BOOK.accepts("brightness-left", brightness_left=answer)


def stretched(root=0.5, first=True, wanted=0.5):
    def answer(left, last):
        x, goal = left**root, last**wanted
        low = (x - x[-1]) / (x[0] - x[-1])
        return np.maximum(goal + low * ((x[0] if first else 1) - goal), 0) ** (1 / root)

    return answer


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("root of alphas_cumprod", stretched(root=1, wanted=1)),
        ("no root", stretched(wanted=1)),
        ("first value stays", stretched(first=False)),
        ("first value stays", lambda left, last: (left**0.5 - left[-1] ** 0.5 + last**0.5) ** 2),
        ("stretched evenly", lambda left, last: np.append(left[:-1], last)),
        ("first value stays|is to be `last`", lambda left, last: stretched()(left, last) ** 0.5),
        ("package's own|shape|raised", lambda left, last: package_s(left)),
        ("no root", lambda left, last: stretched()(left, 0.0)),
        ("a line over the \\*steps", lambda left, last: np.linspace(left[0], last, len(left))),
        ("a line over the \\*steps", lambda left, last: np.linspace(left[0] ** 0.5, last**0.5, len(left)) ** 2),
    ],
)
def test_a_wrong_end_is_caught(hint, answer):
    BOOK.refuses("end-at", hint, end_at=answer)


def package_s(left):
    schedule = NoiseSchedule(torch.tensor(left).sqrt(), (1 - torch.tensor(left)).sqrt())
    return schedule.zero_terminal_snr().signal.square()


@pytest.mark.parametrize("answer", [stretched(), lambda left, last: torch.tensor(stretched()(left, last))])
def test_a_right_end_passes(answer):
    BOOK.accepts("end-at", end_at=answer)


def sampled(square=2, clean=True, start=lambda p: 1.0, turn=1, wiener=lambda a, p: a * p / (a * a * p + 1 - a * a)):
    """By angles: signal is the cosine, noise the sine."""

    def answer(power, left, timesteps):
        angles = [np.arccos(np.sqrt(left[t])) for t in timesteps[::turn]] + [0.0] * clean
        x = start(power) * np.ones(len(power))
        for now, then in zip(angles, angles[1:], strict=False):
            x0_hat = wiener(np.cos(now), power)
            x = x * (np.cos(then) * x0_hat + np.sin(then) * (1 - np.cos(now) * x0_hat) / np.sin(now))
        return x**square

    return answer


def by_lesson_04(levels=lambda left, t: left[t] ** 0.5, noise=lambda left, t: (1 - left[t]) ** 0.5, one_below=False):
    """As lesson 04's ddim_step has it: eps from the denoiser's x0_hat first, and x0_hat from eps again."""

    def answer(power, left, timesteps):
        x = np.ones(len(power))
        for k, t in enumerate(timesteps):
            a, s = levels(left, t), noise(left, t)
            eps_hat = (x - a * (a * power / (a * a * power + s * s) * x)) / s
            ended = k + 1 == len(timesteps)
            then = t - 1 if one_below else timesteps[k + 1 - ended]
            b, r = (1, 0) if ended else (levels(left, then), noise(left, then))
            x = b * (x - s * eps_hat) / a + r * eps_hat
        return x**2

    return answer


def whole(left, t):
    return left[t]


def by_the_package(power, left, timesteps):
    left = torch.tensor(left)
    schedule, x = NoiseSchedule(left.sqrt(), (1 - left).sqrt(), "x_0"), torch.ones(1, 1, 1, len(power)).double()
    *_, last = samplers.ddim(lambda x_t, t: x_t, schedule, x, timesteps=list(timesteps))
    return last.x_t.flatten() ** 2


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("signal 0.*divides by the signal", by_lesson_04()),
        ("the next one of the list", by_lesson_04(one_below=True)),
        ("where its root, the signal, belongs", by_lesson_04(levels=whole)),
        ("where its root, the signal, belongs", by_lesson_04(levels=whole, noise=lambda left, t: 1 - left[t])),
        (
            "where its root, the signal, belongs",
            by_lesson_04(levels=whole, noise=lambda left, t: (1 - left[t] ** 2) ** 0.5),
        ),
        ("leaves the work to the package", by_the_package),
        ("variances, not roots|the square", sampled(square=1)),
        ("after the last the clean picture|variance is signal²|clean picture", sampled(clean=False)),
        ("whatever the power|variance is signal²|DDIM step|2,000 calls", sampled(start=np.sqrt)),
        ("go down from noise|two calls|DDIM step", sampled(turn=-1)),
        ("does not divide by the signal", sampled(wiener=lambda a, p: a * a * p / (a * a * p + 1 - a * a))),
        (
            "without their squares|variance is signal²",
            sampled(wiener=lambda a, p: a * p / (a * p + (1 - a * a) ** 0.5)),
        ),
        ("power 0|one variance|variance is signal²", lambda p, left, t: p + 1),
        ("with half the calls|one call|signal²", lambda p, left, t: p),
        ("one variance for each wave", lambda p, left, t: sampled()(p, left, t).sum()),
    ],
)
def test_wrong_samples_are_caught(hint, answer):
    BOOK.refuses("sampled-power", hint, sampled_power=answer)


def by_simulation(power, left, timesteps):
    """In torch, as complex amplitudes, two waves of noise at once."""
    p, x = torch.tensor(power), torch.stack([torch.ones(len(power)), 1j * torch.ones(len(power))]).to(torch.complex128)
    for k, t in enumerate(timesteps):
        a, s = left[t] ** 0.5, (1 - left[t]) ** 0.5
        x0_hat = torch.einsum("n,kn->kn", a * p / (a * a * p + s * s), x)
        then = left[timesteps[k + 1]] if k + 1 < len(timesteps) else 1.0
        x = then**0.5 * x0_hat + (1 - then) ** 0.5 * (x - a * x0_hat) / s
    return x.abs().square().mean(0)


@pytest.mark.parametrize("answer", [sampled(), by_simulation])
def test_right_samples_pass(answer):
    BOOK.accepts("sampled-power", sampled_power=answer)


def line(high, low, end=None, half=False):
    def answer(steps):
        left = expit(np.linspace(high, low, steps))
        return left if end is None else stretched()(left, end)

    return answer


def of(schedule):
    return lambda steps: schedule(steps).alphas_cumprod


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("coarse waves", lambda steps: stretched()(NoiseSchedule.cosine(steps).alphas_cumprod.numpy(), 0.0)),
        ("fine waves|first log SNR", of(lambda steps: NoiseSchedule.cosine(steps, shift=4))),
        ("first log SNR is 4", line(4, -10, 0.0)),
        ("shows through", line(8, -6)),
        ("shows through", line(8, -12)),
        ("shows through", line(8, -14.5)),
        ("falls from step to step", lambda steps: line(8, -10, 0.0)(steps)[::-1]),
        ("between 0 and 1", lambda steps: 1 - line(8, -10, 0.0)(steps)),
        ("400 numbers", lambda steps: line(8, -10, 0.0)(1000)),
        (
            "waves are off",
            lambda steps: np.concatenate([line(9, 6)(steps // 2), line(6, -40)(steps - steps // 2)]),
        ),
        ("fine waves", line(6, -10, 0.0)),
    ],
)
def test_a_wrong_schedule_is_caught(hint, answer):
    BOOK.refuses("my-schedule", hint, my_schedule=answer)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("25 calls in 1000 steps the coarse waves are off by -0.9", of(NoiseSchedule.cosine)),
        ("fine waves are off by -2", of(lambda steps: NoiseSchedule.cosine(steps, shift=4))),
        ("coarse waves are off", lambda steps: np.linspace(0.9999, 0, steps)),
        ("waves are off", line(6, -14.7)),
        ("the last log SNR is -12.0: the mean of 49,152 numbers still shows", line(8, -12)),
    ],
)
def test_what_is_in_sight_measures_the_waves(hint, answer):
    with pytest.raises(CheckFailed, match=hint):
        BOOK.visible("my-schedule", my_schedule=answer)


@pytest.mark.parametrize(
    "answer", [line(8, -10, 0.0), line(8.5, -9, 0.0), lambda steps: torch.tensor(line(9, -10, 1e-9)(steps)).float()]
)
def test_different_schedules_pass(answer):
    BOOK.accepts("my-schedule", my_schedule=answer)


def test_a_right_answer_that_overflows_far_out_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert homework_2.levels(lambda x: ((1 / (1 + np.exp(-x))) ** 0.5, (1 / (1 + np.exp(x))) ** 0.5))


def test_what_is_handed_out_runs_to_its_end(tmp_path):
    """Cells after a part that is not written say so, and do not stop the notebook."""
    assert BOOK.handed_out(tmp_path).count("not written yet") == 5 + 5
