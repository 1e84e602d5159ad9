"""The autoencoder of lessons 06 and 07: pictures of 64×64, scenes and drawings, as latents of 16×16×4.

The painter "pocket", from lesson 08 on, has another one, which `pocket_autoencoder` trains.

Small, but Stable Diffusion's in structure: another configuration of the same class, which diffusers opens, too.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minildm import data, metrics
from minildm.autoencoder import AutoencoderKL, autoencoder_loss, draw_latent
from minildm.images import Images, from_model, to_model, to_unit
from minildm.optional import moved
from minildm.recipes import RUNS, Job
from minildm.tensors import seeded
from minildm.training import History, train

STEPS, BATCH, LR = 6_500, 16, 2e-3
SIZE = 64
TRAIN_SEED, TEST_SEED = 3, 4
# Weights of the loss: of errors of pixels, the large ones count most; the latent only has to stay in bounds.
L2, KL = 5.0, 1e-6
SCALE = 0.18215  # the scale factor of Stable Diffusion


def network(seed: int = 0, **config: Any) -> AutoencoderKL:
    """The untrained autoencoder; other sizes by `config`, as lesson 06 compares them."""
    pocket = dict(latent_channels=4, channels=(16, 32, 96), blocks_per_level=1, groups=8)
    with seeded(seed):
        return AutoencoderKL(**pocket | config)


def drawings(split: str = "train") -> Tensor:
    """All drawings of a split, (n, 3, 64, 64) uint8."""
    pictures = data.openmoji(SIZE, split=split)["image"]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).movedim(-1, 1)


def scenes(n: int, seed: int = TEST_SEED, split: str = "heldout", start: int = 0) -> Tensor:
    """Scenes, by default of combinations that training never shows, (n, 3, 64, 64) uint8."""
    images = data.scene_arrays(n, seed, split, size=SIZE, start=start).images
    return torch.from_numpy(images).movedim(-1, 1)


def fit(model: AutoencoderKL, steps: int = STEPS, seed: int = 0, **options: Any) -> History:
    """Train `model` on batches of half scenes, half drawings; further options go to `minildm.training.train`."""
    flat = drawings()

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        start = int(torch.randint(2**40, (), generator=generator))
        drawn = flat[torch.randint(len(flat), (n - n // 2,), generator=generator)]
        for axis in (2, 3):  # upside down and mirrored: four pictures of each drawing
            flip = torch.rand(len(drawn), 1, 1, 1, generator=generator) < 0.5
            drawn = torch.where(flip, drawn.flip(axis), drawn)
        pictures = torch.cat([scenes(n // 2, TRAIN_SEED, "train", start), drawn])
        return draw_latent(to_model(pictures), model, generator)

    loss = partial(autoencoder_loss, l2=L2, kl=KL)
    settings = dict(steps=steps, batch_size=BATCH, lr=LR, ema=0.995, seed=seed)
    return train(model, batch, loss, **settings | options)


@torch.no_grad()
def rebuilt(model: AutoencoderKL, pictures: Images) -> Tensor:
    """What is left of pictures, as `images` takes them, after the latent's mean. -> (n, 3, 64, 64) in [0, 1]"""
    return from_model(torch.cat([model(part) for part in to_model(pictures).split(64)]))


def evaluate(model: AutoencoderKL, n: int = 1000) -> dict[str, float]:
    """PSNR in dB and SSIM, each the mean over pictures: of n held-out scenes and of all held-out drawings.

    psnr_pooled: of the squared error over all pictures together, which the worst of them dominate.
    """
    result = {}
    for name, pictures in {"scenes": scenes(n), "openmoji": drawings("heldout")}.items():
        true, again = to_unit(pictures), rebuilt(model, pictures)
        pooled = (again - true).square().mean()
        result[f"{name}_psnr"] = metrics.psnr(true, again).mean().item()
        result[f"{name}_psnr_pooled"] = -10 * pooled.log10().item()
        result[f"{name}_ssim"] = metrics.ssim(true, again).mean().item()
    return result


def scale(model: AutoencoderKL, n: int = 2000) -> float:
    """Measure the scale factor, on scenes as a denoiser will learn from."""
    return model.measure_scale(to_model(scenes(n, TRAIN_SEED, "train")))


@torch.no_grad()
def rescale_latents(model: AutoencoderKL, by: float) -> None:
    """Rescale the latents `by` so many times, and let the decoder take them so: the same autoencoder in another unit.

    Nothing in training says how large latents should be (here they came out with a standard deviation of about 2).
    """
    c = model.latent_channels
    model.quant.weight[:c] *= by  # the means
    model.quant.bias[:c] *= by
    model.quant.bias[c:] += 2 * math.log(by)  # the logarithms of the variances
    model.post_quant.weight /= by


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train the autoencoder, measure it and its scale factor, write the checkpoint; returns its path."""
    model, job = network(seed), Job("vae-pocket", out, seed, resume, runs)
    history = fit(model, steps or STEPS, seed, checkpoint=job.checkpoint())
    # In Stable Diffusion's unit: far enough from 1 that a latent that was not scaled is noticed.
    rescale_latents(model, scale(model) / SCALE)
    scale(model)
    source = f"scenes, seed {TRAIN_SEED}, and openmoji, train, {SIZE}×{SIZE}"
    return job.finish(model, history, data=source, heldout=job.say("held out", evaluate(model)))


__getattr__ = moved(__name__, {"signed": "minildm.images.to_model"})
