"""The denoiser of lessons 03 to 05: hand-drawn pictures at 32×32, straight in pixels, without words."""


import numpy as np
import torch
from torch import Tensor

from minildm import data
from minildm.denoiser import Denoiser, denoising_loss, draw_noise
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.training import History
from minildm.training import train as run

STEPS, BATCH, LR = 12_000, 32, 1e-3
SIZE, PREDICTS = 32, "v"


def network(seed: int = 0) -> Denoiser:
    """The untrained denoiser: lesson 01's U, told the time, with attention where the map has 8×8 and 4×4 pixels."""
    with seeded(seed):
        return Denoiser(3, 3, channels=(32, 64, 128, 128), attention=(2, 3))


def schedule() -> NoiseSchedule:
    """The schedule it is trained with."""
    return NoiseSchedule.cosine()


def pictures(split: str = "train") -> Tensor:
    """One picture of each drawing, without its copies in five skin tones. (n, 3, 32, 32) in [-1, 1]"""
    drawings = data.openmoji(SIZE, split=split)
    once = [i for i, name in enumerate(drawings["name"]) if "skin tone" not in name]
    pixels = np.stack([np.asarray(image) for image in drawings.select(once)["image"]])  # (n, h, w, 3) uint8
    return torch.from_numpy(pixels).movedim(-1, 1) / 127.5 - 1


def fit(model: Denoiser, x: Tensor, steps: int = STEPS, seed: int = 0, **options) -> History:
    """Train `model` on pictures x; further options go to `minildm.training.train`."""
    noise = schedule()

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return draw_noise(x[torch.randint(len(x), (n,), generator=generator)], noise, generator)

    def loss(model, batch):
        return denoising_loss(model, batch, noise, PREDICTS)

    settings = dict(steps=steps, batch_size=BATCH, lr=LR, seed=seed)
    return run(model, batch, loss, **settings | options)
