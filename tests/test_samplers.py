"""Samplers against diffusers' schedulers, against exact denoisers whose answer is known, and against their contract."""

import inspect
import math
from fractions import Fraction
from itertools import pairwise, product

import diffusers
import pytest
import torch

from minildm import samplers
from minildm.schedule import PREDICTS, NoiseSchedule

# diffusers hands tensors to numpy in a way that numpy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ALL = [samplers.ddpm, samplers.ddim, samplers.euler, samplers.heun, samplers.dpm_solver_2m]
SPACINGS = ["leading", "linspace", "trailing"]
SCHEDULES = {  # with the settings that make diffusers' the same
    "linear": (NoiseSchedule.linear(), {"beta_start": 1e-4, "beta_end": 0.02}),
    "scaled_linear": (NoiseSchedule.scaled_linear(), {"beta_start": 0.00085, "beta_end": 0.012}),
    "squaredcos_cap_v2": (NoiseSchedule.cosine(), {}),
}
LINEAR = NoiseSchedule.linear()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Oracle:
    """The exact denoiser of a few points, each blurred by a Gaussian of width `blur`; it remembers its calls."""

    def __init__(self, schedule, points, blur=0.0, predicts="x_0"):
        self.levels, self.points, self.blur, self.predicts, self.calls = schedule, points, blur, predicts, []

    def __call__(self, x_t, t):
        self.calls.append(t)
        x = x_t.double().flatten(1)  # (b, d)
        a, s = self.levels.signal[t][:, None], self.levels.noise[t][:, None]
        variance = s**2 + (a * self.blur) ** 2
        distance = (x[:, None] - a[:, None] * self.points).square().sum(-1)  # (b, points)
        mean = torch.softmax(-distance / (2 * variance), 1) @ self.points
        x_0 = mean + a * self.blur**2 / variance * (x - a * mean)
        eps = (x - a * x_0) / s
        said = {"x_0": x_0, "eps": eps, "v": a * eps - s * x_0, "flow": eps - x_0}[self.predicts]
        return said.reshape(x_t.shape).to(x_t.dtype)


POINTS = torch.rand(5, 2 * 3 * 4, generator=seeded(0), dtype=torch.float64) * 2 - 1
X_T = torch.randn(3, 2, 3, 4, generator=seeded(1))


def finish(steps):
    return list(steps)[-1].x_t


def reference(sampler, model, name, x_T, path, generator, tables=None, **options):
    """The finished sample of diffusers, along the same timesteps from the same noise."""
    predicts = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}[model.predicts]
    settings = dict(beta_schedule=name, prediction_type=predicts, **SCHEDULES[name][1])
    ask = lambda x, t: model(x, torch.full((len(x),), int(t)))  # noqa: E731
    x = x_T
    if sampler in (samplers.ddpm, samplers.ddim):
        if sampler is samplers.ddpm:
            scheduler = diffusers.DDPMScheduler(variance_type=f"fixed_{options.pop('variance')}", **settings)
            scheduler.set_timesteps(timesteps=path)
        else:
            scheduler = diffusers.DDIMScheduler(**settings)
        scheduler.register_to_config(clip_sample=False)
        if tables is not None:
            scheduler.alphas_cumprod = tables
        for t, t_next in pairwise([*path, -1]):
            if sampler is samplers.ddim:  # it goes to t - T // steps, which is the next timestep only if all divides
                scheduler.num_inference_steps = Fraction(1000, t - t_next)
            x = scheduler.step(ask(x, t), t, x, generator=generator, **options).prev_sample
        return x
    if sampler is samplers.dpm_solver_2m:
        scheduler = diffusers.DPMSolverMultistepScheduler(**settings)
        scheduler.set_timesteps(timesteps=path)
    else:
        kind = diffusers.EulerDiscreteScheduler if sampler is samplers.euler else diffusers.HeunDiscreteScheduler
        scheduler = kind(**settings)
        scheduler.set_timesteps(timesteps=path)
        x = x_T * (scheduler.sigmas[0] ** 2 + 1) ** 0.5  # their x is ours divided by sqrt(alphas_cumprod)
    for t in scheduler.timesteps:
        x = scheduler.step(ask(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


VARIANTS = [
    (samplers.ddpm, {"variance": "small"}, 1e-4),
    (samplers.ddpm, {"variance": "large"}, 1e-4),
    (samplers.ddim, {}, 1e-5),
    (samplers.ddim, {"eta": 0.5}, 1e-5),
    (samplers.ddim, {"eta": 1.0}, 1e-5),
    (samplers.euler, {}, 1e-4),
    (samplers.heun, {}, 1e-4),
    (samplers.dpm_solver_2m, {}, 1e-4),
]


@pytest.mark.parametrize("predicts", PREDICTS[:3])  # diffusers' schedulers know no more
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("sampler", "options", "tolerance"), VARIANTS, ids=lambda v: getattr(v, "__name__", str(v)).replace("'", "")
)
def test_equals_the_reference(sampler, options, tolerance, name, predicts):
    schedule = SCHEDULES[name][0]
    # Smooth, for a sharp one sends two samples that differ by rounding to different points.
    model = Oracle(schedule, POINTS, blur=0.5, predicts=predicts)
    for spacing, steps in [*product(SPACINGS, [6]), ("trailing", 4), ("leading", 20)]:
        path = samplers.timesteps(schedule, steps, spacing)
        if name == "squaredcos_cap_v2" and path[0] > 990:
            path[0] = 990  # at 999 sigma is 20,000, and the float32 of the reference keeps two digits of x / a
        if path[-1] > 0 and options.get("variance") == "large":
            path = [*path, 0]  # where the last step is not from 0, the reference adds noise there
        ours = finish(sampler(model, schedule, X_T, timesteps=path, predicts=predicts, generator=seeded(4), **options))
        theirs = reference(sampler, model, name, X_T, path, seeded(4), **options)
        assert (ours - theirs).abs().max() <= tolerance, (spacing, steps)


@pytest.mark.parametrize("predicts", PREDICTS[:3])
@pytest.mark.parametrize(("sampler", "options"), [v[:2] for v in VARIANTS[:5]])
def test_in_double_precision_the_reference_agrees_to_the_last_digits(sampler, options, predicts):
    for name, (schedule, _) in SCHEDULES.items():
        model = Oracle(schedule, POINTS, predicts=predicts)
        path = samplers.timesteps(schedule, 7, "linspace")
        x_T, tables = X_T.double(), schedule.alphas_cumprod
        ours = finish(sampler(model, schedule, x_T, timesteps=path, predicts=predicts, generator=seeded(4), **options))
        theirs = reference(sampler, model, name, x_T, path, seeded(4), tables, **options)
        assert (ours - theirs).abs().max() <= 1e-8, name


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spacings_are_the_references(spacing):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    for steps in [2, 3, 5, 6, 7, 10, 24, 50, 97, 333, 500, 999, 1000]:
        scheduler.set_timesteps(steps)
        assert samplers.timesteps(LINEAR, steps, spacing) == scheduler.timesteps.tolist(), steps
    offset = diffusers.DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    offset.set_timesteps(50)
    assert samplers.timesteps(LINEAR, 50, "leading", offset=1) == offset.timesteps.tolist()


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 10), ("trailing", 25)])
def test_ddim_is_the_references_without_any_help(spacing, steps):
    model = Oracle(LINEAR, POINTS, blur=0.5, predicts="eps")
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(steps)
    x = X_T
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(3)), t, x).prev_sample
    assert (finish(samplers.ddim(model, LINEAR, X_T, steps, spacing=spacing)) - x).abs().max() <= 1e-5


def test_spacings_by_hand():
    schedule = NoiseSchedule.linear(10)
    assert samplers.timesteps(schedule, 4, "leading") == [6, 4, 2, 0]
    assert samplers.timesteps(schedule, 4, "linspace") == [9, 6, 3, 0]
    assert samplers.timesteps(schedule, 4, "trailing") == [9, 7, 4, 1]
    assert samplers.timesteps(schedule, 1) == [9]
    assert samplers.timesteps(schedule, 10) == list(range(9, -1, -1))


@pytest.mark.parametrize("steps", [1, 5, 10, 25, 50, 60])
def test_karras_steps_are_those_of_lesson_04(steps):
    schedule = SCHEDULES["squaredcos_cap_v2"][0]
    sigma = (1 / schedule.alphas_cumprod - 1).sqrt()
    high, low = sigma[990].item(), sigma[0].item()
    wanted = torch.linspace(high ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64) ** 7
    expected = sorted({int((sigma[:991] - s).abs().argmin()) for s in wanted}, reverse=True)
    assert samplers.timesteps(schedule, steps, "karras") == expected
    if steps == 5:
        assert expected == [990, 962, 784, 154, 0]


def test_karras_steps_are_the_nearest_to_the_references():
    schedule, settings = SCHEDULES["scaled_linear"]
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", use_karras_sigmas=True, **settings)
    for steps in (2, 10, 25):
        scheduler.set_timesteps(steps)
        found = samplers.timesteps(schedule, steps, "karras")
        pairs = list(zip(found, scheduler.timesteps.tolist(), strict=True))
        assert max(abs(mine - theirs) for mine, theirs in pairs) < 1, pairs


@pytest.mark.parametrize("schedule", [NoiseSchedule.linear(10), NoiseSchedule.flow(40)], ids=repr)
def test_karras_steps_on_a_short_schedule(schedule):
    """Each timestep once, from the first to the last that has a ratio up to 80."""
    found = samplers.timesteps(schedule, len(schedule), "karras")
    assert all(t > then for t, then in pairwise(found)) and found[-1] == 0
    sigma = schedule.noise / schedule.signal
    assert sigma[found[0]] <= 80 and not (sigma[found[0] + 1 :] <= 80).any()
    model = Oracle(schedule, POINTS, blur=0.5, predicts="v")
    steps = samplers.dpm_solver_2m(model, schedule, X_T, 5, spacing="karras", predicts="v")
    assert [step.t for step in steps] == [*samplers.timesteps(schedule, 5, "karras"), -1]


def test_one_step_by_hand():
    """From alphas_cumprod 0.36 to 0.64: a = 0.6, s = 0.8; then a' = 0.8, s' = 0.6. x_0 = 2 and eps = -1 give x_t."""
    schedule = NoiseSchedule.from_betas([1 - 0.64, 1 - 0.36 / 0.64])
    x_t = torch.tensor([[0.6 * 2 - 0.8]])
    settings = dict(denoise=lambda x, t: torch.tensor([[2.0]]), schedule=schedule, x_T=x_t, predicts="x_0")
    step = {f.__name__: list(f(timesteps=[1, 0], generator=seeded(0), **settings))[1].x_t.item() for f in ALL}
    z = torch.randn(1, 1, generator=seeded(0)).item()
    assert step["ddim"] == step["euler"] == pytest.approx(0.8 * 2 - 0.6)
    alpha, beta = 0.5625, 0.4375
    mean = 0.8 * beta / 0.64 * 2 + 0.75 * 0.36 / 0.64 * 0.4
    assert step["ddpm"] == pytest.approx(mean + math.sqrt(0.36 / 0.64 * beta) * z)
    large = list(samplers.ddpm(timesteps=[1, 0], generator=seeded(0), variance="large", **settings))[1].x_t.item()
    assert large == pytest.approx(mean + math.sqrt(beta) * z)
    assert step["dpm_solver_2m"] == pytest.approx(0.75 * 0.4 + 0.8 * (1 - alpha) * 2)
    eps_next = (0.8 * 2 - 0.6 - 0.8 * 2) / 0.6  # Heun's second look, at Euler's step
    assert step["heun"] == pytest.approx(0.8 * (0.4 / 0.6 + (0.75 - 4 / 3) * (-1 + eps_next) / 2))


def test_order_of_convergence():
    """On the exact denoiser of six points, against the same flow solved finely: error ~ steps ** -order."""
    T = 8192  # a fine schedule, so that many step sizes are whole numbers of timesteps
    schedule = NoiseSchedule.linear(T, 1e-4 * 1000 / T, 0.02 * 1000 / T)
    model = Oracle(schedule, torch.randn(6, 2, generator=seeded(3), dtype=torch.float64))
    x_T = torch.randn(64, 2, generator=seeded(5), dtype=torch.float64)

    def solve(sampler, steps):  # from T - 1 to T / 8, where the last step, to the clean picture, begins
        path = [round(T - 1 + (T // 8 - T + 1) * i / steps) for i in range(steps + 1)]
        return list(sampler(model, schedule, x_T, timesteps=path, predicts="x_0"))[-2].x_t

    truth = solve(samplers.heun, 2048)
    for sampler, expected in [
        (samplers.ddim, 1),
        (samplers.euler, 1),
        (samplers.heun, 2),
        (samplers.dpm_solver_2m, 2),
    ]:
        coarse, fine = ((solve(sampler, steps) - truth).abs().mean().item() for steps in (32, 256))
        assert math.log(coarse / fine, 8) == pytest.approx(expected, abs=0.1), sampler.__name__


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_samples_the_right_spread(variance):
    """With the exact denoiser of one Gaussian every x_t is Gaussian, so its variance follows step by step."""
    width = 0.7
    model = Oracle(LINEAR, torch.zeros(1, 1, dtype=torch.float64), blur=width)

    def spread(steps):
        found = 1.0  # the variance of x_T
        for t, t_next in pairwise([*samplers.timesteps(LINEAR, steps), -1]):
            kept, kept_next = (
                LINEAR.alphas_cumprod[t].item(),
                LINEAR.alphas_cumprod[t_next].item() if t_next >= 0 else 1,
            )
            shrink = math.sqrt(kept) * width**2 / (1 - kept + kept * width**2)  # x0_hat = shrink * x_t
            beta = 1 - kept / kept_next
            mean = math.sqrt(kept_next) * beta / (1 - kept) * shrink
            mean += math.sqrt(1 - beta) * (1 - kept_next) / (1 - kept)
            fresh = beta * ((1 - kept_next) / (1 - kept) if variance == "small" else kept_next < 1)
            found = mean**2 * found + fresh
        return math.sqrt(found)

    x_T = torch.randn(20_000, 1, generator=seeded(2), dtype=torch.float64)
    for steps in (10, 40):
        steps_taken = samplers.ddpm(model, LINEAR, x_T, steps, predicts="x_0", variance=variance, generator=seeded(6))
        assert finish(steps_taken).std().item() == pytest.approx(spread(steps), rel=0.02)
    assert spread(1000) == pytest.approx(width, rel=0.01)


@pytest.mark.parametrize("sampler", ALL)
def test_samples_are_data(sampler):
    """With an exact denoiser of a few points each sample is one of them, and every point is drawn."""
    model = Oracle(LINEAR, POINTS, predicts="v")
    x_T = torch.randn(40, POINTS.shape[1], generator=seeded(8), dtype=torch.float64)
    x_0 = finish(sampler(model, LINEAR, x_T, 25, predicts="v", generator=seeded(9)))
    distance, nearest = torch.cdist(x_0, POINTS).min(1)
    assert distance.max() <= 1e-3
    assert set(nearest.tolist()) == set(range(5))


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("predicts", PREDICTS)
def test_contract(sampler, predicts):
    model = Oracle(LINEAR, POINTS, blur=0.3, predicts=predicts)
    before = X_T.clone()
    steps = list(sampler(model, LINEAR, X_T, 5, predicts=predicts, generator=seeded(1)))
    assert [step.t for step in steps] == [999, 799, 599, 399, 199, -1]
    assert all(type(step.t) is int for step in steps)
    assert torch.equal(X_T, before) and torch.equal(steps[0].x_t, X_T)
    for call in model.calls:
        assert call.shape == (3,) and call.dtype == torch.int64 and len(call.unique()) == 1
    asked = [call[0].item() for call in model.calls]
    twice = [999, 799, 799, 599, 599, 399, 399, 199, 199]  # Heun looks again at where it arrives, but for the last
    assert asked == (twice if sampler is samplers.heun else [999, 799, 599, 399, 199])
    for t, x_t, x0_hat, eps_hat in steps:
        assert x_t.shape == x0_hat.shape == eps_hat.shape == X_T.shape
        kept = LINEAR.alphas_cumprod[t].item() if t >= 0 else 1.0
        made = math.sqrt(kept) * x0_hat + math.sqrt(1 - kept) * eps_hat
        torch.testing.assert_close(made, x_t, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(steps[-1].x_t, steps[-2].x0_hat, atol=1e-6, rtol=0)  # no noise at the last step


@pytest.mark.parametrize("sampler", ALL)
def test_steps_come_as_they_are_asked_for(sampler):
    model = Oracle(LINEAR, POINTS, predicts="eps")
    steps = sampler(model, LINEAR, X_T, 10)
    assert model.calls == []
    next(steps)
    assert len(model.calls) == 1


@pytest.mark.parametrize("sampler", ALL)
def test_timesteps_override_steps_and_spacing(sampler):
    model = Oracle(LINEAR, POINTS, blur=0.5, predicts="eps")
    path = samplers.timesteps(LINEAR, 4, "linspace")
    expected = finish(sampler(model, LINEAR, X_T, 4, spacing="linspace", generator=seeded(0)))
    for timesteps in (path, tuple(path), torch.tensor(path), torch.tensor(path).numpy()):
        found = sampler(model, LINEAR, X_T, 9, timesteps=timesteps, spacing="leading", generator=seeded(0))
        assert torch.equal(finish(found), expected)


@pytest.mark.parametrize("sampler", ALL)
def test_no_gradients_and_no_traces_of_it(sampler):
    weight = torch.ones(1, requires_grad=True)
    model = lambda x, t: 0.1 * weight * x  # noqa: E731
    for step in sampler(model, LINEAR, X_T, 3):
        assert torch.is_grad_enabled()  # between the steps the caller's own setting holds
        assert not any(part.requires_grad for part in step[1:])


@pytest.mark.parametrize("sampler", [samplers.ddpm, lambda *a, **k: samplers.ddim(*a, eta=1.0, **k)])
def test_randomness_is_the_callers(sampler):
    model = Oracle(LINEAR, POINTS, blur=0.5, predicts="eps")
    state = torch.get_rng_state()
    first, same, other = (finish(sampler(model, LINEAR, X_T, 4, generator=seeded(s))) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, same) and not torch.allclose(first, other, atol=1e-2)


def test_with_a_generator_each_samples_do_not_depend_on_their_batch():
    model = Oracle(LINEAR, POINTS, blur=0.5, predicts="eps")
    together = finish(samplers.ddpm(model, LINEAR, X_T, 4, generator=[seeded(s) for s in (5, 6, 7)]))
    alone = [finish(samplers.ddpm(model, LINEAR, X_T[i : i + 1], 4, generator=seeded(5 + i))) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    with pytest.raises(ValueError, match="shorter"):
        finish(samplers.ddpm(model, LINEAR, X_T, 4, generator=[seeded(5)]))


def test_ddim_with_all_noise_fresh_is_ddpm():
    model = Oracle(LINEAR, POINTS, blur=0.5, predicts="eps")
    fresh = finish(samplers.ddim(model, LINEAR, X_T, 8, eta=1.0, generator=seeded(3)))
    torch.testing.assert_close(finish(samplers.ddpm(model, LINEAR, X_T, 8, generator=seeded(3))), fresh)


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("predicts", ["x_0", "v"])
def test_a_start_from_noise_alone(sampler, predicts):
    schedule = NoiseSchedule.scaled_linear().zero_terminal_snr()
    model = Oracle(schedule, POINTS, predicts=predicts)
    x_T = X_T.double()
    x_0 = finish(sampler(model, schedule, x_T, 20, predicts=predicts, generator=seeded(1)))
    assert torch.cdist(x_0.flatten(1), POINTS).min(1)[0].max() <= 1e-3
    with pytest.raises(ValueError, match=r"eps does not tell x_0"):
        finish(sampler(model, schedule, x_T, 20, predicts="eps"))


def test_zero_terminal_snr_equals_the_reference():
    schedule = NoiseSchedule.scaled_linear().zero_terminal_snr()
    model = Oracle(schedule, POINTS, blur=0.5, predicts="v")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(10)
    x = X_T
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(3)), t, x).prev_sample
    assert (finish(samplers.ddim(model, schedule, X_T, 10, predicts="v")) - x).abs().max() <= 1e-5


@pytest.mark.parametrize("sampler", ALL)
def test_clip_keeps_x0_hat_in_range(sampler):
    model = lambda x, t: torch.sin(7 * x)  # noqa: E731  (a poor model: x0_hat is far out)
    free, clipped = (list(sampler(model, LINEAR, X_T, 4, clip=c, generator=seeded(0))) for c in (None, 1.0))
    assert free[0].x0_hat.abs().max() > 10
    assert max(step.x0_hat.abs().max() for step in clipped[:-1]) <= 1


@pytest.mark.parametrize("sampler", ALL)
def test_half_precision_stays(sampler):
    model = Oracle(LINEAR, POINTS, blur=0.5, predicts="v")
    for step in sampler(model, LINEAR, X_T.bfloat16(), 4, predicts="v"):
        assert all(part.dtype == torch.bfloat16 and part.isfinite().all() for part in step[1:])
    for step in sampler(lambda x, t: x.bfloat16() / 2, LINEAR, X_T, 4):  # as under autocast
        assert all(part.dtype == torch.float32 for part in step[1:])


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "whole number from 1 to 1000, the schedule's length, got 0"),
        ({"steps": -3}, "got -3"),
        ({"steps": 1001}, "got 1001"),
        ({"steps": 2.5}, "got 2.5"),
        ({"steps": True}, "got True"),
        ({"steps": None}, "got None"),
        ({"steps": 1, "spacing": "linspace"}, "at least 2 steps"),
        ({"spacing": "even"}, "got 'even'"),
        ({"predicts": "epsilon"}, "got 'epsilon'"),
        ({"timesteps": [0, 500, 999]}, "descending order, from noise to picture, got 0, 500, 999"),
        ({"timesteps": [9, 7, 7, 5]}, r"descending order.* got 9, 7, \.\.\., 5"),
        ({"timesteps": [1000, 500]}, "from 999 down to 0, those of this schedule of 1000 steps, got 1000, 500"),
        ({"timesteps": [500, -1]}, "down to 0"),
        ({"timesteps": []}, r"list of integers, got \[\]"),
        ({"timesteps": [9.5, 3.0]}, "list of integers"),
        ({"x_T": None}, "x_T as a floating-point tensor"),
        ({"x_T": torch.zeros(2, 3, dtype=torch.int64)}, "x_T as a floating-point tensor"),
        ({"clip": 0}, "clip above 0"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(sampler, arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(**(dict(denoise=lambda x, t: x, schedule=LINEAR, x_T=X_T) | arguments))


def test_bad_options():
    with pytest.raises(ValueError, match="got 'learned'"):
        samplers.ddpm(None, LINEAR, X_T, variance="learned")
    with pytest.raises(ValueError, match="eta from 0 to 1, got 1.5"):
        samplers.ddim(None, LINEAR, X_T, eta=1.5)
    with pytest.raises(ValueError, match="noise-to-signal ratio up to 80, NoiseSchedule.* has none"):
        samplers.timesteps(NoiseSchedule.flow(1), 1, "karras")
    with pytest.raises(ValueError, match="offset of 20 leads past timestep 999"):
        samplers.timesteps(LINEAR, 50, "leading", offset=20)


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda x: torch.cat([x, x], 1), r"\(3, 4, 3, 4\)"),
        (lambda x: x[:, :1], r"\(3, 1, 3, 4\)"),
        (lambda x: x.mean(), r"\(\)"),
        (lambda x: {"sample": x}, "dict"),
    ],
)
def test_a_model_with_another_output_is_refused(sampler, output, found):
    with pytest.raises(ValueError, match=rf"shaped like x_t, \(3, 2, 3, 4\), from the model, got {found}"):
        next(sampler(lambda x, t: output(x), LINEAR, X_T, 4))


FLOW = NoiseSchedule.flow()


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("schedule", [FLOW, NoiseSchedule.flow(1000, 3.0), NoiseSchedule.cosine()], ids=repr)
def test_every_sampler_runs_every_answer_on_every_schedule(sampler, predicts, schedule):
    """With an exact denoiser of a few points each sample is one of them, whatever the model says about them."""
    model = Oracle(schedule, POINTS, predicts=predicts)
    x_T = torch.randn(20, POINTS.shape[1], generator=seeded(8), dtype=torch.float64)
    start = [len(schedule) - 2] if schedule.signal[-1] == 0 and predicts == "eps" else [len(schedule) - 1]
    path = start + samplers.timesteps(schedule, 30)[1:]
    x_0 = finish(sampler(model, schedule, x_T, timesteps=path, predicts=predicts, generator=seeded(9)))
    distance, nearest = torch.cdist(x_0, POINTS).min(1)
    assert distance.max() <= 0.02
    assert len(set(nearest.tolist())) >= 4
    told = schedule.predicting(predicts)
    by_itself = finish(sampler(model, told, x_T, timesteps=path, generator=seeded(9)))  # predicts=None
    assert torch.equal(by_itself, x_0)


def test_order_of_convergence_for_flow():
    """As above, on the straight lines of flow matching."""
    T = 8192
    schedule = NoiseSchedule.flow(T)
    model = Oracle(schedule, torch.randn(6, 2, generator=seeded(3), dtype=torch.float64), blur=0.2, predicts="flow")
    x_T = torch.randn(64, 2, generator=seeded(5), dtype=torch.float64)

    def solve(sampler, steps):  # from 0.9 of noise to 0.1
        first, last = round(0.9 * T), round(0.1 * T)
        path = [round(first + (last - first) * i / steps) for i in range(steps + 1)]
        return list(sampler(model, schedule, x_T, timesteps=path))[-2].x_t

    truth = solve(samplers.heun, 2048)
    for sampler, expected in [(samplers.ddim, 1), (samplers.euler, 1), (samplers.heun, 2), (samplers.dpm_solver_2m, 2)]:
        coarse, fine = ((solve(sampler, steps) - truth).abs().mean().item() for steps in (32, 256))
        assert math.log(coarse / fine, 8) == pytest.approx(expected, abs=0.15), sampler.__name__


def test_flow_by_euler_equals_the_reference():
    model = Oracle(FLOW, POINTS, blur=0.5, predicts="flow")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(1000)
    path = samplers.timesteps(FLOW, 10)
    scheduler.set_timesteps(sigmas=[(t + 1) / 1000 for t in path])
    x = X_T
    for t, noisy in zip(path, scheduler.timesteps, strict=True):
        x = scheduler.step(model(x, torch.full((3,), t)), noisy, x).prev_sample
    assert (finish(samplers.euler(model, FLOW, X_T, 10)) - x).abs().max() <= 1e-5


class Trained:
    """A model that carries its schedule, as a trained Denoiser does."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x_t, t):
        return torch.zeros_like(x_t)


@pytest.mark.parametrize("sampler", ALL)
def test_a_schedule_that_is_not_the_models_is_refused(sampler):
    model = Trained(NoiseSchedule.cosine().predicting("v"))
    for wrong, how in [
        (NoiseSchedule.cosine(), {}),
        (NoiseSchedule.linear().predicting("v"), {}),
        (NoiseSchedule.cosine(500).predicting("v"), {}),
        (model.schedule, {"predicts": "eps"}),
        (NoiseSchedule.flow(), {}),
    ]:
        with pytest.raises(ValueError, match=r"trained with .*predicts v\), not with .*: pass model\.schedule"):
            sampler(model, wrong, X_T, 4, **how)
    for right, how in [(model.schedule, {}), (NoiseSchedule.cosine(), {"predicts": "v"})]:
        assert len(list(sampler(model, right, X_T, 4, generator=seeded(0), **how))) == 5
    with pytest.raises(ValueError, match=r"expected a NoiseSchedule, such as the model's own `\.schedule`, got None"):
        sampler(model, None, X_T, 4)


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("schedule", [NoiseSchedule.cosine(), LINEAR, FLOW], ids=repr)
def test_half_precision_holds_at_the_noisiest_timestep(sampler, dtype, schedule):
    """There sigma is up to 20,000, which half precision cannot square: states are computed in float32."""
    model = Oracle(schedule, POINTS, blur=0.5, predicts="v")
    exact = finish(sampler(model, schedule, X_T.to(dtype).double(), 10, predicts="v", generator=seeded(0)))
    for step in sampler(model, schedule, X_T.to(dtype), 10, predicts="v", generator=seeded(0)):
        assert all(part.dtype == dtype and part.isfinite().all() for part in step[1:])
    if sampler is not samplers.ddpm:  # whose noise is another one in another precision
        assert (step.x_t.double() - exact).abs().max() <= (0.02 if dtype == torch.float16 else 0.1)


@pytest.mark.parametrize("steps", [5, 10, 20, 40])
@pytest.mark.parametrize("schedule", [NoiseSchedule.cosine(), NoiseSchedule.cosine(50)], ids=repr)
def test_heun_from_the_end_of_a_cosine_schedule_is_right(schedule, steps):
    """At its end sigma falls from 20,000 to below 20 in a step: an average of slopes there would be far off."""
    model = Oracle(schedule, POINTS, blur=0.5, predicts="v")
    x_T = torch.randn(64, POINTS.shape[1], generator=seeded(8), dtype=torch.float64)
    exact = finish(samplers.ddim(model, schedule, x_T, 50, predicts="v"))
    error = {f: (finish(f(model, schedule, x_T, steps, predicts="v")) - exact).abs().mean().item() for f in ALL[1:4]}
    assert error[samplers.heun] <= max(error[samplers.ddim], 0.02)


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_said(sampler, bad):
    with pytest.raises(ValueError, match="NaN or infinity from the model at timestep 499"):
        list(sampler(lambda x, t: x * (bad if t[0] < 600 else 0.1), LINEAR, X_T, 2, generator=seeded(0)))
    with pytest.raises(ValueError, match="finite x_T"):
        sampler(lambda x, t: x, LINEAR, X_T * bad, 2)


def test_ddim_may_end_with_the_noise_of_timestep_0():
    model = Oracle(LINEAR, POINTS, blur=0.5, predicts="eps")
    for path in ([900, 500, 0], [900, 500]):
        *way, end = samplers.ddim(model, LINEAR, X_T, timesteps=path, ends_clean=False)
        assert [step.t for step in way] == [900, 500] and end.t == -1
        a, s = LINEAR.signal[0].item(), LINEAR.noise[0].item()
        torch.testing.assert_close(end.x_t, a * way[-1].x0_hat + s * way[-1].eps_hat)


def test_shared_arguments_stand_once_and_show():
    shared = ["denoise", "schedule", "x_T", "steps", "timesteps", "spacing", "predicts", "generator", "clip"]
    own = {"ddpm": ["variance"], "ddim": ["eta", "ends_clean"], "euler": [], "heun": [], "dpm_solver_2m": []}
    assert list(samplers.SAMPLERS) == list(own)
    for name, options in own.items():
        assert list(inspect.signature(samplers.SAMPLERS[name]).parameters) == shared + options
        with pytest.raises(TypeError, match="unexpected keyword argument 'temperature'"):
            samplers.SAMPLERS[name](lambda x, t: x, LINEAR, X_T, temperature=1)


def test_a_new_sampler_is_one_update_rule():
    @samplers.sampler
    def halfway():
        """Goes half of Euler's way."""
        return lambda x_t, x0_hat, eps_hat, now, then, tools: (x_t + then.a * x0_hat + then.s * eps_hat) / 2

    try:
        steps = list(samplers.SAMPLERS["halfway"](lambda x, t: 0 * x, LINEAR, X_T, 3))
        assert [step.t for step in steps] == [999, 666, 332, -1] and halfway.__doc__.startswith("Goes half")
    finally:
        del samplers.SAMPLERS["halfway"]


def test_the_old_name_of_timesteps_still_works():
    with pytest.warns(DeprecationWarning, match="minildm.samplers.timesteps"):
        assert samplers.spaced(LINEAR, 2) == [999, 499]
