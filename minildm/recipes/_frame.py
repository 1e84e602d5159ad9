"""What all recipes share: where a run keeps what it has so far, and what stands at its end."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minildm import storage, weights
from minildm.tensors import best_device
from minildm.training import History

RUNS = Path("runs")  # in the folder it is started in


class Job:
    """One run of a recipe.

    name: of the recipe, and of the weights that ship.  out: the file to write instead of those.
    seed: goes into the record.  resume, runs: as for all recipes, see `minildm.recipes`.
    """

    def __init__(self, name: str, out: Path | None = None, seed: int = 0, resume: bool = True, runs: str | Path = RUNS):
        self.name, self.out, self.seed, self.resume, self.runs = name, out, seed, resume, Path(runs)
        self._checkpoints = []

    def checkpoint(self, part: str = "") -> Path:
        """The resumable checkpoint of the training, or of a part of it; without `resume` an old one is removed."""
        return self._at(self.runs / f"{self.name}{part}.safetensors")

    def _at(self, path: Path) -> Path:
        if not self.resume:
            path.unlink(missing_ok=True)
        self._checkpoints.append(path)
        return path

    def say(self, title: str, figures: Mapping[str, float]) -> Mapping[str, float]:
        """Print what was measured; returns it."""
        print(f"{title}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()), flush=True)
        return figures

    def finish(self, model: nn.Module, history: History, *, dtype: torch.dtype = torch.float16, **record: Any) -> Path:
        """Write the weights, stored in dtype, with their record; end the run; returns the path."""
        path = weights.save(self.out or self.name, model, dtype=dtype, **self.record(history), **record)
        self.end()
        return path

    def record(self, *histories: History) -> dict:
        """What goes into the record of all weights: recipe, seed, steps, minutes, day and machine."""
        steps, seconds = sum(one.step for one in histories), sum(one.seconds for one in histories)
        return dict(recipe=self.name, seed=self.seed, steps=steps, minutes=seconds / 60, **provenance())

    def end(self) -> None:
        """Remove the checkpoints: what they were for is written. Of several processes the first one does."""
        if first_process():
            for path in self._checkpoints:
                path.unlink(missing_ok=True)


def amend(name: str, out: Path | None = None, *, dtype: torch.dtype = torch.float16, **figures: Any) -> Path:
    """Add figures to the record of shipped weights, written again or to another file; returns the path.

    dtype: what the weights are stored in.
    """
    model, record = weights.load(name), weights.record(name)
    return weights.save(out or name, model, dtype=dtype, **record | figures)


def measured_once(path: Path, measure: Callable[[], dict], resume: bool) -> dict:
    """What `measure` finds; kept in a JSON file, and with resume=True read from there next time."""
    if resume and path.exists():
        return read_table(path)
    found = measure()
    print(json.dumps(found), flush=True)
    write_table(path, found)
    return found


def write_table(path: Path, table: dict) -> Path:
    """Write what a study found; returns the path."""
    return storage.write_text(path, json.dumps(table, indent=1) + "\n")


def read_table(path: Path) -> dict[str, Any]:
    """What `write_table` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def checksum(model: str | Path) -> str:
    """Of the denoiser of a pipeline, by its name or folder: what was adapted, and whether it is still that one."""
    return weights.checksum(Path(model) / "unet.safetensors" if Path(model).is_dir() else model)


def first_process() -> bool:
    """False in all processes of `accelerate launch` but the first: what needs to be done once is left to that one."""
    return int(os.environ.get("RANK", "0")) == 0


def provenance() -> dict[str, str]:
    """The day and the kind of machine, for a checkpoint's record."""
    device = best_device()
    kind = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {kind}"}
