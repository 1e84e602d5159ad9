"""Where a training's data comes from: this process's slice of each step's batch, on any day the same one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from minildm.training._stop import in_worker

Batch = dict[str, Tensor]


def mix(*numbers: int) -> int:
    """One seed out of several numbers, such that neighbours give unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def size_of(batch: Callable | Iterable, batch_size: int | None) -> int | None:
    """How many samples a step takes: what was said for a function, what a loader has; None where no one knows."""
    if callable(batch):
        if batch_size is None:
            raise ValueError("expected batch_size, a whole number from 1, with a function as batch; got None")
        return batch_size
    if isinstance(batch, Dataset) or not isinstance(batch, Iterable):
        hint = "; wrap it: DataLoader(dataset, batch_size=..., shuffle=True)" if hasattr(batch, "__getitem__") else ""
        raise ValueError(
            "expected batch as a function (generator, n) -> dict of tensors, a DataLoader, or anything else to iterate "
            f"over that gives dicts of tensors; got {type(batch).__name__}{hint}"
        )
    own = getattr(batch, "batch_size", None)
    if batch_size not in (None, own):
        raise ValueError(f"the batches have their own size, {own or 'which may change'}: leave batch_size out")
    return own


@dataclass
class Source:
    """A batch function or loader, for one of `world` processes."""

    batch: Callable | Iterable
    size: int | None
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if (self.size or 0) % self.world:
            raise ValueError(
                f"batch_size {self.size} does not split evenly over {self.world} processes; use a multiple"
            )

    def batches(
        self, start: int, steps: int, workers: int = 0, pin_memory: bool = False
    ) -> AbstractContextManager[Iterator[Batch]]:
        """Inside, the batches of the steps from `start` on, as if those before had been gone through."""
        if callable(self.batch):
            return nullcontext(self._drawn(start, steps, workers, pin_memory))
        return closing(self._loaded(start))

    def _drawn(self, start, steps, workers, pin_memory):
        data = DataLoader(
            _Drawn(self),
            batch_size=None,
            sampler=range(start, steps),
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=in_worker,
        )
        with torch.device("cpu"):  # for the loader draws a seed of its own, which is to be of the CPU everywhere
            return iter(data)

    def _loaded(self, start):
        # Each round begins with the random streams seeded by its number, each batch with torch's seeded by its step.
        generators = _generators(self.batch)
        before = [generator.get_state() for generator in generators]
        rounds, step = 0, 0
        if (length := _length(self.batch)) and start >= length:  # whole rounds need not be loaded to be skipped
            rounds, step = start // length, start // length * length
        try:
            while True:
                begun = step
                for part in (torch.default_generator, *generators):
                    part.manual_seed(mix(self.seed, rounds, 3))
                if hasattr(sampler := getattr(self.batch, "sampler", None), "set_epoch"):
                    sampler.set_epoch(rounds)
                with torch.device("cpu"):
                    items = iter(self.batch)
                while True:
                    torch.default_generator.manual_seed(mix(self.seed, step, 1))
                    try:
                        tensors = next(items)
                    except StopIteration:
                        break
                    if step >= start:
                        yield self.slice(tensors)
                    step += 1
                if step == begun:
                    raise ValueError(
                        f"the batches ended after {step} of them, before the training did: give a DataLoader, or a "
                        "list of batches, which can be gone through again, or fewer steps"
                    )
                rounds += 1
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)

    def slice(self, tensors: Batch) -> Batch:
        """This process's part of a batch."""
        n = _check(tensors, self.size if callable(self.batch) else None)
        if n % self.world:
            raise ValueError(
                f"a batch of {n} samples does not split evenly over {self.world} processes; "
                "choose a multiple, and drop_last=True for a DataLoader"
            )
        part = slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)
        return {name: tensor[part] for name, tensor in tensors.items()}


class _Drawn(Dataset):
    """Step -> batch, by a function."""

    def __init__(self, source: Source):
        self.source = source

    def __getitem__(self, step: int) -> Batch:
        batch, size, seed = self.source.batch, self.source.size, self.source.seed
        torch.default_generator.manual_seed(mix(seed, step, 1))  # `train` puts the stream back at its end
        if hasattr(batch, "seek"):
            batch.seek(step * size)
        return self.source.slice(batch(torch.Generator().manual_seed(mix(seed, step, 0)), size))


def _generators(loader) -> list[torch.Generator]:
    """The streams that a loader and its samplers draw from, where they have their own."""
    parts = [loader, getattr(loader, "sampler", None)]
    parts.append(getattr(getattr(loader, "batch_sampler", None), "sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _length(loader) -> int | None:
    """How many batches a round has, where rounds do not depend on those before."""
    fixed = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return len(loader) if fixed or isinstance(loader, Sequence) else None


def _check(tensors: Batch, size: int | None) -> int:
    """How many samples a batch has; ValueError that says what to return when it is no dict of as many of each."""
    if isinstance(tensors, tuple | list):
        names = ", ".join(f'"{name}": {name}' for name in ("x", "y", "z")[: len(tensors)]) or '"x": x'
        raise ValueError(
            f"expected batches as a dict of tensors, got a {type(tensors).__name__} of {len(tensors)}: name its parts, "
            f"so that the loss can tell them apart; let the function, or the data set's __getitem__, return {{{names}}}"
        )
    if not isinstance(tensors, Mapping):
        raise ValueError(f"expected batch(generator, n) to return a dict of tensors, got {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"expected a dict of tensors as a batch, but {name!r} is a {type(tensor).__name__}: make it a tensor, "
                "or leave it out"
            )
    sizes = {name: tensor.shape[:1].numel() if tensor.ndim else 0 for name, tensor in tensors.items()}
    n = size if size is not None else max(sizes.values(), default=0)
    for name, tensor in tensors.items():
        if sizes[name] != n or not n:
            raise ValueError(f"expected {n or 'some'} samples in {name!r}, got shape {tuple(tensor.shape)}")
    if not n:
        raise ValueError("expected batches with something in them, got an empty dict")
    return n
