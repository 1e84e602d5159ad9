"""The training loss against values worked out by hand."""

import math

import pytest
import torch
from compare import random
from hypothesis import given
from hypothesis import strategies as st

from minildm import denoiser
from minildm.denoiser import Denoiser
from minildm.losses import denoising_error, denoising_loss, draw_noise, min_snr_weight, spread_timesteps
from minildm.schedule import PREDICTS, NoiseSchedule

ZERO_SNR = NoiseSchedule.scaled_linear().zero_terminal_snr()
SMALL = dict(channels=(8, 12, 16), attention=(1,), heads=2)


BY_HAND = NoiseSchedule.from_betas([0.1, 0.2, 0.5])  # alphas_cumprod 0.9, 0.72, 0.36; the last has snr 0.5625


def test_the_loss_by_hand():
    batch = {"x_0": torch.tensor([[2.0], [2.0]]), "eps": torch.tensor([[-1.0], [-1.0]]), "t": torch.tensor([2, 2])}
    seen = []

    def model(x_t, t):
        seen.append((x_t, t))
        return torch.tensor([[0.5], [2.0]])

    v = 0.6 * -1 - 0.8 * 2
    for predicts, target in [("eps", -1.0), ("x_0", 2.0), ("v", v)]:
        error = denoising_error(model, batch, BY_HAND, predicts)
        torch.testing.assert_close(error, torch.tensor([(0.5 - target) ** 2, (2 - target) ** 2]))
        loss = denoising_loss(model, batch, BY_HAND, predicts)
        torch.testing.assert_close(loss, error.mean())
    torch.testing.assert_close(seen[0][0], torch.full((2, 1), 0.6 * 2 - 0.8))
    assert torch.equal(seen[0][1], batch["t"])


def test_min_snr_weights_by_hand():
    schedule = NoiseSchedule([20**0.5, 0.5**0.5, 0.0], [1.0, 1.0, 1.0])  # snr 20, 1/2 and 0
    t = torch.tensor([2, 1, 0])
    for predicts, expected in [("x_0", [0.5, 5.0]), ("eps", [1.0, 0.25])]:
        found = min_snr_weight(schedule.predicting(predicts), t, 5.0)
        torch.testing.assert_close(found.tolist(), [1.0, *expected])  # where nothing is left of x_0, it still counts
    flow = min_snr_weight(schedule.predicting("flow"), t, 5.0)  # an error of x_0 counts (1 + a / s) times there
    torch.testing.assert_close(flow.tolist(), [1.0, 0.5 / (1 + 0.5**0.5) ** 2, 5 / (1 + 20**0.5) ** 2])
    v = NoiseSchedule.from_betas([1 / 21, 1 - 21 / 20 / 3], "v")  # alphas_cumprod 20/21 and 1/3
    torch.testing.assert_close(min_snr_weight(v, torch.tensor([1, 0])).tolist(), [0.5 / 1.5, 5 / 21])


@given(seed=st.integers(0, 50), gamma=st.floats(0.1, 50))
def test_min_snr_is_the_same_loss_whatever_is_predicted(seed, gamma):
    """One guess of x_0, told as eps, x_0 or v: the weighted losses agree."""
    schedule = NoiseSchedule.linear()
    batch = draw_noise(random(4, 2, 3, 5, seed=seed).double(), schedule, torch.Generator().manual_seed(seed))
    x_0, eps, t = batch.values()
    x_t, guess = schedule.add_noise(x_0, eps, t), random(4, 2, 3, 5, seed=seed + 100).double()
    said = {
        "x_0": guess,
        "eps": schedule.x_0_to_eps(x_t, guess, t),
        "v": schedule.x_0_to_v(x_t, guess, t),
        "flow": schedule.x_0_to_eps(x_t, guess, t) - guess,
    }
    losses = {
        name: denoising_loss(lambda x_t, t, n=name: said[n], batch, schedule, name, min_snr=gamma).item()
        for name in said
    }
    assert losses["eps"] == pytest.approx(losses["x_0"], rel=1e-4)
    assert losses["v"] == pytest.approx(losses["x_0"], rel=1e-4)
    assert losses["flow"] == pytest.approx(losses["x_0"], rel=1e-4)


def test_the_loss_hands_on_what_the_batch_holds():
    model = Denoiser(3, 3, **SMALL, context_dim=10, num_classes=4)
    schedule = NoiseSchedule.scaled_linear().zero_terminal_snr()
    batch = draw_noise(random(2, 3, 8, 12), schedule, torch.Generator().manual_seed(3))
    batch |= {"t": torch.tensor([999, 4]), "context": random(2, 5, 10), "mask": torch.ones(2, 5).bool()}
    batch |= {"y": torch.tensor([1, 2])}
    for predicts in ("eps", "x_0", "v"):
        loss = denoising_loss(model, batch, schedule, predicts, min_snr=5.0)
        assert loss.shape == () and loss.isfinite()
    other = denoising_loss(model, batch | {"y": torch.tensor([1, 3])}, schedule, predicts, min_snr=5.0)
    assert other != loss
    with pytest.raises(ValueError, match="expected a context"):
        denoising_loss(model, {name: batch[name] for name in ("x_0", "eps", "t", "y")}, schedule)


def test_bad_losses():
    batch = {"x_0": torch.zeros(2, 3), "eps": torch.zeros(2, 3), "t": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=r"shaped like x_0, \(2, 3\), got \(2, 1\)"):
        denoising_loss(lambda x_t, t: x_t[:, :1], batch, BY_HAND)
    with pytest.raises(ValueError, match="got 'noise'"):
        denoising_loss(lambda x_t, t: x_t, batch, BY_HAND, "noise")
    with pytest.raises(ValueError, match="above 0"):
        denoising_loss(lambda x_t, t: x_t, batch, BY_HAND, min_snr=0.0)


def test_noise_is_drawn_from_the_generator():
    x_0, schedule = random(4000, 1, 2, 3), NoiseSchedule.linear(7)
    state = torch.get_rng_state()
    first, again, other = (draw_noise(x_0, schedule, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(first) == ["x_0", "eps", "t"] and first["x_0"] is x_0
    assert torch.equal(first["eps"], again["eps"]) and torch.equal(first["t"], again["t"])
    assert not torch.equal(first["eps"], other["eps"])
    assert first["t"].dtype == torch.int64
    counts = first["t"].bincount(minlength=7)
    assert len(counts) == 7 and (counts - 4000 / 7).abs().max() < 5 * math.sqrt(4000 / 7)
    assert first["eps"].std().item() == pytest.approx(1, abs=0.03) and abs(first["eps"].mean().item()) < 0.03
    assert draw_noise(x_0.half(), schedule, torch.Generator())["eps"].dtype == torch.float16


def test_it_learns():
    """A few pictures, told by class: the error falls below that of the best constant answer, which is about 1."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Denoiser(1, 1, channels=(16, 24), attention=(1,), num_classes=2)
    pictures = torch.stack([torch.ones(1, 8, 8), -torch.ones(1, 8, 8)])
    schedule = NoiseSchedule.cosine()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        y = torch.randint(2, (32,), generator=generator)
        batch = draw_noise(pictures[y], schedule, generator) | {"y": y}
        loss = denoising_loss(model, batch, schedule, "v")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.15


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("min_snr", [None, 5.0])
@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.scaled_linear().zero_terminal_snr(), NoiseSchedule.flow()], ids=repr
)
def test_the_noisiest_timestep_is_learned(schedule, predicts, min_snr):
    model = Denoiser(1, 1, (8,), heads=2, schedule=schedule.predicting(predicts))
    batch = dict(x_0=random(4, 1, 4, 4), eps=random(4, 1, 4, 4, seed=2), t=torch.full((4,), 999))
    denoising_loss(model, batch, min_snr=min_snr).backward()
    assert sum(p.grad.abs().sum().item() for p in model.parameters() if p.grad is not None) > 0.01


def test_the_schedule_is_the_models_own():
    model = Denoiser(1, 1, (8,), heads=2, schedule=NoiseSchedule.cosine().predicting("v"))
    batch = draw_noise(random(3, 1, 4, 4), model.schedule, torch.Generator().manual_seed(0))
    own = denoising_loss(model, batch)
    assert own == denoising_loss(model, batch, model.schedule) == denoising_loss(model, batch, predicts="v")
    for schedule, predicts in [(NoiseSchedule.cosine(), None), (None, "eps"), (NoiseSchedule.linear(), "v")]:
        with pytest.raises(ValueError, match="this model was trained with .*predicts v"):
            denoising_loss(model, batch, schedule, predicts)
    model.schedule = None
    with pytest.raises(ValueError, match="this model has none of its own"):
        denoising_loss(model, batch)


def test_any_key_of_a_batch_is_a_condition():
    seen = {}

    def model(x_t, t, **conditions):
        seen.update(conditions)
        return x_t

    batch = draw_noise(random(2, 1, 4, 4), BY_HAND, torch.Generator().manual_seed(0))
    denoising_loss(model, batch | {"hint": torch.ones(2, 3), "size": torch.zeros(2)}, BY_HAND)
    assert list(seen) == ["hint", "size"]
    network = Denoiser(1, 1, (8,), heads=2, num_classes=3)
    with pytest.raises(ValueError, match="conditioned on y, but the batch also holds hint, size: drop it"):
        denoising_loss(network, batch | {"y": torch.tensor([0, 1]), "hint": batch["t"], "size": batch["t"]}, BY_HAND)
    with pytest.raises(
        ValueError, match=r"knows classes, but the batch holds no y; where none is meant, y is model\.null_class"
    ):
        denoising_loss(network, batch, BY_HAND)
    assert denoising_loss(network, batch | {"y": torch.full((2,), network.null_class)}, BY_HAND).isfinite()
    with pytest.raises(ValueError, match="expected x_0, eps and t in the batch.*; x_0 is missing"):
        denoising_loss(network, {"eps": batch["eps"], "t": batch["t"]}, BY_HAND)


def test_bytes_are_no_pictures():
    with pytest.raises(ValueError, match=r"floating-point numbers, from -1 to 1, got torch\.uint8"):
        draw_noise(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), BY_HAND, torch.Generator())


def test_spread_timesteps_fill_the_schedule_evenly():
    schedule, generator = NoiseSchedule.linear(100), torch.Generator().manual_seed(0)
    for n in (1, 7, 100, 200):
        t = spread_timesteps(n, schedule, generator)
        assert t.shape == (n,) and t.dtype == torch.int64
        counts = (t * n // 100).bincount(minlength=n)
        assert counts.sum() == n and (n > 100 or (counts == 1).all())
    assert not torch.equal(t, t.sort()[0])


def test_the_old_home_still_answers():
    with pytest.warns(DeprecationWarning, match="minildm.losses.denoising_loss"):
        assert denoiser.denoising_loss is denoising_loss
