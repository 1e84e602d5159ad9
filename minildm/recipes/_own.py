"""What recipes for a user's own pictures share: the folder of a run, what was decided at its start, and its end."""

import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minildm import images, storage
from minildm.recipes._frame import RUNS, Job, first_process
from minildm.training import History, restore, train

SHEETS = 10  # of samples, on the way


class OwnJob(Job):
    """A run on the user's data. It has a folder of its own, `RUNS/RECIPE-NAME`, for the checkpoint and for samples.

    source: the data; NAME is the folder's.  out: where the model goes; None: NAME-model in the current folder.
    ending: of a model that is a file.  Other arguments as of `Job`.
    """

    def __init__(
        self,
        name: str,
        source: str | Path,
        out: str | Path | None = None,
        seed: int = 0,
        resume: bool = True,
        runs: str | Path = RUNS,
        ending: str = "",
    ):
        self.source = Path(source).expanduser().resolve()
        super().__init__(name, Path(out or f"{self.source.stem}-model{ending}"), seed, resume, runs)
        self.folder = self.runs / f"{name}-{self.source.stem}"
        self.plan = self.folder / "plan.json"

    def train(
        self,
        model: nn.Module,
        batch: Callable,
        loss: Callable,
        look: Callable[[nn.Module, int], dict[str, float]],
        steps: int | None,
        minutes: float | None,
        facts: dict[str, object],
        **settings: Any,
    ) -> History:
        """Train, or go on with it.

        look: (model, steps done) -> figures; called ten times on the way, to draw samples and to measure.
        steps: how many; or minutes: as many as take about so long here, measured once for each run.
        facts: what else the run depends on.  settings: go to `training.train`.
        Raises ValueError where a run with other settings or facts was stopped in the folder.
        """
        if (steps is None) == (minutes is None):
            raise ValueError("expected either steps or minutes")
        if minutes is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("expected steps where several processes train: each would measure minutes for itself")
        checkpoint, settings = self._at(self.folder / "checkpoint.safetensors"), settings | {"seed": self.seed}
        asked = facts | settings | dict(source=str(self.source), steps=steps, minutes=minutes)
        steps = self._decided(asked, lambda: steps or _steps_within(minutes, model, batch, loss, **settings))
        done = restore(copy.deepcopy(model), checkpoint).step if checkpoint.exists() else 0

        def count(step: int, numbers: dict) -> None:
            nonlocal done
            done = step

        def validate(model: nn.Module) -> dict[str, float]:
            return self.say(f"step {done + 1} of {steps}, samples in {self.folder}", look(model, done + 1))

        how = dict(steps=steps, checkpoint=checkpoint, validate=validate, validate_every=max(1, steps // SHEETS))
        return train(model, batch, loss, log=count, **settings, **how)

    def _decided(self, asked: dict, decide: Callable[[], int]) -> int:
        """How many steps; decided once for a run, so that one that goes on keeps to it."""
        asked = json.loads(json.dumps(asked))
        if not self.resume:
            self.plan.unlink(missing_ok=True)
        if self.plan.exists():
            found = json.loads(self.plan.read_text(encoding="utf-8"))
            there = found.pop("asked")
            differ = [
                f"{key} is {asked.get(key)!r} here but {there.get(key)!r} there"
                for key in {**there, **asked}
                if asked.get(key) != there.get(key)
            ]
            if differ:
                raise ValueError(
                    f"{self.folder} keeps a run that was stopped, with other settings: {'; '.join(differ)}. Use the "
                    "same ones to go on with it, start anew with --no-resume, or choose another folder with --runs"
                )
            return found["steps"]
        steps = decide()
        if first_process():
            storage.write_text(self.plan, json.dumps({"asked": asked, "steps": steps}))
        return steps

    def show(self, name: str, pictures: Tensor, columns: int | None = None, side: int = 512) -> Path:
        """Write pictures (b, c, h, w) in [0, 1] as one PNG into the run's folder, some `side` pixels wide."""
        (sheet,) = images.to_pil(images.sheet(pictures, columns))
        times = max(1, side // sheet.width)
        sheet = sheet.resize((times * sheet.width, times * sheet.height), 0)  # 0: nearest, pixels stay squares
        path = self.folder / f"{name}.png"
        with storage.file(path) as part:
            sheet.save(part, "PNG")
        return path

    def end(self) -> None:
        """Remove checkpoint and plan; the samples stay."""
        super().end()
        if first_process():
            self.plan.unlink(missing_ok=True)


def parted(n: int, share: int, seed: int) -> tuple[list[int], list[int]]:
    """The numbers below n in two parts, at random: to learn from, and one in `share` held out (of few, none)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    held = n // share
    return sorted(order[held:]), sorted(order[:held])


def steps_of(steps: int | None, minutes: float | None, usual: int) -> int | None:
    """The steps that were asked for, or as many as usual, unless minutes say it."""
    return usual if steps is None and minutes is None else steps


def _steps_within(minutes: float, model: nn.Module, batch: Callable, loss: Callable, **settings: Any) -> int:
    """How many steps take so many minutes here: measured on a copy of the model. A tenth is left for samples."""
    if not 0 < minutes < math.inf:
        raise ValueError(f"expected minutes above 0, got {minutes}")
    times = []
    settings = settings | dict(steps=12, warmup=0, checkpoint=None, validate=None, progress=False)
    train(copy.deepcopy(model), batch, loss, log=lambda step, numbers: times.append(time.monotonic()), **settings)
    seconds = statistics.median(after - before for before, after in zip(times[2:], times[3:], strict=False))
    return max(20, int(0.9 * 60 * minutes / seconds))
