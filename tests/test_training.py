"""The training loop: what it computes by hand, and that neither kills nor processes change what is learned."""

import importlib
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minildm import storage, weights
from minildm.training import History, learning_rate, restore, train
from minildm.unet import UNet

QUIET = dict(progress=False)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For tensors this small, threads cost more than they bring, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tiny(nn.Module):
    """Small, yet with all that makes resuming hard: running statistics, dropout, a tied and a frozen weight."""

    def __init__(self, dropout=0.25, norm=None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first = nn.Conv2d(1, 6, 3, padding=1)
            self.norm = norm or nn.BatchNorm2d(6)
            self.last = nn.Conv2d(6, 2, 3, padding=1)
            self.again = self.last  # tied
            self.frozen = nn.Parameter(torch.randn(6, 1, 1), requires_grad=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.last(self.dropout(F.silu(self.norm(self.first(x)) * self.frozen)))


class Number(nn.Module):
    """One parameter, so that a training can be followed by hand."""

    def __init__(self, value=3.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value], dtype=torch.float64))


def images(generator, n):
    x = torch.randn(n, 1, 7, 5, generator=generator)
    return {"x": x, "y": (x > 0.3).long().squeeze(1)}


def cross_entropy(model, tensors):
    return F.cross_entropy(model(tensors["x"]), tensors["y"])


def factors(generator, n):
    return {"x": torch.rand(n, generator=generator, dtype=torch.float64) * 50 + 2}  # never below 2


def product(model, tensors):
    return (model.w * tensors["x"]).mean()


def same(a, b):
    """Byte for byte, NaN and signed zero included."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a
    )


def copy(model):
    return {name: tensor.clone() for name, tensor in storage.state(model).items()}


def crash_at(step, batch=images):
    """A batch that fails when it is made for the given time."""
    calls = 0

    def failing(generator, n):
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise KeyboardInterrupt
        return batch(generator, n)

    return failing


# --- what it computes


def test_learns_a_regression():
    def batch(generator, n):
        x = torch.randn(n, 3, generator=generator)
        return {"x": x, "y": x @ torch.tensor([[2.0], [-1.0], [0.5]]) + 4}

    torch_state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Linear(3, 1)
    history = train(
        model, batch, lambda m, b: F.mse_loss(m(b["x"]), b["y"]), steps=300, batch_size=16, lr=0.1, ema=0.9, **QUIET
    )
    assert history.step == len(history.loss) == 300
    assert history.loss[0] > 5 and max(history.loss[-20:]) < 1e-3
    assert torch.allclose(model.weight, torch.tensor([[2.0, -1.0, 0.5]]), atol=0.02)
    assert torch.allclose(model.bias, torch.tensor([4.0]), atol=0.02)
    assert not model.training and history.seconds > 0
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_learning_rate_by_hand():
    rates = [learning_rate(step, 10, 2.0, 2) for step in range(10)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[6] == pytest.approx(1.0)  # half way down the cosine
    assert rates[4] == pytest.approx(1 + math.sqrt(0.5))
    assert rates[9] == pytest.approx(1 - math.cos(math.pi / 8))
    assert learning_rate(0, 1, 0.3, 0) == 0.3


@pytest.mark.parametrize("clip, follows", [(1.0, True), (math.inf, False)])
def test_rate_and_clipping_are_applied(clip, follows):
    # Every gradient is longer than 1. Clipped to 1, they are all equal, and then AdamW moves by exactly the rate.
    model = Number()
    train(
        model, factors, product, steps=9, batch_size=1, lr=0.1, warmup=3, ema=None, weight_decay=0, clip=clip, **QUIET
    )
    walked = sum(learning_rate(step, 9, 0.1, 3) for step in range(9))
    assert (abs(3 - walked - model.w.item()) < 1e-5) == follows


def test_weight_decay_spares_vectors():
    model = nn.Linear(2, 2).double()
    before = copy(model)

    def no_gradient(model, tensors):
        return 0 * (model.weight.sum() + model.bias.sum())

    train(model, factors, no_gradient, steps=1, batch_size=1, lr=0.1, warmup=0, weight_decay=0.5, ema=None, **QUIET)
    assert torch.allclose(model.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, before["bias"])


def test_average_by_hand():
    def follow(ema):
        seen = []
        model = Number()
        train(
            model, factors, product, steps=5, batch_size=2, lr=0.1, ema=ema, validate_every=1,
            validate=lambda m: seen.append(m.w.item()), **QUIET,
        )  # fmt: skip
        return seen, model.w.item()

    last, _ = follow(None)
    averages, final = follow(0.15)
    expected, average = [], 3.0
    for k, w in enumerate(last):
        keep = [1 / 10, 0.15, 0.15, 0.15, 0.15][k]  # 2/11 is more than 0.15 already
        average = keep * average + (1 - keep) * w
        expected.append(average)
    assert averages == pytest.approx(expected, abs=1e-12)
    assert final == averages[-1] != last[-1]


def test_average_covers_running_statistics():
    model, raw = Tiny(), Tiny()
    train(model, images, cross_entropy, steps=4, batch_size=4, **QUIET)
    train(raw, images, cross_entropy, steps=4, batch_size=4, ema=None, **QUIET)
    assert not torch.equal(model.norm.running_mean, raw.norm.running_mean)
    assert model.norm.num_batches_tracked == raw.norm.num_batches_tracked == 4


def test_validation_is_recorded_and_changes_nothing():
    seen = []

    def validate(model):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(3)  # draws from the global stream
        seen.append(copy(model))
        return {"dice": np.float32(0.5), "ap": torch.tensor(0.25)}

    plain, watched = Tiny(), Tiny()
    train(plain, images, cross_entropy, steps=7, batch_size=4, **QUIET)
    history = train(watched, images, cross_entropy, steps=7, batch_size=4, validate=validate, validate_every=3, **QUIET)
    assert history.validation == [(step, {"dice": 0.5, "ap": 0.25}) for step in (3, 6, 7)]
    assert same(copy(plain), copy(watched)) and same(seen[-1], copy(watched))


def test_frozen_stays_and_the_rest_moves():
    model = Tiny()
    before = copy(model)
    train(model, images, cross_entropy, steps=2, batch_size=4, ema=None, **QUIET)
    assert "again.weight" not in before and model.again is model.last
    for name, tensor in copy(model).items():
        assert torch.equal(tensor, before[name]) == (name == "frozen"), name


def test_global_randomness_is_untouched_and_unused():
    torch.rand(1), np.random.random(1), random.random()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, second = Tiny(), Tiny()
    train(first, images, cross_entropy, steps=3, batch_size=4, seed=1, **QUIET)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]
    torch.rand(11)
    train(second, images, cross_entropy, steps=3, batch_size=4, seed=1, **QUIET)
    assert same(copy(first), copy(second))  # dropout too
    train(other := Tiny(), images, cross_entropy, steps=3, batch_size=4, seed=2, **QUIET)
    assert not same(copy(first), copy(other))


def test_every_step_has_a_batch_of_its_own():
    def drawn(seed):
        seen = []

        def batch(generator, n):
            seen.append((torch.rand(2, generator=generator).tolist(), torch.rand(2).tolist()))  # global stream too
            return factors(generator, n)

        train(Number(), batch, product, steps=5, batch_size=2, seed=seed, **QUIET)
        return [tuple(numbers) for pair in seen for numbers in pair]

    assert len(set(drawn(0) + drawn(1))) == 2 * 5 * 2
    assert drawn(0) == drawn(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="batches of a test module need forked workers")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a machine may have one core
def test_workers_make_the_same_batches():
    def batch(generator, n):
        tensors = images(generator, n)
        return tensors | {"x": tensors["x"] + torch.rand(1)}

    alone, helped = Tiny(), Tiny()
    train(alone, batch, cross_entropy, steps=6, batch_size=4, **QUIET)
    state = torch.get_rng_state()
    train(helped, batch, cross_entropy, steps=6, batch_size=4, workers=2, **QUIET)
    assert same(copy(alone), copy(helped))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("asked, seen", [(None, torch.float32), (False, torch.float32), (True, torch.bfloat16)])
def test_bfloat16_is_only_where_asked_for_and_weights_never_are(asked, seen, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    types = []

    def loss(model, tensors):
        y = model(tensors["x"])
        types.append(y.dtype)
        return F.cross_entropy(y.float(), tensors["y"])

    model = Tiny()
    before = model.first.weight.detach().clone()
    train(model, images, loss, steps=2, batch_size=4, bfloat16=asked, **QUIET)
    assert set(types) == {seen}
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not torch.equal(model.first.weight, before)


def test_attention_learns_the_same_in_bfloat16():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = (
                nn.Parameter(torch.ones(1, 1, 3, 4)),
                nn.Parameter(torch.linspace(0, 1, 20).view(1, 1, 5, 4)),
            )

        def forward(self, x):
            return F.scaled_dot_product_attention(
                self.q.expand(len(x), -1, -1, -1), self.k.expand(len(x), -1, -1, -1), x
            )

    def batch(generator, n):
        return {"x": torch.randn(n, 1, 5, 4, generator=generator)}

    def loss(model, tensors):
        return (model(tensors["x"]).float() - 1).square().mean()

    precise, fast = Looks(), Looks()
    history = train(precise, batch, loss, steps=20, batch_size=8, lr=0.05, **QUIET)
    rough = train(fast, batch, loss, steps=20, batch_size=8, lr=0.05, bfloat16=True, **QUIET)
    np.testing.assert_allclose(rough.loss, history.loss, rtol=0.02)
    assert torch.allclose(fast.k, precise.k, atol=0.05) and not torch.equal(fast.k, precise.k)


def test_progress_bar_shows_or_hides(capsys):
    train(Number(), factors, product, steps=3, batch_size=2, **QUIET)
    assert capsys.readouterr() == ("", "")
    train(Number(), factors, product, steps=3, batch_size=2)
    shown = capsys.readouterr().err
    assert "3/3" in shown and "loss=" in shown and "lr=" in shown


def test_the_place_of_the_checkpoint_is_said_at_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = dict(batch_size=2, checkpoint="runs/mine.safetensors", checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        train(Number(), crash_at(2, factors), product, steps=3, **settings)
    assert capsys.readouterr().out == "checkpoint: runs/mine.safetensors (new)\n"
    assert os.listdir("runs") == ["mine.safetensors"]
    train(Number(), factors, product, steps=3, **settings)
    assert capsys.readouterr().out == "checkpoint: runs/mine.safetensors (goes on after step 1 of 3)\n"
    train(Number(), factors, product, steps=3, **settings, **QUIET)
    assert capsys.readouterr() == ("", "")


# --- what it tells a log


def test_the_log_hears_of_each_step(tmp_path):
    told = []
    settings = dict(batch_size=2, lr=0.1, warmup=2, weight_decay=0, ema=None, **QUIET)
    validations = {3: {"dice": np.float32(0.5), "ap": torch.tensor(0.25)}, 4: 7, 5: None}

    def validate(model):
        return validations.get(len(told) + 1)

    def log(step, numbers):
        told.append((step, numbers))
        if len(told) == 4:
            raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    how = dict(steps=5, validate=validate, validate_every=1, checkpoint=path, checkpoint_seconds=0, log=log)
    with pytest.raises(KeyboardInterrupt):
        train(Number(), factors, product, **how, **settings)
    history = train(Number(), factors, product, **how, **settings)
    assert [step for step, _ in told] == [1, 2, 3, 4, 4, 5]  # what was done after the checkpoint is done again
    assert [numbers["loss"] for _, numbers in told[:4] + told[5:]] == history.loss
    assert [numbers["lr"] for _, numbers in told[:3]] == [learning_rate(step, 5, 0.1, 2) for step in range(3)]
    means = [factors_at(step) for step in range(3)]  # the gradient of the product, before it was clipped to 1
    assert [numbers["grad_norm"] for _, numbers in told[:3]] == pytest.approx(means)
    assert {name: told[2][1][name] for name in ("validation/dice", "validation/ap")} == {
        "validation/dice": 0.5,
        "validation/ap": 0.25,
    }
    assert told[3][1]["validation"] == 7.0 and set(told[5][1]) == {"loss", "lr", "grad_norm"}
    assert all(type(value) is float for _, numbers in told for value in numbers.values())


def factors_at(step):
    seen = []
    train(
        Number(),
        lambda generator, n: seen.append(factors(generator, n)) or seen[-1],
        product,
        steps=step + 1,
        batch_size=2,
        **QUIET,
    )
    return seen[step]["x"].mean().item()


def test_the_logs_of_the_docstring_work(tmp_path, monkeypatch):
    """A CSV file, and the two services' writers, stood in for."""
    monkeypatch.chdir(tmp_path)
    calls = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            calls.append((self.folder, step, name, value))

    class Run:
        def log(self, numbers, step):
            calls.append(("wandb", step, numbers))

    namespace = {
        "torch": types.SimpleNamespace(
            utils=types.SimpleNamespace(tensorboard=types.SimpleNamespace(SummaryWriter=Writer))
        ),
        "wandb": types.SimpleNamespace(init=lambda project: Run()),
    }
    indented = [line[8:] for line in train.__doc__.splitlines() if line.startswith(8 * " ")]
    lines = indented[indented.index('file = open("log.csv", "a")') :]
    examples = [lines[at : at + 3] for at in (0, 3, 6)]
    for example in examples:
        exec("\n".join(example), namespace)  # noqa: S102
        history = train(
            Number(), factors, product, steps=2, batch_size=2, validate=lambda m: 3, log=namespace["log"], **QUIET
        )
    namespace["file"].close()
    rows = [line.split(",") for line in Path("log.csv").read_text().splitlines()]
    assert [(int(row[0]), float(row[1]), len(row)) for row in rows] == [
        (1, history.loss[0], 4),
        (2, history.loss[1], 4),
    ]
    scalars = {(step, name): value for folder, step, name, value in (call for call in calls if call[0] == "logs")}
    assert scalars[2, "loss"] == history.loss[1] and scalars[2, "validation"] == 3 and len(scalars) == 7
    assert [call[1] for call in calls if call[0] == "wandb"] == [1, 2] and calls[-1][2]["validation"] == 3


# --- checkpoints


@pytest.mark.parametrize("step", [1, 4, 8])
@pytest.mark.parametrize("make", [Tiny, lambda: UNet(1, 2, (8, 4))])
def test_resumes_to_identical_weights(make, step, tmp_path):
    def batch(generator, n):
        x = torch.randn(n, 1, 6, 4, generator=generator)
        return {"x": x, "y": (x > 0.3).long().squeeze(1)}

    start = make()
    whole, broken, resumed = make(), make(), make()
    for model in (whole, broken):
        storage.fill(storage.state(model), copy(start), "start")
    settings = dict(steps=9, batch_size=4, validate=lambda model: 1.5, validate_every=2, checkpoint_seconds=0, **QUIET)
    expected = train(whole, batch, cross_entropy, checkpoint=tmp_path / "whole.safetensors", **settings)
    path = tmp_path / "new folder" / "broken.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(broken, crash_at(step, batch), cross_entropy, checkpoint=path, **settings)
    assert not broken.training
    history = train(resumed, batch, cross_entropy, checkpoint=path, **settings)
    assert same(copy(whole), copy(resumed))
    assert same(storage.read(path)[0], storage.read(tmp_path / "whole.safetensors")[0])  # the optimizer's state too
    assert history.loss == expected.loss and history.validation == expected.validation
    assert history.validation == [(2, 1.5), (4, 1.5), (6, 1.5), (8, 1.5), (9, 1.5)]


def test_finished_training_returns_at_once(tmp_path):
    path = tmp_path / "done.safetensors"
    first, second, third = Tiny(), Tiny(), Tiny()
    history = train(first, images, cross_entropy, steps=3, batch_size=4, checkpoint=path, **QUIET)
    written = path.read_bytes()
    again = train(second, crash_at(0), cross_entropy, steps=3, batch_size=4, checkpoint=path, **QUIET)
    assert again == history and same(copy(first), copy(second)) and path.read_bytes() == written
    assert restore(third, path) == history and same(copy(first), copy(third)) and not third.training


def test_checkpoints_keep_their_distance_in_time(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(storage, "write", lambda path, tensors, metadata: written.append(len(tensors["loss"])))
    train(Number(), factors, product, steps=6, batch_size=2, checkpoint=tmp_path / "c.safetensors", **QUIET)
    assert written == [0, 6]  # a minute has not passed between
    del written[:]
    settings = dict(checkpoint=tmp_path / "c.safetensors", checkpoint_seconds=0)
    train(Number(), factors, product, steps=3, batch_size=2, **settings, **QUIET)
    assert written == [0, 1, 2, 3]


def test_a_crash_while_writing_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    settings = dict(steps=6, batch_size=4, checkpoint=path, checkpoint_seconds=0, **QUIET)
    train(whole := Tiny(), images, cross_entropy, steps=6, batch_size=4, **QUIET)

    real, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == 4:
            raise OSError("no space left on device")
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "replace", replace)
        train(Tiny(), images, cross_entropy, **settings)
    assert os.listdir(tmp_path) == ["c.safetensors"]
    assert restore(Tiny(), path).step == 2

    left = tmp_path / f".c.safetensors.{'0' * 16}.part"
    left.write_bytes(path.read_bytes()[:1000])  # as a power cut leaves it
    os.utime(left, (0, 0))
    train(resumed := Tiny(), images, cross_entropy, **settings)
    assert same(copy(whole), copy(resumed)) and os.listdir(tmp_path) == ["c.safetensors"]


@pytest.mark.parametrize(
    "changed, told",
    [
        (dict(lr=2e-3), "lr is 0.002 here but 0.001 there"),
        (dict(steps=5), "steps is 5 here but 4 there"),
        (dict(seed=1, ema=None), "ema is None here but 0.999 there; seed is 1 here but 0 there"),
        (dict(batch_size=2), "batch_size is 2 here but 4 there"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(changed, told, tmp_path):
    path = tmp_path / "c.safetensors"
    settings = dict(steps=4, batch_size=4, warmup=1, checkpoint=path, **QUIET)
    train(Tiny(), images, cross_entropy, **settings)
    written = path.read_bytes()
    with pytest.raises(ValueError, match=told) as error:
        train(Tiny(), images, cross_entropy, **settings | changed)
    assert str(path) in str(error.value) and "start anew" in str(error.value)
    assert path.read_bytes() == written


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    settings = dict(steps=1, batch_size=3, checkpoint=path, **QUIET)
    train(UNet(1, 2, (4,)), images, cross_entropy, **settings)
    with pytest.raises(ValueError, match="model is 'Tiny' here but 'UNet' there"):
        train(Tiny(), images, cross_entropy, **settings)
    with pytest.raises(ValueError, match=r"does not fit.*stem.weight: expected \(8, 1, 3, 3\), found \(4, 1, 3, 3\)"):
        train(UNet(1, 2, (8,)), images, cross_entropy, **settings)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    settings = dict(steps=1, batch_size=3, checkpoint=path, **QUIET)
    train(UNet(1, 2, (4,)), images, cross_entropy, **settings)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-9] ^= 16
    for bad in (b"", good[:5], good[:700], good[:-1], bytes(flipped)):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="c.safetensors is damaged or incomplete.*delete it"):
            train(UNet(1, 2, (4,)), images, cross_entropy, **settings)
    weights.save(path, UNet(1, 2, (4,)))
    with pytest.raises(ValueError, match="expected the format 'minildm training 1', found 'minildm weights 1'"):
        train(UNet(1, 2, (4,)), images, cross_entropy, **settings)
    with pytest.raises(FileNotFoundError):
        restore(Tiny(), tmp_path / "none.safetensors")


# --- a clear stop


def test_stops_at_a_loss_that_is_not_a_number(tmp_path):
    path = tmp_path / "c.safetensors"
    batches = 0

    def batch(generator, n):
        nonlocal batches
        batches += 1
        x = factors(generator, n)["x"]
        return {"x": x * math.nan if batches == 5 else x}

    with pytest.raises(FloatingPointError) as error:
        settings = dict(steps=9, batch_size=2, lr=0.5, warmup=0, checkpoint=path, checkpoint_seconds=0)
        train(model := Number(), batch, product, **settings, **QUIET)
    rate = learning_rate(4, 9, 0.5, 0)
    for part in ("step 4", "loss is nan", f"learning rate of {rate:.3g}", f"intact: {path}", "lower lr"):
        assert part in str(error.value)
    assert restore(Number(), path).step == 3 and model.w.isfinite().all()


def test_stops_at_an_infinite_gradient():
    with pytest.raises(FloatingPointError, match="gradient inf.*No checkpoint was asked for"):
        train(model := Number(0.0), factors, lambda m, b: m.w.sqrt().sum(), steps=3, batch_size=2, **QUIET)
    assert model.w.item() == 0


def test_a_checkpoint_holds_only_weights_that_worked(tmp_path):
    path = tmp_path / "c.safetensors"
    settings = dict(steps=9, batch_size=2, lr=1e200, warmup=0, checkpoint=path, checkpoint_seconds=0)
    with pytest.raises(FloatingPointError, match="step 1"):  # the first step leads to 1e200, and its square is infinite
        train(Number(), factors, lambda m, b: (m.w * b["x"]).square().mean(), **settings, **QUIET)
    model = Number(7.0)
    assert restore(model, path) == History() and model.w.item() == 3


def test_wrong_arguments_are_named():
    def run(model=None, batch=factors, loss=product, **changed):
        train(model or Number(), batch, loss, **dict(steps=3, batch_size=2, **QUIET) | changed)

    wrong = dict(
        steps=0, batch_size=1.5, lr=math.nan, warmup=3, weight_decay=-1, clip=0, ema=1.0, seed=-1, validate_every=0
    )
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"expected {name}.*got {value}"):
            run(**{name: value})
    with pytest.raises(ValueError, match="nothing|none of its parameters"):
        run(Number().requires_grad_(False))
    with pytest.raises(ValueError, match=r"expected 2 samples in 'x', got shape \(3,\)"):
        run(batch=lambda generator, n: factors(generator, n + 1))
    with pytest.raises(ValueError, match="dict of tensors, got Tensor"):
        run(batch=lambda generator, n: torch.zeros(n))
    with pytest.raises(ValueError, match=r"scalar tensor, got shape \(2,\); take the mean"):
        run(loss=lambda m, b: m.w * b["x"])
    with pytest.raises(ValueError, match="scalar tensor, got float"):
        run(loss=lambda m, b: 1.0)


# --- in processes of their own, forked from one that has imported torch, which is what takes time


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_random_moments(tmp_path):
    _in_fresh_process("kills", tmp_path)
    whole, _ = storage.read(tmp_path / "whole.safetensors")
    killed, _ = storage.read(tmp_path / "killed.safetensors")
    assert len(whole["loss"]) == KILL_STEPS and same(whole, killed)
    found = [name for name in sorted(os.listdir(tmp_path)) if not re.fullmatch(r"\.killed.*\.part", name)]
    assert found == ["killed.safetensors", "whole.safetensors"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
def test_stopped_by_signals_it_saves_and_goes_on_to_the_same(tmp_path):
    _in_fresh_process("signals", tmp_path)
    whole, _ = storage.read(tmp_path / "whole.safetensors")
    stopped, _ = storage.read(tmp_path / "stopped.safetensors")
    assert len(whole["loss"]) == KILL_STEPS and same(whole, stopped)
    assert sorted(os.listdir(tmp_path)) == ["stopped.safetensors", "whole.safetensors"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_learn_what_one_does(tmp_path):
    _in_fresh_process("processes", tmp_path)
    one, zero_of_two, one_of_two, checkpoint_of_one, checkpoint_of_two = (
        storage.read(tmp_path / f"{name}.safetensors")[0]
        for name in ("0 of 1", "0 of 2", "1 of 2", "checkpoint 1", "checkpoint 2")
    )
    assert same(zero_of_two, one_of_two)
    for alone, joined in ((one, zero_of_two), (checkpoint_of_one, checkpoint_of_two)):
        assert alone.keys() == joined.keys()
        for name in alone:
            assert (alone[name] - joined[name]).abs().max() < 1e-6, name
    start = copy(Tiny(dropout=0, norm=nn.GroupNorm(2, 6)))
    assert set(one) - set(start) == {"loss", "looked"}
    moved = {name for name, tensor in start.items() if (one[name] - tensor).abs().max() > 1e-3}
    assert moved == start.keys() - {"frozen"}


KILL_STEPS = 90


def _in_fresh_process(what, folder):
    root = Path(__file__).parents[1]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, __file__, what, folder], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _fork(work, *arguments):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def _to_the_end(folder, name, pipe, checkpoint_seconds=0.0):
    """A training that says at each step, into a pipe, that it is there."""
    os.fsync = lambda file: None  # it guards against power cuts, not kills, and some disks take their time

    def batch(generator, n):
        if pipe is not None:
            os.write(pipe, b".")
        return images(generator, n)

    path = Path(folder, f"{name}.safetensors")
    settings = dict(steps=KILL_STEPS, batch_size=4, checkpoint=path, checkpoint_seconds=checkpoint_seconds)
    train(Tiny(), batch, cross_entropy, **settings, **QUIET)


def _kills(folder):
    """One training runs through; the other is killed eight times, each after some steps and some microseconds."""
    dice = random.Random(3)

    def run(name, pipe):
        _to_the_end(folder, name, pipe)

    child = _fork(run, "whole", None)
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(8):
        end, start = os.pipe()
        child = _fork(run, "killed", start)
        os.close(start)
        for _ in range(dice.randint(1, 9)):
            os.read(end, 1)
        time.sleep(dice.random() * 0.01)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(end)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    child = _fork(run, "killed", None)
    assert os.waitpid(child, 0)[1] == 0


def _signals(folder):
    """The same, asked to stop; only then does it write a checkpoint, but for the first and the last step."""
    dice = random.Random(4)

    def run(name, pipe):
        try:
            _to_the_end(folder, name, pipe, checkpoint_seconds=1e9)
        except SystemExit as stop:
            os._exit(stop.code)
        except KeyboardInterrupt as stop:
            assert re.fullmatch(
                r"stopped after step \d+ of 90; the same training goes on from .*safetensors", str(stop)
            )
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            os._exit(130)

    child = _fork(run, "whole", None)
    assert os.waitpid(child, 0)[1] == 0
    before = 0
    for number, code in [(signal.SIGTERM, 143), (signal.SIGINT, 130)] * 3:
        end, start = os.pipe()
        child = _fork(run, "stopped", start)
        os.close(start)
        more = dice.randint(2, 9)
        for _ in range(more):
            os.read(end, 1)
        time.sleep(dice.random() * 0.01)
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        os.close(end)
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == code
        done = restore(Tiny(), Path(folder, "stopped.safetensors")).step
        assert done >= before + more - 1
        before = done
    assert before < KILL_STEPS
    child = _fork(run, "stopped", None)
    assert os.waitpid(child, 0)[1] == 0


def _processes(folder):
    """The same training in one process, and in two that `accelerate` joins, there with a crash and a resume."""

    def run(rank, world, port):
        if world > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        model = Tiny(dropout=0, norm=nn.GroupNorm(2, 6))
        settings = dict(steps=20, lr=0.01, checkpoint=Path(folder, f"checkpoint {world}.safetensors"))
        if world > 1:
            with pytest.raises(ValueError, match="batch_size 7 does not split evenly over 2 processes"):
                train(model, images, cross_entropy, batch_size=7, **settings, **QUIET)
            with pytest.raises(KeyboardInterrupt):
                train(model, crash_at(12), cross_entropy, batch_size=6, checkpoint_seconds=0, **settings, **QUIET)
            if rank == 1:  # one of the two is told to stop, and both do, at the same step

                def log(step, numbers):
                    raise AssertionError("the first process logs")

                def batch(generator, n):
                    if not told:
                        told.append(os.kill(os.getpid(), signal.SIGTERM))
                    return images(generator, n)

                told = []
            else:
                batch, log = images, None
            with pytest.raises(SystemExit) as stop:
                how = dict(checkpoint_seconds=1e9, log=log, batch_size=6)
                train(model, batch, cross_entropy, **how, **settings, **QUIET)
            assert stop.value.code == 143 and 12 <= restore(model, settings["checkpoint"]).step <= 14
        looks = dict(validate=lambda model: float(model.first.weight.sum()), validate_every=15)
        wrapped = model if world == 1 else nn.parallel.DistributedDataParallel(model)
        history = train(wrapped, images, cross_entropy, batch_size=6, **settings, **looks, **QUIET)
        assert [step for step, _ in history.validation] == [15, 20]  # known to each process, the first one looked
        looked = torch.tensor([value for _, value in history.validation])
        state = copy(model) | {"loss": torch.tensor(history.loss), "looked": looked}
        storage.write(Path(folder, f"{rank} of {world}.safetensors"), state, {})
        if world > 1:
            torch.distributed.destroy_process_group()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(run, 0, 1, 0), _fork(run, 0, 2, port), _fork(run, 1, 2, port)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    assert "accelerate" not in sys.modules  # imported where it is used
    torch.set_num_threads(1)
    for slow in ("accelerate", "torch._dynamo", "torch.distributed.tensor"):  # imported once here, not in each fork
        importlib.import_module(slow)
    {"kills": _kills, "signals": _signals, "processes": _processes}[sys.argv[1]](sys.argv[2])
