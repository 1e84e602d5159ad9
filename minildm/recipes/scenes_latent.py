"""The second arm of lesson 07: a denoiser of the pocket autoencoder's latents, 16×16×4."""

from pathlib import Path

from minildm import weights
from minildm.denoiser import Denoiser
from minildm.recipes import RUNS, Job, labelled
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded

STEPS = 6300


def network(seed: int = 0, schedule: NoiseSchedule | None = None) -> Denoiser:
    """The untrained denoiser: three levels, two of which attend, at 8×8 and 4×4.  schedule: None, that of all arms."""
    with seeded(seed):
        classes = len(labelled.data.VOCABULARY)
        shape = dict(channels=(32, 64, 128), attention=(1, 2), num_classes=classes, groups=8)
        return Denoiser(4, 4, **shape, schedule=schedule or labelled.schedule())


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train it, look at its samples on the way, write the checkpoint; returns its path."""
    pictures, labels = labelled.scenes()
    space = labelled.Latents(pictures, weights.load("vae-pocket"))
    job = Job("scenes-latent", out, seed, resume, runs)
    return labelled.train_arm(job, network(seed), space, labels, steps or STEPS)
