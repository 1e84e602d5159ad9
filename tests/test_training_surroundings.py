"""What a training finds around it, and leaves as it was: accelerate, torch's defaults, signals; compiled models."""

import signal
import threading

import accelerate
import pytest
import torch
import torch.nn.functional as F
from test_training import QUIET, Number, Tiny, copy, cross_entropy, factors, images, product, same
from torch import nn

from minildm.training import restore, train
from minildm.training._device import accelerator
from minildm.unet import UNet

STATES = accelerate.PartialState, accelerate.state.AcceleratorState, accelerate.state.GradientState
FEW = dict(steps=3, batch_size=4, **QUIET)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """As in a program that has not used it; and afterwards as before."""
    before = [dict(state._shared_state) for state in STATES]
    for state in STATES:
        state._shared_state.clear()
    yield
    for state, values in zip(STATES, before, strict=True):
        state._shared_state.clear()
        state._shared_state.update(values)


# --- accelerate


@pytest.mark.parametrize(
    "own",
    [
        dict(),
        dict(mixed_precision="bf16"),
        dict(mixed_precision="no", cpu=True),
        dict(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=4),
    ],
)
def test_an_accelerator_made_before_is_left_alone_and_changes_nothing(own):
    train(expected := Tiny(), images, cross_entropy, **FEW)
    mine = accelerate.Accelerator(**own)
    before = [dict(state._shared_state) for state in STATES]
    train(model := Tiny(), images, cross_entropy, **FEW)
    assert same(copy(expected), copy(model))
    assert [dict(state._shared_state) for state in STATES] == before
    assert mine.mixed_precision == own.get("mixed_precision", "no")
    assert mine.gradient_accumulation_steps == own.get("gradient_accumulation_steps", 1)
    net = mine.prepare(nn.Linear(2, 2))  # it still works, in its own precision
    with mine.accumulate(net):
        mine.backward(net(torch.ones(1, 2)).sum())


@pytest.mark.parametrize("how", ["train", "fails"])
def test_an_accelerator_can_be_made_afterwards_in_any_way(how):
    if how == "fails":
        with pytest.raises(FloatingPointError):
            train(Number(), factors, lambda m, b: m.w.sum() * torch.nan, steps=1, batch_size=1, **QUIET)
    else:
        train(Tiny(), images, cross_entropy, **FEW)
    assert not any(state._shared_state for state in STATES)
    assert accelerate.Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"


@pytest.mark.parametrize("there, expected", [(True, "cpu"), (False, "cuda")])
def test_an_accelerator_made_before_decides_the_device(there, expected, monkeypatch):
    """A machine with a GPU, stood in for by what accelerate says of it."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    made = []
    monkeypatch.setattr(accelerate, "Accelerator", lambda cpu, **settings: made.append(cpu))
    if there:
        accelerate.PartialState(cpu=True)
    else:
        monkeypatch.setattr(accelerate.PartialState, "default_device", torch.device("cuda"))
    with accelerator():
        assert accelerate.PartialState().device.type == expected
    assert made == [expected == "cpu"]


# --- torch's own settings


def settings_of_torch():
    flags = torch.backends.cudnn
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        (flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("benchmark", [True, False])
def test_the_settings_of_torch_are_neither_changed_nor_in_the_way(
    dtype, device, grad, benchmark, monkeypatch, tmp_path
):
    train(expected := Tiny(), images, cross_entropy, **FEW)
    model = Tiny()

    def batch(generator, n):
        with torch.device("cpu"):
            x = torch.randn(n, 1, 7, 5, generator=generator, dtype=torch.float32)
        return {"x": x, "y": (x > 0.3).long().squeeze(1)}

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmark)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.set_grad_enabled(grad):
            before = settings_of_torch()
            history = train(model, batch, cross_entropy, checkpoint=tmp_path / "c.safetensors", **FEW)
            assert settings_of_torch() == before
            assert restore(model, tmp_path / "c.safetensors") == history
    finally:
        torch.set_default_dtype(usual)
    assert same(copy(expected), copy(model))


def test_signals_are_put_back_and_those_of_ones_own_stay(tmp_path):
    seen = []

    def own(number, frame):
        seen.append(number)

    def loss(model, tensors):
        handlers.append((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
        signal.raise_signal(signal.SIGTERM)
        return product(model, tensors)

    path, handlers, before = tmp_path / "c.safetensors", [], signal.getsignal(signal.SIGINT)
    usual = signal.signal(signal.SIGTERM, own)
    try:
        history = train(Number(), factors, loss, steps=2, batch_size=2, checkpoint=path, **QUIET)
        assert history.step == 2 and seen == [signal.SIGTERM] * 2  # theirs to decide what it comes to
        assert all(sigterm is own and sigint is not before for sigint, sigterm in handlers)
        assert signal.getsignal(signal.SIGTERM) is own and signal.getsignal(signal.SIGINT) is before
        del handlers[:]
        train(Number(), factors, loss, steps=2, batch_size=2, **QUIET)  # nothing to save
        assert all(sigint is before for sigint, _ in handlers)
    finally:
        signal.signal(signal.SIGTERM, usual)


def test_the_second_signal_ends_at_once(tmp_path):
    path, calls = tmp_path / "c.safetensors", []

    def loss(model, tensors):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return product(model, tensors)

    with pytest.raises(KeyboardInterrupt) as error:
        train(Number(), factors, loss, steps=9, batch_size=2, checkpoint=path, **QUIET)
    assert str(error.value) == "" and len(calls) == 3 and restore(Number(), path).step == 0


def test_a_signal_at_the_last_step_ends_after_it(tmp_path):
    path = tmp_path / "c.safetensors"

    def log(step, numbers):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 3 of 3"):
        train(Number(), factors, product, checkpoint=path, log=log, **FEW)
    assert restore(Number(), path).step == 3


def test_it_trains_in_another_thread(tmp_path):
    found = []

    def run():
        found.append(train(Number(), factors, product, checkpoint=tmp_path / "c.safetensors", **FEW).step)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [3]


# --- modes


class Around(nn.Module):
    """A small head on a network that is there already."""

    def __init__(self):
        super().__init__()
        self.there, self.head = Tiny(), nn.Sequential(nn.Dropout(0.1), nn.Conv2d(2, 2, 1))

    def forward(self, x):
        return self.head(self.there(x))


@pytest.mark.parametrize("frozen, in_eval", [(True, True), (True, False), (False, True)])
def test_a_frozen_part_in_eval_mode_stays_so(frozen, in_eval):
    model, modes = Around(), []
    model.there.requires_grad_(not frozen).train(not in_eval)
    before = model.there.norm.running_mean.clone()

    def loss(model, tensors):
        modes.append([part.training for part in (model, model.head[0], model.there, model.there.dropout)])
        return cross_entropy(model, tensors)

    train(model, images, loss, validate=lambda m: None, validate_every=1, ema=None, **FEW)
    kept = frozen and in_eval
    assert modes == [[True, True, not kept, not kept]] * 3
    assert torch.equal(model.there.norm.running_mean, before) == kept
    assert not any(part.training for part in model.modules())


def test_frozen_normalisations_in_eval_mode_stay_so():
    model = Tiny()
    model.norm.requires_grad_(False).eval()
    before = model.norm.running_var.clone()
    train(model, images, cross_entropy, **FEW)
    assert torch.equal(model.norm.running_var, before)
    model = Tiny().eval()  # as one that was loaded: it learns, so it is put into training mode
    train(model, images, cross_entropy, **FEW)
    assert not torch.equal(model.norm.running_var, before)


# --- compiled and wrapped models


def part_compiled(model):
    model.last = model.again = torch.compile(model.last, backend="eager")
    return model


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "in place": lambda model: model.compile(backend="eager") or model,
    "in part": part_compiled,
    "parallel": nn.DataParallel,
    "parallel and compiled": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, while it compiles
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_checkpoints_of_wrapped_models_are_those_of_the_plain_one(wrap, tmp_path):
    path, settings = tmp_path / "c.safetensors", dict(batch_size=4, checkpoint_seconds=0, **QUIET)

    def log(step, numbers):
        if step == 2:
            raise KeyboardInterrupt

    with torch.device("cpu"):
        train(whole := Tiny(0), images, cross_entropy, steps=4, **settings)
        with pytest.raises(KeyboardInterrupt):
            train(wrap(Tiny(0)), images, cross_entropy, steps=4, checkpoint=path, log=log, **settings)
        history = restore(plain := Tiny(0), path)
        assert history == restore(wrapped := wrap(Tiny(0)), path) and history.step == 1
        assert torch.equal(plain.norm.running_mean, dict(wrapped.named_buffers())[_named(wrapped, "running_mean")])
        train(resumed := Tiny(0), images, cross_entropy, steps=4, checkpoint=path, **settings)
    for name, tensor in copy(whole).items():
        assert (tensor.float() - copy(resumed)[name].float()).abs().max() < 1e-5, name
    assert not resumed.training and type(resumed) is Tiny
    train(wrap(again := Tiny(0)), images, cross_entropy, steps=4, checkpoint=path, **settings)  # finished: as it is
    assert torch.equal(again.first.weight, resumed.first.weight)


def _named(module, ending):
    return next(name for name, _ in module.named_buffers() if name.endswith(ending))


def test_a_compiled_u_trains_as_the_plain_one(tmp_path):
    def batch(generator, n):
        return {"x": torch.randn(n, 1, 8, 8, generator=generator)}

    def loss(model, tensors):
        return F.mse_loss(model(tensors["x"]), tensors["x"])

    path = tmp_path / "c.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = UNet(1, 1, (4, 8))
    other = UNet(1, 1, (4, 8))
    other.load_state_dict(plain.state_dict())
    train(plain, batch, loss, **FEW)
    train(torch.compile(other, backend="eager"), batch, loss, checkpoint=path, **FEW)
    for name, tensor in copy(plain).items():
        assert (tensor - copy(other)[name]).abs().max() < 1e-6, name
    restore(again := UNet(1, 1, (4, 8)), path)
    assert same(copy(again), copy(other))


@pytest.mark.parametrize("format", ["minildm training 0", "minildm training 2", None])
def test_another_format_is_refused(format, tmp_path):
    from minildm import storage

    path = tmp_path / "c.safetensors"
    train(Number(), factors, product, checkpoint=path, **FEW)
    tensors, metadata = storage.read(path)
    del metadata["format"]
    storage.write(path, tensors, metadata | ({"format": format} if format else {}))
    for run in (lambda: restore(Number(), path), lambda: train(Number(), factors, product, checkpoint=path, **FEW)):
        with pytest.raises(ValueError, match=f"expected the format 'minildm training 1', found {format or 'none'!r}"):
            run()


def test_a_checkpoint_that_trained_other_parts_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    train(Tiny(), images, cross_entropy, checkpoint=path, steps=3, batch_size=4, ema=None, **QUIET)
    model = Tiny()
    model.first.requires_grad_(False)
    with pytest.raises(ValueError, match=r"has trained first\.\w+, which does not learn here"):
        train(model, images, cross_entropy, checkpoint=path, steps=3, batch_size=4, ema=None, **QUIET)
