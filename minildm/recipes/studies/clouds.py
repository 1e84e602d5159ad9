"""What noise in the latent and the KL do to an autoencoder: tiny ones of portraits, and small ones of scenes.

Tiny ones are made of linear layers, and their latent is two numbers; small ones are like `vae_pocket`, and smaller.
Those of a kind differ in the noise and in the weight of the KL alone; with the same seed they see the same pictures.
The table is minildm/weights/clouds.json, which the evidence of lesson 06 reads. About 9 minutes of one core.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minildm import metrics, weights
from minildm.autoencoder import AutoencoderKL, autoencoder_loss
from minildm.images import to_model
from minildm.recipes import RUNS, measured_once, provenance, read_table, vae_pocket, write_table
from minildm.recipes.studies import tiny_autoencoder as tiny
from minildm.tensors import seeded
from minildm.training import train

PLACE = weights.FOLDER / "clouds.json"
TINY = dict(steps=2_000, batch_size=64, lr=4e-3, ema=None, validate_every=100)
SMALL = dict(steps=1_200, batch_size=8, lr=2e-3, ema=0.98, validate_every=200)
SEEDS = {"tiny": 3, "small": 1}
SCENES, EXAM = 2_000, 96  # to learn from, held out
PARTS = {"PSNR": 0.0, "PSNR, error 10 %": 0.1, "PSNR, error 30 %": 0.3}  # of the latent's spread, added to it


class Arm(NamedTuple):
    """What is changed: the weight of the KL, and how much of the noise a latent gets in training (1: all of it)."""

    weight: float = 0.0
    noise: float = 1.0


ARMS = {
    "tiny": {"plain, no noise": Arm(noise=0)} | {f"KL weight {w:g}": Arm(w) for w in (0, 0.01, 0.03)},
    "small": {"no noise": Arm(noise=0)} | {f"weight {w:g}": Arm(w) for w in (0, 1e-6, 1e-3)},
}


@torch.no_grad()
def forgiving(net: AutoencoderKL, pictures: Tensor, parts: Sequence[float]) -> list[float]:
    """PSNR in dB when such parts of the latent's spread are added to it as an error. pictures: (n, 3, h, w)"""
    mean = net.encode(pictures).mean
    dice = mean.std() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(4))
    true, *drawn = (((x + 1) / 2).clamp(0, 1) for x in (pictures, *(net.decode(mean + part * dice) for part in parts)))
    return [metrics.psnr(true, x).mean().item() for x in drawn]


@torch.no_grad()
def small_exam(net: AutoencoderKL) -> dict[str, float]:
    """PARTS of `forgiving` on held-out scenes; the means' spread; a cloud's mean deviation; nats for each number."""
    x = to_model(vae_pocket.scenes(EXAM))
    cloud = net.encode(x)
    found = dict(zip(PARTS, forgiving(net, x, tuple(PARTS.values())), strict=True))
    found |= {"spread": cloud.mean.std().item(), "cloud": cloud.std.mean().item()}
    return found | {"KL": (cloud.kl().mean() / cloud.mean[0].numel()).item()}


def network(kind: str, seed: int = 0) -> nn.Module:
    """The untrained autoencoder: `tiny_autoencoder.Tiny`, or a small one that makes 4×16×16 numbers of 3×64×64."""
    with seeded(seed):
        if kind == "tiny":
            return tiny.Tiny()
        return AutoencoderKL(3, 4, (16, 48), 1, groups=8, middle_attention=False, patch=2)


def fit(kind: str, arm: Arm, seed: int = 0, steps: int | None = None) -> dict[str, list[float]]:
    """Train one; returns its exams, a list for each measure, and "step", when it sat them.

    Of a small one the running average of the weights sits them.
    """
    if kind == "tiny":
        x, latent, settings, exam, loss = tiny.portraits(), (2,), TINY, tiny.exam, tiny.loss
    else:
        x, latent, settings, exam = to_model(vae_pocket.scenes(SCENES, 3, "train")), (4, 16, 16), SMALL, small_exam
        loss = partial(autoencoder_loss, l2=vae_pocket.L2)

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        chosen = torch.randint(len(x), (n,), generator=generator)
        return {"x": x[chosen], "eps": arm.noise * torch.randn(n, *latent, generator=generator)}

    def sit(net: nn.Module) -> dict[str, float]:
        return exam(deepcopy(net).cpu())

    settings = dict(settings, steps=steps or settings["steps"], seed=seed, progress=False)
    sat = train(network(kind, seed), batch, partial(loss, kl=arm.weight), validate=sit, **settings).validation
    found = {measure: [float(f"{each[measure]:.6g}") for _, each in sat] for measure in sat[0][1]}
    return {"step": [step for step, _ in sat]} | found


def row(
    kind: str, arm: str, seed: int = 0, steps: int | None = None, resume: bool = True, runs: Path = RUNS
) -> dict[str, Any]:
    """What one training gives, measured once (see `recipes.measured_once`): its exams, as `fit` returns them."""
    how = {"kind": kind, "arm": arm, "seed": seed, "steps": steps or (TINY if kind == "tiny" else SMALL)["steps"]}
    path = Path(runs) / "clouds" / f"{'-'.join(map(str, how.values()))}.json"
    return measured_once(path, lambda: how | {"exams": fit(kind, ARMS[kind][arm], seed, steps)}, resume)


def record(path: Path = PLACE) -> dict[str, Any]:
    """The table that the last run wrote: "rows", how both kinds were trained, provenance."""
    return read_table(path)


def exams(rows: Sequence[Mapping[str, Any]], kind: str, arm: str, measure: str) -> Tensor:
    """What the trainings of an arm gave in one measure, from exam to exam. -> (seeds, exams)"""
    return torch.tensor([row["exams"][measure] for row in rows if (row["kind"], row["arm"]) == (kind, arm)])


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train both kinds with the seeds from `seed` on, and write the table; returns its path."""
    order = [(kind, arm, seed + k) for kind in ARMS for k in range(SEEDS[kind]) for arm in ARMS[kind]]
    how = dict(recipe="clouds", tiny=TINY, small=SMALL, portraits=tiny.PORTRAITS, scenes=SCENES)
    how |= provenance() | {"rows": [row(*which, steps, resume, runs) for which in order]}
    return write_table(out or PLACE, how)
