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
    """A model that remembers how many pictures it saw at each call, and what it was told."""

    def __init__(self, model=None):
        self.model, self.calls, self.told = model or (lambda x_t, t, **told: x_t), [], None

    def __call__(self, x_t, t, **told):
        assert len(t) == len(x_t)
        self.calls.append(len(x_t))
        self.told = told
        return self.model(x_t, t, **told)


X_T, T = random(2, 3, 8, 12), torch.tensor([7, 500])
TOLD = {"context": random(2, 5, 10, seed=2), "y": torch.tensor([3, 0])}
UNTOLD = {"context": random(2, 5, 10, seed=3), "y": torch.tensor([4, 4])}


def test_the_formula_by_hand():
    def says_its_label(x_t, t, y):
        return y[:, None, None, None] + 0 * x_t

    told, untold = {"y": torch.tensor([3.0, 5.0])}, {"y": torch.tensor([1.0, 1.0])}
    for scale, expected in [(0, [1, 1]), (0.5, [2, 3]), (1, [3, 5]), (2, [5, 9]), (7.5, [16, 31])]:
        found = guided(says_its_label, scale, told, untold)(X_T, T)
        assert found.shape == X_T.shape and found[:, 1, 2, 3].tolist() == expected


@pytest.mark.parametrize("scale", [0, 0.5, 1, 4])
def test_one_batch_says_what_two_would(model, scale):
    found = guided(model, scale, TOLD, UNTOLD)(X_T, T)
    told, untold = (model(X_T, T, **one) for one in (TOLD, UNTOLD))
    assert (told - untold).abs().max() > 1e-2
    torch.testing.assert_close(found, untold + scale * (told - untold), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("scale", "pictures"), [(0, 2), (1, 2), (1.0, 2), (1.001, 4), (5, 4)])
def test_off_costs_nothing(scale, pictures):
    spy = Spy()
    denoise = guided(spy, scale, TOLD, UNTOLD)
    denoise(X_T, T)
    denoise(X_T, T)
    assert spy.calls == [pictures] * 2
    if scale in (0, 1):
        only = TOLD if scale else UNTOLD
        assert all(spy.told[name] is only[name] for name in only)
    assert guided(spy, 1, {})(X_T, T) is X_T  # nothing told, nothing needed


def test_no_label_is_the_null_class(model):
    found = guided(model, 3, TOLD, {"context": UNTOLD["context"]})(X_T, T)
    torch.testing.assert_close(found, guided(model, 3, TOLD, UNTOLD)(X_T, T))
    away = guided(model, 3, TOLD, UNTOLD | {"y": torch.tensor([1, 2])})(X_T, T)  # a negative label
    assert (away - found).abs().max() > 1e-3


def test_contexts_of_different_length_are_padded(model):
    """The words of each half count as if it stood alone, masked or not."""
    told, untold = TOLD, UNTOLD | {"context": random(2, 3, 10, seed=4)}
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    for masks in ({}, {"mask": mask}):
        expected = [model(X_T, T, **one) for one in (told | masks, untold)]
        found = guided(model, 4, told | masks, untold)(X_T, T)
        torch.testing.assert_close(found, expected[1] + 4 * (expected[0] - expected[1]), rtol=0, atol=1e-5)
        found = guided(model, 4, untold, told | masks)(X_T, T)
        torch.testing.assert_close(found, expected[0] + 4 * (expected[1] - expected[0]), rtol=0, atol=1e-5)
    spy = Spy()
    guided(spy, 4, told, untold)(X_T, T)
    assert spy.told["mask"].sum(1).tolist() == [5, 5, 3, 3] and spy.told["context"].shape == (4, 5, 10)
    guided(spy, 4, TOLD, UNTOLD | {"mask": None})(X_T, T)
    assert "mask" not in spy.told  # no padding, no mask: the faster kernel


def test_the_prediction_type_does_not_matter():
    schedule = NoiseSchedule.linear()
    with_it, without = random(2, 3, 8, 12, seed=5), random(2, 3, 8, 12, seed=6)  # two opinions on x_0

    def finish(predicts):
        def model(x_t, t, y):
            x_0 = torch.cat([with_it, without])
            return schedule.target(predicts, x_0, schedule.x_0_to_eps(x_t, x_0, t), t)

        denoise = guided(model, 3, {"y": T}, {"y": T})
        return list(samplers.ddim(denoise, schedule, X_T.double(), 5, predicts=predicts))[-1].x_t

    for predicts in PREDICTS:
        torch.testing.assert_close(finish(predicts), (3 * with_it - 2 * without).double(), rtol=0, atol=1e-5)


def test_rescaling_restores_the_spread(model):
    told = model(X_T, T, **TOLD)
    plain = guided(model, 9, TOLD, UNTOLD)(X_T, T)
    full, half = (guided(model, 9, TOLD, UNTOLD, rescale)(X_T, T) for rescale in (1, 0.5))
    assert (plain.std((1, 2, 3)) - told.std((1, 2, 3))).abs().min() > 0.01
    torch.testing.assert_close(full.std((1, 2, 3)), told.std((1, 2, 3)))
    torch.testing.assert_close(full / full.std((1, 2, 3), keepdim=True), plain / plain.std((1, 2, 3), keepdim=True))
    torch.testing.assert_close(half, (plain + full) / 2)


@pytest.mark.parametrize(
    ("scale", "told", "untold", "message"),
    [
        (-1, TOLD, UNTOLD, "scale from 0, where 1 is off, got -1"),
        (float("nan"), TOLD, UNTOLD, "scale from 0"),
        (2, {}, None, "at least one, .* guidance is 1"),
        (2, TOLD, {"y": T}, r"same conditions .* \['context', 'y'\] and \['y'\]"),
        (2, {"context": TOLD["context"]}, None, r"got \['context'\] and \[\]"),
    ],
)
def test_bad_arguments(model, scale, told, untold, message):
    with pytest.raises(ValueError, match=message):
        guided(model, scale, told, untold)


def test_bad_rescale(model):
    with pytest.raises(ValueError, match="rescale from 0 to 1, got 7"):
        guided(model, 2, TOLD, UNTOLD, rescale=7)
