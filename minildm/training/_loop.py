"""The training loop."""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minildm.optional import require
from minildm.tensors import check_number, check_whole, fast_bfloat16
from minildm.training._batches import Batch, Source, mix, size_of
from minildm.training._device import Objective, TrainingMode, accelerator, on, precision, seed_streams, streams_kept
from minildm.training._history import History
from minildm.training._rate import learning_rate
from minildm.training._state import Optimizers, State, clone, unwrapped
from minildm.training._stop import Stop


def train(
    model: nn.Module,
    batch: Callable[[torch.Generator, int], Batch] | Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    *,
    steps: int,
    batch_size: int | None = None,
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
    log: Callable[[int, dict[str, float]], object] | None = None,
    workers: int = 0,
    bfloat16: bool | None = None,
    progress: bool = True,
    decay: int | None = None,
    optimizers: Optimizers | None = None,
) -> History:
    """Train `model` in place, with AdamW; it ends in eval mode, on its own device, holding the averaged weights.

    model: may be compiled (`torch.compile`) or wrapped for several GPUs; its checkpoint is that of the plain network.
        A part that is frozen and in eval mode stays in eval mode.
    batch: (generator, n) -> tensors of n samples each, by name; every random choice comes from the generator.
        One that reads a stream has a method `seek` too, called before each step with how many samples lie before it.
        Or a DataLoader, or a list of batches: each a dict of tensors, one for each step, in rounds until the steps
        are done. Each round is seeded anew by its number, the loader's own generator included; a run that goes on
        skips to its place, loading again what the round under way has had. (Persistent workers keep their streams
        from round to round: what they draw after that is new.)
    loss: (model, tensors) -> scalar, a mean over the samples.
        What can only draw from torch's global stream may do so in both (dropout, torchvision's transforms): at each
        step the stream is seeded inside, and at the end it is as it was.
    steps, batch_size: how many steps, and of how many samples, over all processes together; a loader has its own size.
    lr, warmup: the peak of `learning_rate`, and after how many steps it is reached (default: 1/20 of the steps).
    weight_decay: of matrices and kernels; biases and normalisations are left alone.
    clip: the largest norm of the gradient, as one vector over all parameters; math.inf for no limit.
    ema: how much of the running average of the weights is kept at each step, or None to end with the last weights.
        At the k-th step no more than (1 + k) / (10 + k) is kept, so that short trainings forget their start.
    checkpoint: a .safetensors file, written every `checkpoint_seconds`, at the end, and before SIGTERM or Ctrl-C ends
        the program (that takes a step or two; a second one ends it at once). If it is there, training continues from
        it, on a CPU to bit-identical weights; if it was finished, `train` returns at once. Changed settings are
        refused; a changed `batch` or `loss` cannot be seen.
    validate: called with the averaged model, in eval mode without gradients, every `validate_every` steps and at the
        end. What it returns, a number or a dict of numbers, goes into the history.
    log: called after each step with the number of steps done and a dict: "loss", "lr", "grad_norm" (before it was
        clipped), and after a validation "validation", or "validation/NAME" for each number. See below.
    workers: processes that prepare batches ahead, for a function; a DataLoader has its own.
    bfloat16: autocast to it (default: on a GPU that can). Some CPUs gain too: `tensors.fast_bfloat16` knows them.
    progress: say where the checkpoint lies, and show a bar.
    decay: over how many steps at the end the learning rate falls, as `learning_rate` has it (default: all).
    optimizers: others than AdamW: (parameters by name) -> list of optimizers, which share them out, such as `Muon`
        for matrices and AdamW for the rest. The learning rates they are made with are their peaks; `lr` says the form
        alone, and `weight_decay` is theirs.

    A GPU is used when there; several, or several CPU processes, under `torchrun` or `accelerate launch`: each process
    takes an equal slice of the batch, and batch normalisation sees that slice only. Set ACCELERATE_USE_CPU=1 to stay
    on the CPU. An `Accelerator` made before decides the device, and nothing else.

    Logs, to a CSV file, to TensorBoard, and to Weights & Biases:

        file = open("log.csv", "a")
        def log(step, numbers):
            print(step, numbers["loss"], numbers["lr"], numbers["grad_norm"], sep=",", file=file, flush=True)

        writer = torch.utils.tensorboard.SummaryWriter("logs")
        def log(step, numbers):
            [writer.add_scalar(name, value, step) for name, value in numbers.items()]

        run = wandb.init(project="minildm")
        def log(step, numbers):
            run.log(numbers, step=step)

    Raises FloatingPointError when loss or gradient is no longer finite, ValueError for a checkpoint that is damaged
    or belongs to another training, for arguments out of range, and for a `batch` or `loss` of the wrong kind.
    Sources: AdamW, Loshchilov and Hutter (2019); cosine decay, the same (2017); averaging, Polyak and Juditsky (1992).
    """
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise ValueError(f"expected steps, a whole number from 1, got {steps!r}")
    warmup = steps // 20 if warmup is None else warmup
    size = size_of(batch, batch_size)
    _check(steps, size, lr, warmup, weight_decay, clip, ema, seed, validate_every)
    if decay is not None:
        check_whole(decay, lambda n: 1 <= n <= steps, "decay as a whole number of steps from 1 to all of them")
    if workers and not callable(batch):
        raise ValueError("workers prepare what a function makes; give the DataLoader num_workers instead")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # joining the processes is done here
    plain = unwrapped(model)
    if not any(p.requires_grad for p in plain.parameters()):
        raise ValueError("expected a model with something to train, but none of its parameters requires a gradient")
    home, into_training = next(plain.parameters()).device, TrainingMode(model)

    with Stop(wanted=checkpoint is not None) as stop, accelerator() as processes, torch.enable_grad():
        device, world, rank = processes.device, processes.num_processes, processes.process_index
        main, pin, said = rank == 0, device.type == "cuda", progress and rank == 0
        if bfloat16 is None:
            bfloat16 = device.type == "cuda" and fast_bfloat16(device)
        source = Source(batch, size, seed, rank, world)
        try:
            model.to(device, memory_format=torch.channels_last)
            objective = processes.prepare(Objective(model, loss))
            settings = dict(steps=steps, batch_size=size, lr=lr, warmup=warmup, weight_decay=weight_decay)
            if decay is not None:
                settings["decay"] = decay
            # Only now, for joining processes moves the weights in memory.
            state = State(plain, optimizers, **settings, clip=clip, ema=ema, seed=seed)
            resumed = checkpoint is not None and Path(checkpoint).exists()
            if resumed:
                state.resume(checkpoint)
            history, start = state.history, state.history.step
            if checkpoint is not None and said:
                print(f"checkpoint: {checkpoint} ({f'goes on after step {start} of {steps}' if resumed else 'new'})")

            began, saved, asked = time.monotonic() - history.seconds, -math.inf, 0.0
            bar = _bar(steps, start, said)
            with bar, streams_kept(device), source.batches(start, steps, workers, pin) as batches:
                into_training()
                for step, tensors in zip(range(start, steps), batches, strict=False):
                    stopping = stop.asked if world == 1 else asked > 0
                    save = stopping or time.monotonic() - saved >= checkpoint_seconds
                    save = save and checkpoint is not None and main
                    before = clone(state.buffers) if save else {}
                    seed_streams(device, mix(seed, step, 2, rank))

                    state.zero_grad()
                    with precision(device, bfloat16):
                        value = objective(on(tensors, device))
                    processes.backward(value)
                    grad_norm = processes.clip_grad_norm_(state.parameters.values(), clip)
                    numbers = [
                        value.detach().float(),
                        grad_norm.float(),
                        torch.full((), float(stop.asked), device=device),
                    ]
                    # Of all processes, so that all stop at the same step; and one wait for the GPU, not three.
                    value, grad_norm, asked = processes.reduce(torch.stack(numbers), "mean").tolist()
                    rate = learning_rate(step, steps, lr, warmup, decay)
                    if not math.isfinite(value + grad_norm):
                        raise FloatingPointError(_diverged(step, value, grad_norm, rate, checkpoint))
                    if save:  # only now, because these weights have just given a finite loss and gradient
                        state.save(checkpoint, before)
                        saved = time.monotonic()
                    if stopping:
                        processes.wait_for_everyone()  # for the first one saves
                        raise stop.error(_stopped(step, steps, checkpoint), said)
                    state.update(rate)

                    history.loss.append(value)
                    history.seconds = time.monotonic() - began
                    bar.set_postfix(loss=f"{np.mean(history.loss[-50:]):.4g}", lr=f"{rate:.1e}", refresh=False)
                    bar.update()
                    numbers = {"loss": value, "lr": rate, "grad_norm": grad_norm}
                    if validate and main and (history.step % validate_every == 0 or history.step == steps):
                        with state.averaged(), torch.no_grad():
                            numbers |= history.note(validate(model.eval()))
                        into_training()
                    if log and main:
                        log(history.step, numbers)
            if checkpoint is not None and main and start < steps:
                state.save(checkpoint, {})
            state.finish()
            if world > 1:  # only the first process has validated; a recipe may want to know in all
                history.validation = require("accelerate.utils").broadcast_object_list([history.validation])[0]
            processes.wait_for_everyone()
            if stop.asked:
                raise stop.error(_stopped(steps, steps, checkpoint), said)
        finally:
            model.eval().to(home)
    return history


def _bar(steps, done, show):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets tqdm warns, and then prints a good text bar
        from tqdm.auto import tqdm
    return tqdm(total=steps, initial=done, disable=not show, mininterval=0.5, desc="train")


def _check(steps, batch_size, lr, warmup, weight_decay, clip, ema, seed, validate_every):
    rules = {
        "steps, a whole number from 1": (steps, isinstance(steps, int) and steps >= 1),
        "batch_size, a whole number from 1": (
            batch_size,
            batch_size is None or isinstance(batch_size, int) and batch_size >= 1,
        ),
        "lr, a finite number above 0": (lr, lambda v: 0 < v < math.inf),
        "warmup, from 0 to below steps": (warmup, lambda v: 0 <= v < steps),
        "weight_decay, from 0": (weight_decay, lambda v: 0 <= v < math.inf),
        "clip, above 0 (math.inf for no limit)": (clip, lambda v: v > 0),
        "ema, from 0 to below 1, or None": (0 if ema is None else ema, lambda v: 0 <= v < 1),
        "seed, a whole number from 0": (seed, isinstance(seed, int) and seed >= 0),
        "validate_every, a whole number from 1": (
            validate_every,
            isinstance(validate_every, int) and validate_every > 0,
        ),
    }
    for rule, (value, holds) in rules.items():
        if callable(holds):
            check_number(value, holds, rule)
        elif not holds:
            raise ValueError(f"expected {rule}, got {value!r}")


def _stopped(step, steps, checkpoint):
    return f"stopped after step {step} of {steps}; the same training goes on from {checkpoint}"


def _diverged(step, value, grad_norm, rate, checkpoint):
    what = f"the loss is {value:.4g} and the norm of the gradient {grad_norm:.4g}"
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
