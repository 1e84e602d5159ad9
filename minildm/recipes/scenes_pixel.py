"""The first arm of lesson 07: a denoiser of pixels, 64×64×3."""

from pathlib import Path

from minildm.denoiser import Denoiser
from minildm.recipes import RUNS, Job, labelled
from minildm.tensors import seeded

STEPS = 1300  # take about as long as those of scenes-latent


def network(seed: int = 0) -> Denoiser:
    """The untrained denoiser: four levels, the last of which attends, at 8×8; about as many parameters as the other."""
    with seeded(seed):
        classes = len(labelled.data.VOCABULARY)
        return Denoiser(
            3,
            3,
            channels=(16, 32, 64, 128),
            attention=(3,),
            num_classes=classes,
            groups=8,
            schedule=labelled.schedule(),
        )


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train it, look at its samples on the way, write the checkpoint; returns its path."""
    pictures, labels = labelled.scenes()
    space = labelled.Pixels(pictures)
    job = Job("scenes-pixel", out, seed, resume, runs)
    return labelled.train_arm(job, network(seed), space, labels, steps or STEPS)
