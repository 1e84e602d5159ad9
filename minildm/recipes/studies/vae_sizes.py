"""Sizes of latents compared: three, each with a briefly trained autoencoder and a denoiser; the table of lesson 06."""

import math
from pathlib import Path

import torch

from minildm import data
from minildm.denoiser import Denoiser
from minildm.recipes import RUNS, amend, labelled, measured_once, vae_pocket
from minildm.tensors import seeded

STEPS = 800  # of each autoencoder
# The autoencoder's configuration; the denoiser's levels, those that attend, and how many steps of it take as long as
# those of the others. All denoisers have some 2.8 million parameters.
SIZES = {
    "f = 8, 4 channels": (dict(latent_channels=4, channels=(16, 32, 64, 128)), (64, 128), (0, 1), 1100),
    "f = 8, 16 channels": (dict(latent_channels=16, channels=(16, 32, 64, 128)), (64, 128), (0, 1), 1100),
    "f = 4, 4 channels": (dict(), (32, 64, 128), (1, 2), 750),
}


def row(name: str, seed: int = 0, steps: int | None = None, resume: bool = True, runs: Path = RUNS) -> dict:
    """What one shape gives, measured once (see `recipes.measured_once`).

    scenes_psnr, openmoji_psnr, ...: as `vae_pocket.evaluate` measures them.
    recognised, kernel, floor: of pictures of one object, as in lesson 07, by a denoiser trained for a few minutes.
    """
    config, channels, attention, denoiser_steps = SIZES[name]
    vae_steps, denoiser_steps = (steps, steps) if steps else (STEPS, denoiser_steps)

    def measure():
        vae = vae_pocket.network(seed, **config)
        vae_pocket.fit(vae, vae_steps, seed)
        vae_pocket.scale(vae)
        pictures, labels = labelled.scenes()
        space = labelled.Latents(pictures, vae)
        with seeded(seed):
            c, classes = vae.latent_channels, len(data.VOCABULARY)
            shape = dict(channels=channels, attention=attention, num_classes=classes, groups=8)
            denoiser = Denoiser(c, c, **shape, schedule=labelled.schedule())
        labelled.fit(denoiser, space, labels, denoiser_steps, seed)
        found = {"name": name, "f": vae.multiple, "channels": c, "numbers": math.prod(space.shape)}
        found |= {"steps": vae_steps, "denoiser_steps": denoiser_steps}
        found |= {"denoiser_mflop": _megaflops(denoiser, space.shape)}
        return found | vae_pocket.evaluate(vae) | labelled.quality(denoiser, space, each=4)

    return measured_once(Path(runs) / "vae-sizes" / f"{name.replace(' ', '')}-{seed}-{vae_steps}.json", measure, resume)


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Measure each shape, and write the table into the record of `vae-pocket`."""
    return amend("vae-pocket", out, sizes=[row(name, seed, steps, resume, runs) for name in SIZES])


@torch.no_grad()
def _megaflops(model, shape):
    """Floating-point operations of one call for one sample, in millions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64))
    return counter.get_total_flops() / 1e6
