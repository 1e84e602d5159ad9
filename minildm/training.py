"""One training loop for every lesson and recipe, on Hugging Face `accelerate`.

What is learned is said by two functions: `batch` makes the data, with all its randomness, and `loss` measures the
model on it. Both depend on their arguments alone, and the generator of each step comes from (seed, step), so a run
that was killed continues from its checkpoint to the very same weights, and N processes learn what one would.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from minildm import storage
from minildm.optional import require
from minildm.tensors import fast_bfloat16

FORMAT = "minildm training 1"


@dataclass
class History:
    """What happened so far: `plot(history.loss)` is the loss curve.

    loss: one number per step.  validation: (steps done, what `validate` returned).  seconds: of training, all runs.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[tuple[int, float | dict]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.loss)

    def note(self, result: float | dict | None) -> None:
        """Keep what `validate` returned, as plain numbers; None, from one that only looks or draws, is not kept."""
        if isinstance(result, Mapping):
            self.validation.append((self.step, {name: float(value) for name, value in result.items()}))
        elif result is not None:
            self.validation.append((self.step, float(result)))


def train(
    model: nn.Module,
    batch: Callable[[torch.Generator, int], dict[str, Tensor]],
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor],
    *,
    steps: int,
    batch_size: int,
    lr: float = 1e-3,
    warmup: int | None = None,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    ema: float | None = 0.999,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    validate: Callable[[nn.Module], float | dict] | None = None,
    validate_every: int = 100,
    workers: int = 0,
    bfloat16: bool | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place with AdamW; it ends in eval mode, on its own device, holding the averaged weights.

    batch: (generator, n) -> tensors of n samples each, by name; every random choice comes from the generator.
        One that reads a stream has a method `seek` too: told before each step how many samples lie before it.
    loss: (model, tensors) -> scalar, a mean over the samples.
        What can only draw from torch's global stream may do so in both (dropout, torchvision's transforms): at each
        step the stream is seeded inside, and at the end it is as it was.
    steps, batch_size: how many steps, and of how many samples, over all processes together.
    lr, warmup: the peak of `learning_rate`, and after how many steps it is reached (default: 1/20 of the steps).
    weight_decay: of matrices and kernels; biases and normalisations are left alone.
    clip: the longest gradient allowed, as one vector over all parameters; math.inf for no limit.
    ema: how much of the running average of the weights is kept at each step, or None to end with the last weights.
        At the k-th step no more than (1 + k) / (10 + k) is kept, so that short trainings forget their start.
    checkpoint: a .safetensors file, written every `checkpoint_seconds` and at the end. If it is there, training
        continues from it, on a CPU to bit-identical weights; if it was finished, `train` returns at once. Changed
        settings are refused; a changed `batch` or `loss` cannot be seen.
    validate: called with the averaged model, in eval mode without gradients, every `validate_every` steps and at the
        end. What it returns, a number or a dict of numbers, goes into the history.
    workers: processes that prepare batches ahead.
    bfloat16: autocast to it (default: on a GPU that can). Some CPUs gain too: `tensors.fast_bfloat16` knows them.

    A GPU is used when there; several, or several CPU processes, under `torchrun` or `accelerate launch`: each process
    takes an equal slice of the batch, and batch normalisation sees that slice only. Set ACCELERATE_USE_CPU=1 to stay
    on the CPU.

    Raises FloatingPointError when loss or gradient is no longer finite, ValueError for a checkpoint that is damaged
    or belongs to another training, for arguments out of range, and for a `batch` or `loss` of the wrong kind.
    Sources: AdamW, Loshchilov and Hutter (2019); cosine decay, the same (2017); averaging, Polyak and Juditsky (1992).
    """
    accelerate = require("accelerate")
    warmup = steps // 20 if warmup is None else warmup
    _check(steps, batch_size, lr, warmup, weight_decay, clip, ema, seed, validate_every)
    cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    device = accelerate.PartialState(cpu=cpu).device
    if bfloat16 is None:
        bfloat16 = device.type == "cuda" and fast_bfloat16(device)
    accelerator = accelerate.Accelerator(cpu=cpu, mixed_precision="no")
    rank, world, main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    if batch_size % world:
        raise ValueError(f"batch_size {batch_size} does not split evenly over {world} processes; use a multiple")

    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("expected a model with something to train, but none of its parameters requires a gradient")
    home = next(model.parameters()).device
    try:
        model.to(device, memory_format=torch.channels_last)
        objective = accelerator.prepare(_Objective(model, loss))
        run = _Run(model, lr, weight_decay, ema)  # only now: joining processes moves the weights in memory
        run.settings |= dict(steps=steps, batch_size=batch_size, lr=lr, warmup=warmup, weight_decay=weight_decay)
        run.settings |= dict(clip=clip, ema=ema, seed=seed)
        if checkpoint is not None and Path(checkpoint).exists():
            run.resume(checkpoint)
        history, start = run.history, run.history.step

        batches = _Batches(batch, batch_size, seed, rank, world)
        pin = device.type == "cuda"
        data = DataLoader(batches, batch_size=None, sampler=range(start, steps), num_workers=workers, pin_memory=pin)
        began, saved = time.monotonic() - history.seconds, -math.inf
        bar = _bar(steps, start, progress and main)
        with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.train()
            for step, tensors in zip(range(start, steps), data, strict=True):
                save = checkpoint is not None and main and time.monotonic() - saved >= checkpoint_seconds
                before = _clone(run.buffers) if save else {}
                torch.default_generator.manual_seed(_mix(seed, step, 2, rank))
                if device.type == "cuda":
                    torch.cuda.manual_seed(_mix(seed, step, 2, rank))

                run.optimizer.zero_grad()
                with _precision(device, bfloat16):
                    value = objective(_on(tensors, device))
                accelerator.backward(value)
                length = accelerator.clip_grad_norm_(run.parameters.values(), clip)
                value = accelerator.reduce(value.detach().float(), "mean")
                value, length = torch.stack([value, length.float()]).tolist()  # one wait for the GPU, not two
                rate = learning_rate(step, steps, lr, warmup)
                if not math.isfinite(value + length):
                    raise FloatingPointError(_diverged(step, value, length, rate, checkpoint))
                if save:  # only now, because these weights have just given a finite loss and gradient
                    run.save(checkpoint, before)
                    saved = time.monotonic()
                run.update(rate)

                history.loss.append(value)
                history.seconds = time.monotonic() - began
                bar.set_postfix(loss=f"{np.mean(history.loss[-50:]):.4g}", lr=f"{rate:.1e}", refresh=False)
                bar.update()
                if validate and main and (history.step % validate_every == 0 or history.step == steps):
                    with run.averaged(), torch.no_grad():
                        history.note(validate(model.eval()))
                    model.train()
            if checkpoint is not None and main and start < steps:
                run.save(checkpoint, {})
            run.finish()
            if world > 1:  # only the first process has validated; a recipe may want to know in all
                history.validation = accelerate.utils.broadcast_object_list([history.validation])[0]
            accelerator.wait_for_everyone()
    finally:
        model.eval().to(home)
    return history


def restore(model: nn.Module, checkpoint: str | Path) -> History:
    """Fill `model` with the averaged weights of a training under way, stopped or finished; returns its history.

    Raises FileNotFoundError when there is no such file, ValueError when it is damaged or of another model.
    """
    history, _, parts = _read(checkpoint)
    storage.fill(storage.state(model), parts["model"] | parts.get("ema", {}), checkpoint)
    model.eval()
    return history


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """The rate at a step: a straight line up to `lr` over `warmup` steps, then half a cosine down towards zero."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


class _Run:
    """All that changes from step to step, and its way to disk and back."""

    def __init__(self, model, lr, weight_decay, ema):
        self.model, self.ema = model, ema
        self.state = storage.state(model)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        fixed = {name for name, _ in model.named_parameters()}
        self.buffers = {name: t for name, t in self.state.items() if name not in fixed}
        moving = self.parameters | {n: t for n, t in self.buffers.items() if t.is_floating_point()}
        self.moving = {name: self.state[name] for name in moving} if ema is not None else {}
        self.average = _clone(self.moving)
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        vectors = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.fused = next(iter(self.parameters.values())).device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=self.fused)
        self.settings = {"model": type(model).__name__}
        self.history = History()

    def update(self, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.moving:
            k = self.history.step
            keep = min(self.ema, (1 + k) / (10 + k))
            get_ema_multi_avg_fn(keep)(list(self.average.values()), list(self.moving.values()), None)

    @contextmanager
    def averaged(self):
        """Inside, the model holds the averaged weights."""
        own = _clone(self.moving)
        self.finish()
        try:
            yield
        finally:
            for name, tensor in self.moving.items():
                tensor.copy_(own[name])

    def finish(self):
        for name, tensor in self.moving.items():
            tensor.copy_(self.average[name])

    def save(self, path, buffers):
        """buffers: as they were before this step's forward pass changed them (batch normalisation counts there)."""
        parts = {"model": self.state | buffers, "ema": self.average}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                parts.setdefault(f"optimizer.{key}", {})[name] = value
        tensors = {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}
        tensors["loss"] = torch.tensor(self.history.loss, dtype=torch.float64)
        rest = {"seconds": self.history.seconds, "validation": self.history.validation}
        metadata = {"format": FORMAT, "settings": json.dumps(self.settings), "history": json.dumps(rest)}
        storage.write(path, tensors, metadata)

    def resume(self, path):
        self.history, settings, parts = _read(path)
        differ = [
            f"{key} is {mine!r} here but {settings.get(key)!r} there"
            for key, mine in self.settings.items()
            if settings.get(key) != mine
        ]
        if differ:
            raise ValueError(
                f"the checkpoint {path} belongs to another training: {'; '.join(differ)}. Use the same settings to "
                "continue it, or give another checkpoint path (or delete the file) to start anew"
            )
        storage.fill(self.state, parts["model"], path)
        storage.fill(self.average, parts.get("ema", {}), path)
        for part in parts:
            if part.startswith("optimizer."):
                key = part.removeprefix("optimizer.")
                for name, tensor in parts[part].items():
                    parameter = self.parameters[name]
                    if key == "step":  # a count, which AdamW keeps beside the weights only where it is fused
                        tensor = tensor.clone().to(parameter.device if self.fused else "cpu")
                    else:  # in the parameter's own memory layout
                        tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
                    self.optimizer.state[parameter][key] = tensor


class _Objective(nn.Module):
    """Model and loss as one module: so mixed precision and gradient averaging see all that the loss does."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, (loss,)  # in a tuple, for a loss with weights of its own is not to be trained

    def forward(self, tensors):
        value = self.loss[0](self.model, tensors)
        if not isinstance(value, Tensor) or value.ndim:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"expected loss(model, tensors) to return a scalar tensor, got {found}; take the mean")
        return value


class _Batches(Dataset):
    """This process's slice of the batch of each step."""

    def __init__(self, batch, size, seed, rank, world):
        self.batch, self.size, self.seed = batch, size, seed
        self.slice = slice(rank * size // world, (rank + 1) * size // world)

    def __getitem__(self, step):
        torch.default_generator.manual_seed(_mix(self.seed, step, 1))  # `train` puts the stream back at its end
        if hasattr(self.batch, "seek"):
            self.batch.seek(step * self.size)
        tensors = self.batch(torch.Generator().manual_seed(_mix(self.seed, step, 0)), self.size)
        if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
            raise ValueError(f"expected batch(generator, n) to return a dict of tensors, got {type(tensors).__name__}")
        for name, tensor in tensors.items():
            if tensor.shape[:1] != (self.size,):
                raise ValueError(f"expected {self.size} samples in {name!r}, got shape {tuple(tensor.shape)}")
        return {name: tensor[self.slice] for name, tensor in tensors.items()}


def _mix(*numbers):
    """One seed out of several numbers, such that neighbours give unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


@contextmanager
def _precision(device, bfloat16):
    """Inside, what gains from it and can bear it is calculated in bfloat16."""
    # On a CPU the fused attention's way back is slow in bfloat16: spelled out, the pocket U-Net trains 1.3× as fast.
    attention = sdpa_kernel(SDPBackend.MATH) if bfloat16 and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16), attention:
        yield


def _clone(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _on(tensors, device):
    moved = {}
    for name, tensor in tensors.items():
        layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        moved[name] = tensor.to(device, non_blocking=True, memory_format=layout)
    return moved


def _read(path):
    tensors, metadata = storage.read(path)
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise ValueError(f"{path}: expected the format {FORMAT!r}, found {found!r}; give another checkpoint path")
    parts = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    rest = json.loads(metadata["history"])
    validation = [(step, value) for step, value in rest["validation"]]
    history = History(tensors["loss"].tolist(), validation, rest["seconds"])
    return history, json.loads(metadata["settings"]), parts


def _bar(steps, done, show):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets tqdm warns, and then prints a good text bar
        from tqdm.auto import tqdm
    return tqdm(total=steps, initial=done, disable=not show, mininterval=0.5, desc="train")


def _check(steps, batch_size, lr, warmup, weight_decay, clip, ema, seed, validate_every):
    rules = {
        "steps, a whole number from 1": (steps, isinstance(steps, int) and steps >= 1),
        "batch_size, a whole number from 1": (batch_size, isinstance(batch_size, int) and batch_size >= 1),
        "lr, a finite number above 0": (lr, 0 < lr < math.inf),
        "warmup, from 0 to below steps": (warmup, 0 <= warmup < steps),
        "weight_decay, from 0": (weight_decay, 0 <= weight_decay < math.inf),
        "clip, above 0 (math.inf for no limit)": (clip, clip > 0),
        "ema, from 0 to below 1, or None": (ema, ema is None or 0 <= ema < 1),
        "seed, a whole number from 0": (seed, isinstance(seed, int) and seed >= 0),
        "validate_every, a whole number from 1": (
            validate_every,
            isinstance(validate_every, int) and validate_every > 0,
        ),
    }
    for rule, (value, holds) in rules.items():
        if not holds:
            raise ValueError(f"expected {rule}; got {value!r}")


def _diverged(step, value, length, rate, checkpoint):
    what = f"the loss is {value:.4g} and the length of the gradient {length:.4g}"
    if checkpoint is None:
        kept = "No checkpoint was asked for."
    elif Path(checkpoint).exists():
        kept = f"The last good checkpoint is intact: {checkpoint} (minildm.training.restore reads it)."
    else:
        kept = f"No checkpoint was written yet to {checkpoint}."
    return (
        f"training stopped at step {step}: {what}, at a learning rate of {rate:.3g}. {kept} Try a lower lr "
        "(a third), a longer warmup or a smaller clip, with a new checkpoint path; if it stops at the first step, "
        "look for NaN or infinity in the batch and for log, sqrt or a division in the loss"
    )
