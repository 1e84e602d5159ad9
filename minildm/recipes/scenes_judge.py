"""The judge: the U of lesson 01 with one output for the ground and one for each name, trained on endless scenes."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import data, judge
from minildm.images import to_model
from minildm.recipes import RUNS, Job
from minildm.tensors import expand, seeded
from minildm.training import train
from minildm.unet import UNet

STEPS, BATCH, LR = 5000, 16, 2e-3
SIZE = 64
TRAIN_SEED, TEST_SEED = 1, 2


def network(seed: int = 0) -> UNet:
    """The untrained judge."""
    with seeded(seed):
        return UNet(3, 1 + len(data.VOCABULARY), channels=(16, 32, 64, 128))


def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
    """n fresh scenes, some blurred, some noisy: what the judge will look at later are paintings, softer than these.

    `image` (n, 3, 64, 64) in [-1, 1]; `classes` (n, 64, 64) int64.
    """
    start = int(torch.randint(2**40, (), generator=generator))
    scenes = data.scene_arrays(n, TRAIN_SEED, "all", size=SIZE, start=start)
    image = to_model(scenes.images)  # (n, 3, 64, 64)
    blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    image = torch.lerp(image, blurred, expand(torch.rand(n, generator=generator), image))
    noise = torch.randn(image.shape, generator=generator)
    image = image + expand(0.15 * torch.rand(n, generator=generator) ** 2, image) * noise
    return {"image": image, "classes": torch.from_numpy(scenes.classes).long()}


def loss(model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of each pixel's class."""
    return F.cross_entropy(model(tensors["image"]).float(), tensors["classes"])


def evaluate(model: nn.Module, n: int = 2000, seed: int = TEST_SEED) -> dict[str, float]:
    """How many objects of n fresh scenes are found, with the right name and IoU of at least 0.7; and what is invented.

    found: share of true objects.  invented: found objects that match no true one, per true object.
    perfect: share of scenes in which every object is found and none invented.
    """
    total = hits = extra = perfect = 0
    for start in range(0, n, 250):
        scenes = data.scene_arrays(min(250, n - start), seed, "all", size=SIZE, start=start)
        for names, mask, seen in zip(scenes.names, scenes.masks, judge.inspect(scenes.images, model), strict=True):
            right = [
                any(one.name == name and _iou(one.mask, mask == k) >= 0.7 for one in seen)
                for k, name in enumerate(names, start=1)
            ]
            total += len(names)
            hits += sum(right)
            extra += len(seen) - sum(right)
            perfect += all(right) and len(seen) == len(names)
    return {"found": hits / total, "invented": extra / total, "perfect": perfect / n}


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train the judge, measure it on scenes of another seed, write the checkpoint; returns its path."""
    model, job = network(seed), Job("scenes-judge", out, seed, resume, runs)
    settings = dict(steps=steps or STEPS, batch_size=BATCH, lr=LR, ema=0.995, seed=seed)
    history = train(model, batch, loss, **settings, checkpoint=job.checkpoint())
    result = job.say("2,000 fresh scenes", evaluate(model))
    record = dict(data=f"scenes, seed {TRAIN_SEED}, all splits, {SIZE}×{SIZE}", fresh_scenes=result)
    record["vocabulary"] = list(data.VOCABULARY)  # what the classes mean: the judge compares it when it is loaded
    return job.finish(model, history, **record)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()
