"""What the arms of lesson 07 share: one object in a picture, drawn from its label; in pixels or in latents.

Data, labels, schedule, loss, batch, learning rate and seeds are the same for all. A space says what the denoiser works
on: x_0 of pictures for training, and pictures of its samples.
"""

from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minildm import data, judge, metrics, samplers
from minildm.autoencoder import AutoencoderKL
from minildm.data.prompts import HELD_OUT_SHAPES
from minildm.denoiser import Denoiser
from minildm.images import from_model, to_model
from minildm.losses import denoising_loss, draw_noise
from minildm.recipes import Job
from minildm.recipes.vae_pocket import SIZE
from minildm.schedule import NoiseSchedule
from minildm.training import History, train

BATCH, LR = 32, 1e-3
PICTURES, TRAIN_SEED, TEST_SEED = 10_000, 5, 6
DTYPE = torch.float8_e4m3fn  # of the files: rounded to it, an answer changes by about a thousandth of its power
UNCONDITIONAL_RATE = 0.1  # how often a label is dropped, so that the denoiser can also draw without one
TASKS = ("one object", "colour")
LABELS = [i for i, name in enumerate(data.VOCABULARY) if name not in HELD_OUT_SHAPES]  # those that training shows


def schedule() -> NoiseSchedule:
    """The noise schedule of all arms that ship, which predict v."""
    return NoiseSchedule.cosine().predicting("v")


def scenes(n: int = PICTURES, seed: int = TRAIN_SEED) -> tuple[Tensor, Tensor]:
    """Pictures of one object each, (n, 3, 64, 64) uint8, and its place in `data.VOCABULARY`, (n,) int64."""
    found = data.scene_arrays(n, seed, "train", size=SIZE, tasks=TASKS)
    labels = [data.VOCABULARY.index(name) for (name,) in found.names]
    return torch.from_numpy(found.images).movedim(-1, 1), torch.tensor(labels)


class Space(Protocol):
    """Where a denoiser works."""

    shape: tuple[int, int, int]  # of one x_0: channels, height, width
    clip: float | None  # how far from 0 its numbers can be, where that is known

    def take(self, at: Tensor, generator: torch.Generator) -> Tensor:
        """x_0 of the training pictures with these numbers. (b,) -> (b, *shape)"""

    def pictures(self, x: Tensor) -> Tensor:
        """What samples (b, *shape) look like. -> (b, 3, 64, 64) in [0, 1]"""


class Pixels:
    """The pictures themselves."""

    shape, clip = (3, SIZE, SIZE), 1.0

    def __init__(self, scenes: Tensor):
        self.scenes = scenes

    def take(self, at: Tensor, generator: torch.Generator) -> Tensor:
        return to_model(self.scenes[at])

    def pictures(self, x: Tensor) -> Tensor:
        return from_model(x)


class Latents:
    """What an autoencoder makes of the pictures, each computed once, and drawn anew from its Gaussian each time."""

    clip = None

    @torch.no_grad()
    def __init__(self, scenes: Tensor, vae: AutoencoderKL):
        self.vae = vae
        found = [vae.encode(to_model(part)) for part in scenes.split(100)]
        self.mean, self.std = (vae.scale(torch.cat([getattr(one, name) for one in found])) for name in ("mean", "std"))
        self.shape = tuple(self.mean.shape[1:])

    def take(self, at: Tensor, generator: torch.Generator) -> Tensor:
        return self.mean[at] + self.std[at] * torch.randn(len(at), *self.shape, generator=generator)

    def pictures(self, x: Tensor) -> Tensor:
        decoded = [self.vae.decode(self.vae.unscale(part)) for part in x.split(64)]
        return from_model(torch.cat(decoded))


def fit(model: Denoiser, space: Space, labels: Tensor, steps: int, seed: int = 0, **options: Any) -> History:
    """Train `model` to draw from labels, by its own schedule; further options go to `minildm.training.train`."""
    noise = model.schedule

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        at = torch.randint(len(labels), (n,), generator=generator)
        without = torch.rand(n, generator=generator) < UNCONDITIONAL_RATE
        y = labels[at].masked_fill(without, model.null_class)
        return draw_noise(space.take(at, generator), noise, generator) | {"y": y}

    def loss(model, batch):
        return denoising_loss(model, batch, noise)

    return train(model, batch, loss, **dict(steps=steps, batch_size=BATCH, lr=LR, seed=seed) | options)


@torch.no_grad()
def draw(model: Denoiser, space: Space, labels: Tensor, steps: int = 25, seed: int = 0) -> Tensor:
    """A picture for each label, from noise. (n,) -> (n, 3, 64, 64) in [0, 1]"""
    x_T = torch.randn(len(labels), *space.shape, generator=torch.Generator().manual_seed(seed))
    drawn = []
    for part, y in zip(x_T.split(64), labels.split(64), strict=True):
        way = samplers.ddim(partial(model, y=y), model.schedule, part, steps, clip=space.clip)
        drawn.append(space.pictures(list(way)[-1].x_t))
    return torch.cat(drawn)


def recognised(pictures: Tensor, labels: Tensor) -> np.ndarray:
    """Whether the judge finds just one object in each picture, and it is the one asked for. -> (n,) bool"""
    found = [[one.name for one in seen] for seen in judge.inspect(pictures)]
    return np.array([names == [data.VOCABULARY[y]] for names, y in zip(found, labels.tolist(), strict=True)])


def quality(model: Denoiser, space: Space, each: int = 2, seed: int = 0) -> dict[str, float]:
    """How good samples are, `each` of them for every label.

    recognised: the share in which the judge finds the object asked for, and nothing else.
    kernel, floor: kernel distance of the samples, and of as many real pictures, to other real ones; features of the
        judge, whose training knew neither. See `metrics.compare`.
    """
    labels = torch.tensor(LABELS).repeat(each)
    drawn = draw(model, space, labels, seed=seed)
    real, _ = scenes(3 * len(labels), TEST_SEED)
    found = metrics.compare(judge.features(drawn), judge.features(real), "features of scenes-judge")
    share = recognised(drawn, labels).mean().item()
    return {"recognised": share, "kernel": found.kernel, "floor": found.kernel_floor}


def train_arm(job: Job, model: Denoiser, space: Space, labels: Tensor, steps: int) -> Path:
    """Train one arm, measuring its samples eight times on the way; write the weights; returns their path."""

    def validate(model):
        return job.say(job.name, quality(model, space))

    validation = dict(validate=validate, validate_every=max(1, steps // 8))
    history = fit(model, space, labels, steps, job.seed, checkpoint=job.checkpoint(), **validation)
    record = dict(data=f"{len(labels)} scenes of one object, seed {TRAIN_SEED}", predicts="v", schedule="cosine")
    record |= dict(batch=BATCH, quality=history.validation, final=quality(model, space, each=8, seed=1))
    return job.finish(model, history, dtype=DTYPE, **record)
