"""Which latents are easy to paint: autoencoders with four regularisers, judged by what a painter makes of them.

All are like the pocket's autoencoder, and smaller; they see the same scenes of one thing, in the same order, for as
many steps. Then the same small painter learns each one's latents from labels, once for each schedule of SHIFTS. The
table is minildm/weights/easy-latents.json, which the evidence of lesson 06 reads. About an hour of one core.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minildm import data, likeness, metrics, weights
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.images import from_model, to_model
from minildm.recipes import RUNS, labelled, measured_once, pocket_autoencoder, provenance, read_table, write_table
from minildm.recipes.pocket_autoencoder import drawing_loss, standardised
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.training import train

PLACE = weights.FOLDER / "easy-latents.json"
AUTOENCODER = dict(steps=500, batch_size=16, lr=2e-3, ema=0.99)
PAINTER = dict(steps=700, batch_size=32, lr=2e-3, ema=0.99, decay=350)
LABELS = range(0, 46, 3)  # sixteen nouns of `data.VOCABULARY`: so few that minutes of training show something
SCENES, EACH, SEEDS = 6_000, 8, 2  # to choose from; pictures of each label, to measure on; trainings of each arm
SHIFTS = (1.0, 3.0)  # of the painter's schedule: the pocket's latents want the noisier one


class Arm(NamedTuple):
    """What is asked of the latents, besides that the decoder rebuilds pictures from them."""

    kl: float = 1e-6  # the weight of the KL
    half: bool = False  # the latent pooled by two must decode to the picture pooled by two
    noise: float = 0.0  # the largest spread of an error added to standardised latents


ARMS = {"plain": Arm(), "KL 1e-3": Arm(kl=1e-3), "half size": Arm(half=True), "noise": Arm(noise=0.7)}


def network(seed: int = 0) -> AutoencoderKL:
    """The untrained autoencoder, the same for all arms: pictures of 64×64 as latents of 8×8×16."""
    return pocket_autoencoder.network(seed, channels=(48, 64, 96), patch=2)


def scenes(n: int, seed: int = labelled.TRAIN_SEED) -> tuple[Tensor, Tensor]:
    """Those of n scenes on the grid that show one of LABELS alone, (m, 3, 64, 64) in [-1, 1], and its label, (m,)."""
    found = data.scene_arrays(n, seed, "train", tasks="one object", layout="grid")
    labels = torch.tensor([data.VOCABULARY.index(name) for (name,) in found.names])
    some = torch.isin(labels, torch.tensor(LABELS))
    return to_model(torch.from_numpy(found.images).movedim(-1, 1)[some]), labels[some]


def regularised_loss(model: AutoencoderKL, batch: Mapping[str, Tensor], arm: Arm) -> Tensor:
    """What `arm` asks for. batch: x; eps and spread, noise and its size for each latent. -> scalar

    Sources: half size, Skorokhodov et al., "Improving the Diffusability of Autoencoders" (2025); noise, Zheng et al.,
    "Diffusion Transformers with Representation Autoencoders" (2025), here for both parts.
    """
    x, cloud = batch["x"], model.encode(batch["x"])
    z = cloud.at(batch["eps"])
    if arm.noise:
        z = standardised(cloud.mean) + arm.noise * batch["spread"] * batch["eps"]
    loss = drawing_loss(model.decode(z), x) + arm.kl * cloud.kl().mean() / z[0].numel()
    if arm.half:
        loss = loss + drawing_loss(model.decode(F.avg_pool2d(z, 2)), F.avg_pool2d(x, 2))
    return loss


def fit(arm: Arm, x: Tensor, seed: int = 0, steps: int | None = None) -> AutoencoderKL:
    """An autoencoder trained as `arm` asks."""

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        some = x[torch.randint(len(x), (n,), generator=generator)]
        eps, spread = torch.randn(n, 16, 8, 8, generator=generator), torch.rand(n, 1, 1, 1, generator=generator)
        return {"x": some, "eps": eps, "spread": spread}

    model, settings = network(seed), AUTOENCODER | {"steps": steps or AUTOENCODER["steps"]}
    train(model, batch, partial(regularised_loss, arm=arm), **settings, seed=seed, progress=False)
    return model.eval()


class Standardised:
    """What an autoencoder makes of pictures, with mean 0 and spread 1 in each channel; a `labelled.Space`."""

    shape, clip = (16, 8, 8), None

    def __init__(self, x: Tensor, vae: AutoencoderKL, arm: Arm):
        self.vae, self.arm, self.mean, self.std = vae, arm, 0, 1  # until they are known
        z = self.encode(x)
        self.mean, self.std = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)
        self.z = (z - self.mean) / self.std

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Other pictures, by the mean and the spread of those that it was made with. -> (n, *shape)"""
        return (torch.cat([self.vae.encode(part).mean for part in x.split(100)]) - self.mean) / self.std

    def take(self, at: Tensor, generator: torch.Generator) -> Tensor:
        return self.z[at]

    @torch.no_grad()
    def pictures(self, x: Tensor) -> Tensor:
        z = x if self.arm.noise else x * self.std + self.mean  # with noise, the decoder has seen no others
        return from_model(torch.cat([self.vae.decode(part) for part in z.split(64)]))


def painter(shift: float, seed: int = 0) -> Denoiser:
    """The untrained denoiser, the same for all arms: it is told a label, and predicts v."""
    how = dict(channels=(96, 96), blocks_per_level=1, attention=(0, 1), groups=16, heads=3)
    with seeded(seed):
        schedule = NoiseSchedule.cosine(shift=shift).predicting("v")
        return Denoiser(16, 16, **how, num_classes=len(data.VOCABULARY), schedule=schedule)


def drawn(pictures: Tensor, labels: Tensor) -> dict[str, float]:
    """`likeness.gauge` of pictures of these labels, and "right": the share in which the judge finds just that thing."""
    found = likeness.gauge(pictures, [data.VOCABULARY[label] for label in labels.tolist()])
    return found | {"right": labelled.recognised(pictures, labels).mean().item()}


def row(name: str, seed: int = 0, steps: int | None = None, resume: bool = True, runs: Path = RUNS) -> dict[str, Any]:
    """What one arm gives, measured once (see `recipes.measured_once`).

    psnr: in dB, of rebuilt scenes that no training saw.  fine: the share of the latents' power in the finest quarter of
    frequencies.  rebuilt: `drawn` of them.  painted: for each shift, `drawn` of a painter's pictures.
    """

    def measure() -> dict[str, Any]:
        (x, labels), (fresh, seen) = scenes(SCENES), scenes(60 * EACH, labelled.TEST_SEED)
        vae = fit(ARMS[name], x, seed, steps)
        space = Standardised(x, vae, ARMS[name])
        z = space.encode(fresh)
        again = space.pictures(z)
        found = {"psnr": metrics.psnr((fresh + 1) / 2, again).mean().item(), "fine": fine_power(z)}
        found |= {"rebuilt": drawn(again, seen), "painted": {}}
        asked = torch.tensor(LABELS).repeat(EACH)
        for shift in SHIFTS:
            model, settings = painter(shift, seed), PAINTER | {"steps": steps or PAINTER["steps"]}
            settings["decay"] = min(settings["decay"], settings["steps"])
            labelled.fit(model, space, labels, **settings, seed=seed, progress=False)
            found["painted"][f"{shift:g}"] = drawn(labelled.draw(model, space, asked, seed=1), asked)
        return {"arm": name, "seed": seed} | found

    return measured_once(Path(runs) / "easy-latents" / f"{name.replace(' ', '')}-{seed}-{steps}.json", measure, resume)


def fine_power(z: Tensor) -> float:
    """The share of the power of maps (n, c, h, w) that lies in the finest quarter of frequencies of either axis.

    Channels count alike.
    """
    z = z / z.std((0, 2, 3), keepdim=True)
    power = torch.fft.fft2(z - z.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    waves = torch.fft.fftfreq(z.shape[-1]).abs() * 2  # 1: the finest there is
    fine = torch.maximum(waves[:, None], waves) > 0.75
    return (power[fine].sum() / power.sum()).item()


def record(path: Path = PLACE) -> dict[str, Any]:
    """The table that the last run wrote: "rows", how they were trained, provenance."""
    return read_table(path)


def painted(rows: Sequence[Mapping[str, Any]], arm: str, shift: float, measure: str) -> list[float]:
    """What the painters of an arm reach in one measure, one number for each seed."""
    return [row["painted"][f"{shift:g}"][measure] for row in rows if row["arm"] == arm]


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train each arm with SEEDS seeds from `seed` on, and write the table; returns its path."""
    rows = [row(name, seed + k, steps, resume, runs) for k in range(SEEDS) for name in ARMS]
    how = dict(recipe="easy-latents", autoencoder=AUTOENCODER, painter=PAINTER, scenes=SCENES, shifts=SHIFTS)
    return write_table(out or PLACE, how | provenance() | {"rows": rows})
