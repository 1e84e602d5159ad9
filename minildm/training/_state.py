"""All of a training that changes from step to step, and its way to disk and back: the checkpoint."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from minildm import storage
from minildm.training._history import History

Optimizers = Callable[[dict[str, nn.Parameter]], Sequence[torch.optim.Optimizer]]
FORMAT = "minildm training 1"


def restore(model: nn.Module, checkpoint: str | Path) -> History:
    """Fill `model` with the averaged weights of a training under way, stopped or finished; returns its history.

    It does not matter whether the one or the other was compiled (`torch.compile`), or wrapped for several GPUs.
    Raises FileNotFoundError when there is no such file, ValueError when it is damaged or of another model.
    """
    history, _, parts = _read(checkpoint)
    storage.fill(storage.state(unwrapped(model)), parts["model"] | parts.get("ema", {}), checkpoint)
    model.eval()
    return history


def unwrapped(model: nn.Module) -> nn.Module:
    """The module itself, out of what compiles it or spreads it over GPUs."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # what torch.compile returns
            model = model._orig_mod
        else:
            return model


class State:
    """Weights, their running average, the optimizer and the history, with the settings that they came about with."""

    def __init__(self, model: nn.Module, optimizers: Optimizers | None = None, **settings: object):
        self.settings = {"model": type(model).__name__, **settings}
        self.ema, self.lr = settings["ema"], settings["lr"]
        self.weights = storage.state(model)
        named = {name.replace("_orig_mod.", ""): p for name, p in model.named_parameters()}
        self.parameters = {name: p for name, p in named.items() if p.requires_grad}
        self.buffers = {name: tensor for name, tensor in self.weights.items() if name not in named}
        moving = self.parameters | {name: t for name, t in self.buffers.items() if t.is_floating_point()}
        self.moving = {name: self.weights[name] for name in moving} if self.ema is not None else {}
        self.average = clone(self.moving)
        self.optimizers = optimizers(self.parameters) if optimizers else [self._adamw(settings["weight_decay"])]
        for group in self._groups():
            group["peak"] = group["lr"]
        owned = sorted(id(p) for group in self._groups() for p in group["params"])
        if owned != sorted(id(p) for p in self.parameters.values()):
            raise ValueError(
                f"expected optimizers that share out the {len(self.parameters)} parameters, each to one of them, "
                f"got {len(owned)} in {len(self.optimizers)} optimizers"
            )
        self.history = History()

    def _adamw(self, weight_decay):
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        vectors = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        fused = next(iter(self.parameters.values())).device.type in ("cpu", "cuda")
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=weight_decay, fused=fused)

    def _groups(self):
        return [group for one in self.optimizers for group in one.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        for one in self.optimizers:
            one.zero_grad()

    def update(self, rate: float) -> None:
        """One step of the optimizers at this learning rate, and of the average."""
        for group in self._groups():
            group["lr"] = group["peak"] * rate / self.lr
        for one in self.optimizers:
            one.step()
        if self.moving:
            k = self.history.step
            keep = min(self.ema, (1 + k) / (10 + k))
            get_ema_multi_avg_fn(keep)(list(self.average.values()), list(self.moving.values()), None)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights."""
        own = clone(self.moving)
        self.finish()
        try:
            yield
        finally:
            for name, tensor in self.moving.items():
                tensor.copy_(own[name])

    def finish(self) -> None:
        """Give the model the averaged weights for good."""
        for name, tensor in self.moving.items():
            tensor.copy_(self.average[name])

    def save(self, path: str | Path, buffers: dict[str, Tensor]) -> None:
        """Write the checkpoint.

        buffers: as they were before this step's forward pass changed them (batch normalisation counts there).
        """
        parts = {"model": self.weights | buffers, "ema": self.average}
        for name, parameter in self.parameters.items():
            for key, value in self._state_of(parameter).items():
                parts.setdefault(f"optimizer.{key}", {})[name] = value
        tensors = {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}
        tensors["loss"] = torch.tensor(self.history.loss, dtype=torch.float64, device="cpu")
        rest = {"seconds": self.history.seconds, "validation": self.history.validation}
        metadata = {"format": FORMAT, "settings": json.dumps(self.settings), "history": json.dumps(rest)}
        storage.write(path, tensors, metadata)

    def resume(self, path: str | Path) -> None:
        """Go on where the checkpoint stopped; ValueError when it is of another training."""
        history, settings, parts = _read(path)
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
        storage.fill(self.weights, parts["model"], path)
        storage.fill(self.average, parts.get("ema", {}), path)
        for part in parts:
            if part.startswith("optimizer."):
                key = part.removeprefix("optimizer.")
                for name, tensor in parts[part].items():
                    if name not in self.parameters:
                        raise ValueError(f"{path} has trained {name}, which does not learn here (requires_grad)")
                    parameter = self.parameters[name]
                    owner = self._owner(parameter)
                    if key == "step":  # a count, which AdamW keeps beside the weights only where it is fused
                        tensor = tensor.clone().to(parameter.device if owner.defaults.get("fused") else "cpu")
                    else:  # in the parameter's own memory layout
                        tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
                    owner.state[parameter][key] = tensor
        self.history = history

    def _owner(self, parameter):
        return next(
            one for one in self.optimizers for g in one.param_groups if any(p is parameter for p in g["params"])
        )

    def _state_of(self, parameter):
        return self._owner(parameter).state.get(parameter, {})


def clone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, so that what becomes of the originals does not matter."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


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
