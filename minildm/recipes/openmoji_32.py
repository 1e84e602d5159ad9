"""The denoiser of lessons 03 to 05: hand-drawn pictures at 32×32, straight in pixels, without words."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minildm import data, judge, metrics, samplers
from minildm.denoiser import Denoiser
from minildm.images import to_model
from minildm.losses import denoising_error, denoising_loss, draw_noise
from minildm.recipes import RUNS, Job
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.training import History, train

STEPS, BATCH, LR = 12_000, 32, 1e-3
SIZE = 32


def network(seed: int = 0) -> Denoiser:
    """The untrained denoiser: lesson 01's U, conditioned on the time, with attention at 8×8 and 4×4."""
    with seeded(seed):
        return Denoiser(3, 3, channels=(32, 64, 128, 128), attention=(2, 3), schedule=schedule())


def schedule() -> NoiseSchedule:
    """The noise schedule it is trained with, to predict v."""
    return NoiseSchedule.cosine().predicting("v")


def pictures(split: str = "train") -> Tensor:
    """One picture of each drawing, without its copies in five skin tones. (n, 3, 32, 32) in [-1, 1]"""
    drawings = data.openmoji(SIZE, split=split)
    once = [i for i, name in enumerate(drawings["name"]) if "skin tone" not in name]
    return to_model(drawings.select(once)["image"])


def fit(model: Denoiser, x: Tensor, steps: int = STEPS, seed: int = 0, **options: Any) -> History:
    """Train `model` on pictures x; further options go to `minildm.training.train`."""
    noise = schedule()

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return draw_noise(x[torch.randint(len(x), (n,), generator=generator)], noise, generator)

    def loss(model, batch):
        return denoising_loss(model, batch, noise)

    settings = dict(steps=steps, batch_size=BATCH, lr=LR, seed=seed)
    return train(model, batch, loss, **settings | options)


@torch.no_grad()
def error(model: Denoiser, x: Tensor, seed: int = 0) -> float:
    """The mean squared error of v on pictures x, each at 20 timesteps drawn from the seed."""
    noise, generator = schedule(), torch.Generator().manual_seed(seed)
    batches = (draw_noise(x, noise, generator) for _ in range(20))
    return float(torch.cat([denoising_error(model, batch, noise) for batch in batches]).mean())


def draw(model: Denoiser, n: int, steps: int = 25, seed: int = 0) -> Tensor:
    """n pictures from noise, (n, 3, 32, 32) in [-1, 1]."""
    noise, x_T = schedule(), torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    parts = (samplers.ddim(model, noise, part, steps, clip=1) for part in x_T.split(64))
    return torch.cat([list(part)[-1].x_t for part in parts])


def evaluate(model: Denoiser, n: int = 512) -> dict[str, float]:
    """Errors on pictures seen and held out, and kernel distances over the judge's features.

    samples_to_heldout: n samples against the held-out pictures.  training_to_heldout: the training pictures against
    them. It is not 0, since families of drawings (all flags, all clock faces) were held out or trained as a whole.
    halves: one half of the training pictures against the other.
    """
    known, heldout = pictures(), pictures("heldout")
    drawn, seen, unseen = (judge.features((x + 1) / 2) for x in (draw(model, n), known, heldout))
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    one, other = seen[order].chunk(2)
    return {
        "training_error": error(model, known[::10]),  # as many as are held out
        "heldout_error": error(model, heldout),
        "samples_to_heldout": metrics.kernel_distance(drawn, unseen),
        "training_to_heldout": metrics.kernel_distance(seen, unseen),
        "halves": metrics.kernel_distance(one, other),
    }


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train the denoiser, measure it, write the checkpoint; returns its path."""
    model, job = network(seed), Job("openmoji-32", out, seed, resume, runs)
    history = fit(model, pictures(), steps or STEPS, seed, checkpoint=job.checkpoint())
    record = dict(data=f"openmoji {SIZE}×{SIZE}, train, one skin tone", predicts="v", schedule="cosine")
    return job.finish(model, history, **record, measured=job.say("measured", evaluate(model)))
