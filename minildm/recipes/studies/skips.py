"""Small U-Nets on one micrograph: with and without skips, of 2, 4 and 6 levels; with deformed and with plain crops.

All learn from the left three quarters and are scored on the right one. Trainings with the same seed see the same crops.
The table is minildm/weights/skips.json, which the evidence of lesson 01 reads. About 12 minutes on one idle core; what
is finished is kept, so a run that was stopped goes on with the next training.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import data, metrics, weights
from minildm.data.augment import Crops
from minildm.optional import require
from minildm.recipes import RUNS, measured_once, nuclei, provenance, read_table, write_table
from minildm.segmentation import normalise, segment, segmentation_loss
from minildm.tensors import count_parameters, seeded
from minildm.training import train
from minildm.unet import UNet

PLACE = weights.FOLDER / "skips.json"
LEVELS, SEEDS = {300: (2, 4, 6), 150: (4,)}, 3  # steps: levels of the networks that are trained so long
LONG, LONG_SEEDS, EVERY = 600, 1, 20  # to compare crops; the loss is kept as means of so many steps
SKIPS = {"with skips": True, "without": False}
CROPS = {"deformed": {}, "plain": dict(bend=0, turn=False, zoom=0, light=0)}


@cache
def micrograph(part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Image and instance mask of the columns that all learn from, or of the others. (512, 384) or (512, 128) each"""
    whole, cut = data.nuclei()[0], nuclei.TRAIN_COLUMNS
    columns = np.s_[:, :cut] if part == "train" else np.s_[:, cut:]
    return whole["image"][columns], whole["mask"][columns]


def outlines(mask: np.ndarray) -> np.ndarray:
    """The outlines of all nuclei of an instance mask, two pixels thin. (h, w) booleans"""
    return require("skimage.segmentation").find_boundaries(mask, mode="thick")


def network(levels: int = 4, skip: bool = True, seed: int = 0) -> UNet:
    """The untrained network of a comparison of skips: one grey channel in, nucleus and outline out (logits)."""
    with seeded(seed):
        return UNet(1, 2, channels=(8, 16, 16, 16, 16, 16)[:levels], skip=skip)


def larger(seed: int = 0) -> UNet:
    """The untrained network of a comparison of crops: foreground and depth out, half as wide as lesson 01's."""
    with seeded(seed):
        return UNet(1, 2, channels=(8, 16, 32, 64))


def two_tasks(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of nucleus and outline, a scalar. batch: `image` (b, 1, h, w), `nucleus` and `outline` (b, h, w)"""
    truth = torch.stack([batch["nucleus"], batch["outline"]], dim=1)  # (b, 2, h, w)
    weight = 1 + truth * torch.tensor([0.0, 4.0]).view(2, 1, 1)  # outlines are few: a missed one costs five times
    return F.binary_cross_entropy_with_logits(model(batch["image"]), truth, weight)


@torch.no_grad()
def measure(u: nn.Module) -> dict[str, float]:
    """Four scores of a network of `network` on the columns that none saw, each from 0 to 1."""
    image, mask = micrograph("unseen")
    blob, line = u(torch.from_numpy(normalise(image))[None, None])[0].numpy() > 0
    return {
        "Dice of nuclei": metrics.dice(mask, blob),
        "border F1 of nuclei": metrics.border_f1((mask > 0).astype(int), blob.astype(int)),
        "Dice of outlines": metrics.dice(outlines(mask), line),
        "AP at IoU 0.5": metrics.average_precision(mask, require("scipy.ndimage").label(blob & ~line)[0], 0.5),
    }


def crops_of(arm: str) -> Crops:
    """The training crops of one of CROPS, 96×96."""
    return Crops([nuclei.maps(*micrograph())], size=96, **CROPS[arm])


@torch.no_grad()
def first_loss(u: nn.Module, crops: Crops) -> float:
    """The loss of a network of `larger` on four crops, always the same."""
    return segmentation_loss(u, crops(torch.Generator().manual_seed(0), 4)).item()


def nuclei_found(u: nn.Module, part: str = "unseen") -> dict[str, float]:
    """The scores of `nuclei.scores` of a network of `larger`, on the columns it learned from or on the others."""
    return nuclei.scores(micrograph(part)[1], segment(u, micrograph(part)[0]))


def skip_row(levels: int, arm: str, seed: int, steps: int, resume: bool = True, runs: Path = RUNS) -> dict[str, Any]:
    """What one training with or without skips gives, measured once (see `recipes.measured_once`).

    arm: one of SKIPS.  before, scores: as `measure` returns them, untrained and trained.  loss: means of EVERY steps.
    """

    def find():
        image, mask = micrograph()
        maps = {"image": normalise(image), "nucleus": mask > 0, "outline": outlines(mask)}
        u = network(levels, SKIPS[arm], seed)
        found = {"levels": levels, "arm": arm, "seed": seed, "steps": steps, "parameters": count_parameters(u)}
        found["before"] = measure(u)
        settings = dict(steps=steps, batch_size=8, lr=5e-3, ema=0.97, seed=seed, progress=False)
        loss = train(u, Crops([maps], size=64), two_tasks, **settings).loss
        return _rounded(found, scores=measure(u), loss=loss)

    return measured_once(Path(runs) / "skips" / f"{levels} levels {arm}-{seed}-{steps}.json", find, resume)


def crop_row(arm: str, seed: int, steps: int, resume: bool = True, runs: Path = RUNS) -> dict[str, Any]:
    """What one training on the crops of one of CROPS gives, measured once (see `recipes.measured_once`).

    before: untrained, as `first_loss` returns it.  unseen, seen: `nuclei_found` of both parts.  loss: as above.
    """

    def find():
        u, crops = larger(seed), crops_of(arm)
        found = {"arm": arm, "seed": seed, "steps": steps, "before": first_loss(u, crops)}
        settings = dict(steps=steps, batch_size=4, lr=3e-3, ema=0.98, seed=seed, progress=False)
        loss = train(u, crops, segmentation_loss, **settings).loss
        return _rounded(found, unseen=nuclei_found(u), seen=nuclei_found(u, "train"), loss=loss)

    return measured_once(Path(runs) / "skips" / f"{arm} crops-{seed}-{steps}.json", find, resume)


def record(path: Path = PLACE) -> dict[str, Any]:
    """The table that the last run wrote: "skips" and "crops", a list of rows each, and provenance."""
    return read_table(path)


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train all, with the seeds from `seed` on, and write the table; returns its path."""
    plan, kept = {steps: LEVELS[300]} if steps else LEVELS, (resume, runs)
    crops = [crop_row(arm, seed + k, steps or LONG, *kept) for k in range(LONG_SEEDS) for arm in CROPS]
    jobs = [(n, arm, seed + k, many) for many in plan for k in range(SEEDS) for n in plan[many] for arm in SKIPS]
    skips = [skip_row(*job, *kept) for job in jobs]
    table = {"recipe": "skips"} | provenance() | {"skips": skips, "crops": crops}
    return write_table(out or PLACE, table)


def _rounded(found, loss, **more):
    more["loss"] = [float(np.mean(loss[k : k + EVERY])) for k in range(0, len(loss), EVERY)]
    return json.loads(json.dumps(found | more), parse_float=lambda number: round(float(number), 6))
