"""Is a new thing painted now, and what is forgotten? What lesson 10 and its study measure, with the judge to decide."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
STEPS = 16  # of the sampler


def examples(n: int = SHOWN, seed: int = 0) -> Tensor:
    """Pictures of the new thing, to learn it from. (n, 3, 64, 64) in [0, 1]"""
    return to_unit(torch.from_numpy(data.newcomers(n, seed).images).movedim(-1, 1))


def asked(names: Sequence[str]) -> list[str]:
    """A prompt for each name: "a cat"."""
    return [data.caption(data.Prompt(task_of(((name, 1),), None), ((name, 1),))) for name in names]


def recognised(images: Images) -> np.ndarray:
    """Whether each picture shows the new thing, as clearly as a viewer would ask for. -> (n,) bool

    The judge never saw the new thing, so `likeness` decides: its drawing leaves less than `likeness.ALIKE` unexplained.
    images: 64×64, as `images.to_unit` takes them.
    """
    return unexplained(images) < likeness.ALIKE


def unexplained(images: Images) -> np.ndarray:
    """How little each picture is drawn like the new thing's drawing, as of `likeness.unexplained`. -> (n,)"""
    return likeness.unexplained_by(images, newcomer.poses())


def told(images: Images) -> str:
    """How many pictures show the new thing, and how much of it the median picture leaves unexplained, in words."""
    left = unexplained(images)
    return f"{(left < likeness.ALIKE).sum()} of {len(left)} are dinosaurs, median unexplained {np.median(left):.2f}"


def kept(pipe: Callable[..., Tensor], names: Sequence[str] = NAMES, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    """Which of some old things a pipeline still paints, by the judge, from noise of its own each; and the pictures.

    -> (n,) bool, (n, 3, 64, 64) in [0, 1]
    """
    prompts = asked(names)
    pictures = painted(pipe, prompts, seed)
    return np.array(judge.score(pictures, prompts)), pictures


def painted(pipe: Callable[..., Tensor], prompts: Sequence[str], seed: int = 0, **how: object) -> Tensor:
    """A picture of each prompt, in STEPS steps. (n, 3, 64, 64) in [0, 1]

    how: goes to the pipeline; tensors hold an entry for each picture.
    """
    pictures, how = [], dict(steps=STEPS, output="tensor") | how
    for start in range(0, len(prompts), 16):
        some = range(start, min(start + 16, len(prompts)))
        cut = {name: value[some.start : some.stop] for name, value in how.items() if isinstance(value, Tensor)}
        pictures.append(pipe([prompts[i] for i in some], seed=[seed + i for i in some], **how | cut))
    return torch.cat(pictures)


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
