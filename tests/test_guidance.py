"""Guidance: the formula by hand, one batch for both, and nothing to pay at scale 1."""

import pytest
import torch
from compare import random

from minildm import samplers
from minildm.denoiser import Denoiser
from minildm.guidance import guided
from minildm.schedule import PREDICTS, NoiseSchedule
from minildm.tensors import seeded


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        return Denoiser(3, 3, channels=(8, 12), context_dim=10, num_classes=4).eval().requires_grad_(False)


class Spy:
    """A model that remembers how many pictures it saw at each call, and its conditions."""

    def __init__(self, model=None):
        self.model, self.calls, self.conditions = model or (lambda x_t, t, **conditions: x_t), [], None

    def __call__(self, x_t, t, **conditions):
        assert len(t) == len(x_t)
        self.calls.append(len(x_t))
        self.conditions = conditions
        return self.model(x_t, t, **conditions)


X_T, T = random(2, 3, 8, 12), torch.tensor([7, 500])
CONDITIONAL = {"context": random(2, 5, 10, seed=2), "y": torch.tensor([3, 0])}
UNCONDITIONAL = {"context": random(2, 5, 10, seed=3), "y": torch.tensor([-1, -1])}


def test_the_formula_by_hand():
    def says_its_label(x_t, t, y):
        return y[:, None, None, None] + 0 * x_t

    conditional, unconditional = {"y": torch.tensor([3.0, 5.0])}, {"y": torch.tensor([1.0, 1.0])}
    for scale, expected in [(0, [1, 1]), (0.5, [2, 3]), (1, [3, 5]), (2, [5, 9]), (7.5, [16, 31])]:
        found = guided(says_its_label, scale, conditional, unconditional)(X_T, T)
        assert found.shape == X_T.shape and found[:, 1, 2, 3].tolist() == expected


@pytest.mark.parametrize("scale", [0, 0.5, 1, 4])
def test_one_batch_says_what_two_would(model, scale):
    found = guided(model, scale, CONDITIONAL, UNCONDITIONAL)(X_T, T)
    conditional, unconditional = (model(X_T, T, **one) for one in (CONDITIONAL, UNCONDITIONAL))
    assert (conditional - unconditional).abs().max() > 1e-2
    torch.testing.assert_close(found, unconditional + scale * (conditional - unconditional), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("scale", "pictures"), [(0, 2), (1, 2), (1.0, 2), (1.001, 4), (5, 4)])
def test_off_costs_nothing(scale, pictures):
    spy = Spy()
    denoise = guided(spy, scale, CONDITIONAL, UNCONDITIONAL)
    denoise(X_T, T)
    denoise(X_T, T)
    assert spy.calls == [pictures] * 2
    if scale in (0, 1):
        only = CONDITIONAL if scale else UNCONDITIONAL
        assert all(spy.conditions[name] is only[name] for name in only)
    assert guided(spy, 1, {})(X_T, T) is X_T  # no condition, nothing needed


def test_no_label_is_the_null_class(model):
    found = guided(model, 3, CONDITIONAL, {"context": UNCONDITIONAL["context"]})(X_T, T)
    torch.testing.assert_close(found, guided(model, 3, CONDITIONAL, UNCONDITIONAL)(X_T, T))
    away = guided(model, 3, CONDITIONAL, UNCONDITIONAL | {"y": torch.tensor([1, 2])})(X_T, T)  # a negative label
    assert (away - found).abs().max() > 1e-3


def test_contexts_of_different_length_are_padded(model):
    """The words of each half count as if it stood alone, masked or not."""
    conditional, unconditional = CONDITIONAL, UNCONDITIONAL | {"context": random(2, 3, 10, seed=4)}
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    for masks in ({}, {"mask": mask}):
        expected = [model(X_T, T, **one) for one in (conditional | masks, unconditional)]
        found = guided(model, 4, conditional | masks, unconditional)(X_T, T)
        torch.testing.assert_close(found, expected[1] + 4 * (expected[0] - expected[1]), rtol=0, atol=1e-5)
        found = guided(model, 4, unconditional, conditional | masks)(X_T, T)
        torch.testing.assert_close(found, expected[0] + 4 * (expected[1] - expected[0]), rtol=0, atol=1e-5)
    spy = Spy()
    guided(spy, 4, conditional, unconditional)(X_T, T)
    assert spy.conditions["mask"].sum(1).tolist() == [5, 5, 3, 3] and spy.conditions["context"].shape == (4, 5, 10)
    guided(spy, 4, CONDITIONAL, UNCONDITIONAL | {"mask": None})(X_T, T)
    assert "mask" not in spy.conditions  # no padding, no mask: the faster kernel


def test_the_prediction_type_does_not_matter():
    schedule = NoiseSchedule.linear()
    with_it, without = random(2, 3, 8, 12, seed=5), random(2, 3, 8, 12, seed=6)  # two opinions on x_0

    def finish(predicts):
        def model(x_t, t, y):
            x_0 = torch.cat([with_it, without])
            return schedule.predicting(predicts).target(x_0, schedule.x_0_to_eps(x_t, x_0, t), t)

        denoise = guided(model, 3, {"y": T}, {"y": T})
        return list(samplers.ddim(denoise, schedule, X_T.double(), 5, predicts=predicts))[-1].x_t

    for predicts in PREDICTS:
        torch.testing.assert_close(finish(predicts), (3 * with_it - 2 * without).double(), rtol=0, atol=1e-5)


def test_rescaling_restores_the_spread(model):
    conditional = model(X_T, T, **CONDITIONAL)
    plain = guided(model, 9, CONDITIONAL, UNCONDITIONAL)(X_T, T)
    full, half = (guided(model, 9, CONDITIONAL, UNCONDITIONAL, rescale)(X_T, T) for rescale in (1, 0.5))
    assert (plain.std((1, 2, 3)) - conditional.std((1, 2, 3))).abs().min() > 0.01
    torch.testing.assert_close(full.std((1, 2, 3)), conditional.std((1, 2, 3)))
    torch.testing.assert_close(full / full.std((1, 2, 3), keepdim=True), plain / plain.std((1, 2, 3), keepdim=True))
    torch.testing.assert_close(half, (plain + full) / 2)


@pytest.mark.parametrize(
    ("scale", "conditional", "unconditional", "message"),
    [
        (-1, CONDITIONAL, UNCONDITIONAL, "scale from 0, where 1 is off, got -1"),
        (float("nan"), CONDITIONAL, UNCONDITIONAL, "scale from 0"),
        (2, {}, None, "at least one, .* guidance is 1"),
        (2, CONDITIONAL, {"y": T}, r"same conditions.* \['context', 'y'\] and \['y'\]"),
        (2, {"context": CONDITIONAL["context"]}, None, r"got \['context'\] and \[\]"),
    ],
)
def test_bad_arguments(model, scale, conditional, unconditional, message):
    with pytest.raises(ValueError, match=message):
        guided(model, scale, conditional, unconditional)


def test_outside_its_interval_guidance_is_off_and_costs_nothing(model):
    spy = Spy(model)
    denoise = guided(spy, 4, CONDITIONAL, UNCONDITIONAL, interval=(7, 400))
    strong, plain = (guided(model, scale, CONDITIONAL, UNCONDITIONAL)(X_T, T) for scale in (4, 1))
    for timesteps, wanted, calls in [
        ([7, 7], [strong, None], [4]),  # both ends belong to it
        ([400, 400], [None, None], [4]),
        ([500, 500], [None, plain], [2]),
        ([6, 401], [None, None], [2]),
        ([7, 500], [strong, plain], [4, 2]),
    ]:
        spy.calls = []
        found = denoise(X_T, torch.tensor(timesteps))
        assert spy.calls == calls
        for i, one in enumerate(wanted):
            if one is not None:
                torch.testing.assert_close(found[i], one[i], rtol=0, atol=1e-5)
    spy.schedule = NoiseSchedule.cosine()
    assert guided(spy, 4, CONDITIONAL, UNCONDITIONAL, interval=(0, 1)).schedule is spy.schedule
    assert guided(spy, 1, CONDITIONAL, interval=(0, 1))(X_T, T).shape == X_T.shape


@pytest.mark.parametrize("interval", [7, "ab", (1,), (1, 2, 3), (5, 4), (0, float("inf")), (float("nan"), 3), (0, "9")])
def test_bad_interval(model, interval):
    with pytest.raises(ValueError, match="expected guidance's interval as its lowest and its highest timestep"):
        guided(model, 2, CONDITIONAL, UNCONDITIONAL, interval=interval)


def test_bad_rescale(model):
    with pytest.raises(ValueError, match="rescale from 0 to 1, got 7"):
        guided(model, 2, CONDITIONAL, UNCONDITIONAL, rescale=7)


def test_the_guided_model_carries_its_schedule(model):
    assert guided(model, 3, CONDITIONAL, UNCONDITIONAL).schedule is None
    other = Spy()
    other.schedule = NoiseSchedule.flow()
    for scale in (0, 1, 3):
        assert guided(other, scale, CONDITIONAL, UNCONDITIONAL).schedule is other.schedule
    with pytest.raises(ValueError, match="predicts flow"):
        samplers.ddim(guided(other, 3, CONDITIONAL, UNCONDITIONAL), NoiseSchedule.cosine(), X_T)


def test_any_condition_is_handed_on():
    """What a new kind of denoiser takes needs no change here; left out, it is the same in both halves."""
    spy, hint = Spy(), random(2, 3, 8, 12, seed=9)
    guided(spy, 4, CONDITIONAL | {"hint": hint}, UNCONDITIONAL)(X_T, T)
    assert torch.equal(spy.conditions["hint"], torch.cat([hint, hint])) and spy.calls == [4]
    guided(spy, 4, {"hint": hint}, {"hint": 0 * hint})(X_T, T)
    assert torch.equal(spy.conditions["hint"], torch.cat([hint, 0 * hint]))
    guided(spy, 1, {"hint": hint, "size": None})(X_T, T)
    assert list(spy.conditions) == ["hint"]


@pytest.mark.parametrize("scale", [float("inf"), float("nan"), -0.1])
def test_a_scale_without_bounds_is_refused(model, scale):
    with pytest.raises(ValueError, match="finite guidance scale from 0"):
        guided(model, scale, CONDITIONAL, UNCONDITIONAL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rescaling_what_is_the_same_everywhere(dtype):
    def says_its_label(x_t, t, y):
        return (y[:, None, None, None] + 0 * x_t).to(x_t.dtype)

    conditions = {"y": torch.tensor([3.0, 5.0])}, {"y": torch.tensor([1.0, 1.0])}
    found = guided(says_its_label, 3.0, *conditions, rescale=0.7)(X_T.to(dtype), T)
    assert found.dtype == dtype and found[:, 0, 0, 0].tolist() == [7, 13]
