"""The segmenter of lesson 01, from three quarters of one micrograph. The right quarter stays unseen, to test it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minildm import data, metrics, weights
from minildm.data.augment import Crops
from minildm.recipes import RUNS, Job
from minildm.segmentation import border_weights, depth, normalise, segment, segmentation_loss
from minildm.tensors import seeded
from minildm.training import History, train
from minildm.unet import UNet

STEPS, BATCH, CROP, LR = 500, 4, 128, 2e-3
TRAIN_COLUMNS = 384

Pair = tuple[np.ndarray, np.ndarray]  # an image and its instance mask, (h, w) each


def network(seed: int = 0) -> UNet:
    """The untrained network: one grey channel in, foreground and depth out."""
    with seeded(seed):
        return UNet(1, 2, channels=(16, 32, 64, 128))


def maps(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What a pixel of a training picture is worth: its intensity, its depth and its weight in the loss."""
    return {"image": normalise(image), "depth": depth(mask), "weight": border_weights(mask)}


def fit(model: UNet, pairs: Sequence[Pair], steps: int = STEPS, seed: int = 0, **options: Any) -> History:
    """Train `model` on annotated pictures; further options go to `minildm.training.train`."""
    crops = Crops([maps(*pair) for pair in pairs], size=CROP)
    settings = dict(steps=steps, batch_size=BATCH, lr=LR, ema=0.99, seed=seed)
    return train(model, crops, segmentation_loss, **settings | options)


def scores(mask: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """The figures of lesson 01: overlap of all nuclei, and the share found at two strictnesses."""
    return {
        "dice": metrics.dice(mask, found),
        "ap50": metrics.average_precision(mask, found, 0.5),
        "ap75": metrics.average_precision(mask, found, 0.75),
    }


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train on columns 0–383, measure on the rest, write the checkpoint; returns its path."""
    micrograph = data.nuclei()[0]
    image, mask = micrograph["image"], micrograph["mask"]
    model, job = network(seed), Job("nuclei", out, seed, resume, runs)
    left, right = np.s_[:, :TRAIN_COLUMNS], np.s_[:, TRAIN_COLUMNS:]
    history = fit(model, [(image[left], mask[left])], steps or STEPS, seed, checkpoint=job.checkpoint())
    result = job.say("unseen columns 384–511", scores(mask[right], segment(model, image[right])))
    record = {}
    if "nuclei" in weights.names():  # the table of `nuclei_folds` is about this recipe, not about one training
        record = {key: value for key, value in weights.record("nuclei").items() if key == "cross_validation"}
    return job.finish(model, history, data="nuclei, columns 0–383", unseen_columns=result, **record)
