"""Is a new thing painted now, and what is forgotten? What lesson 10 and its study measure, with the judge to decide."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor

from minildm import data, judge, likeness
from minildm.data import newcomer
from minildm.data.captions import task_of
from minildm.data.prompts import HELD_OUT_SHAPES
from minildm.images import Images, to_unit

PROMPT = f"a {newcomer.NAME}"
SHOWN = 8  # pictures that a model learns the new thing from
NAMES = [name for name in data.VOCABULARY if name not in HELD_OUT_SHAPES]  # what the pocket was trained on
STEPS = 8  # of the sampler
KNOWN, NEW, SEED = 800, 100, 77  # pictures from which `recognised` learns; none of them is trained on elsewhere
RIDGE = 0.01


def examples(n: int = SHOWN, seed: int = 0) -> Tensor:
    """Pictures of the new thing, to learn it from. (n, 3, 64, 64) in [0, 1]"""
    return to_unit(torch.from_numpy(data.newcomers(n, seed).images).movedim(-1, 1))


def asked(names: Sequence[str]) -> list[str]:
    """A prompt for each name: "a cat"."""
    return [data.caption(data.Prompt(task_of(((name, 1),), None), ((name, 1),))) for name in names]


def recognised(images: Images) -> np.ndarray:
    """Whether each picture shows the new thing rather than one of the 67 old ones, to the judge. -> (n,) bool

    The judge never saw it. But a linear classifier on its features, fitted to real pictures of both kinds, tells them
    apart: of fresh ones it finds all that are new, and takes fewer than one in a hundred old ones for new.
    images: 64×64, as `judge.features` takes them.
    """
    weight, mean, spread = _classifier()
    return (_with_one((judge.features(images) - mean) / spread) @ weight > 0).numpy()


def unexplained(images: Images) -> np.ndarray:
    """How little each picture is drawn like the new thing's drawing, as of `likeness.unexplained`. -> (n,)"""
    return likeness.unexplained_by(images, newcomer.poses())


def kept(pipe: Callable[..., Tensor], names: Sequence[str] = NAMES, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    """Which of some old things a pipeline still paints, by the judge, from noise of its own each; and the pictures.

    -> (n,) bool, (n, 3, 64, 64) in [0, 1]
    """
    prompts = asked(names)
    pictures = painted(pipe, prompts, seed)
    return np.array(judge.score(pictures, prompts)), pictures


def painted(pipe: Callable[..., Tensor], prompts: Sequence[str], seed: int = 0, **how: object) -> Tensor:
    """A picture of each prompt, in a few steps. (n, 3, 64, 64) in [0, 1]

    how: goes to the pipeline; tensors hold an entry for each picture.
    """
    pictures, how = [], dict(steps=STEPS, output="tensor") | how
    for start in range(0, len(prompts), 16):
        some = range(start, min(start + 16, len(prompts)))
        cut = {name: value[some.start : some.stop] for name, value in how.items() if isinstance(value, Tensor)}
        pictures.append(pipe([prompts[i] for i in some], seed=[seed + i for i in some], **how | cut))
    return torch.cat(pictures)


@cache
def _classifier() -> tuple[Tensor, Tensor, Tensor]:
    """Ridge regression of +1, new, and -1, old, on features; both kinds count alike. Weights, mean and spread."""
    scenes = data.scene_arrays(KNOWN, SEED, tasks=("one object", "colour"))
    arrays = (scenes.images, data.newcomers(NEW, SEED).images)
    old, new = (judge.features(torch.from_numpy(one).movedim(-1, 1)) for one in arrays)
    mean, spread = old.mean(0), old.std(0)
    x = _with_one((torch.cat([old, new]) - mean) / spread).double()
    y = torch.cat([-torch.ones(KNOWN), torch.ones(NEW)]).double()
    share = torch.where(y < 0, 1 / KNOWN, 1 / NEW)
    ridge = RIDGE * torch.eye(x.shape[1], dtype=torch.double)
    weight = torch.linalg.solve(x.T @ (share[:, None] * x) + ridge, x.T @ (share * y))
    return weight.float(), mean, spread


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], 1)


class CoreMinutes:
    """How long the processors worked inside: a machine that has other things to do as well does not change it."""

    def __init__(self):
        self.minutes = 0.0

    def __enter__(self) -> "CoreMinutes":
        self._began = time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.minutes += (time.process_time() - self._began) / 60

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """A part that does not count."""
        began = time.process_time()
        yield
        self.minutes -= (time.process_time() - began) / 60
