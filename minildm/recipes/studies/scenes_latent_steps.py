"""`scenes_latent` with as many steps as `scenes_pixel`, and on a schedule of its own; for lesson 07.

The table goes into the record of `scenes-latent`; no network is kept. About 20 minutes on one core; each finished
training is kept, so a run that was stopped goes on with the next one.
"""

from pathlib import Path
from typing import Any

from minildm import weights
from minildm.recipes import RUNS, amend, labelled, measured_once, scenes_latent, scenes_pixel
from minildm.schedule import NoiseSchedule

# A shift of the cosine schedule, and the seed. With 0.7 an observer names as many latents as pictures (evidence 07).
JOBS = ((1.0, 0), (0.7, 0), (1.0, 1))


def row(
    shift: float, seed: int = 0, steps: int | None = None, resume: bool = True, runs: Path = RUNS
) -> dict[str, Any]:
    """What one training gives, measured once (see `recipes.measured_once`).

    recognised, kernel, floor: of 536 samples, as at the end of `scenes_pixel` and `scenes_latent`.
    minutes: of training; those of another day or machine do not compare with them.
    """
    steps = steps or scenes_pixel.STEPS

    def measure():
        pictures, labels = labelled.scenes()
        space = labelled.Latents(pictures, weights.load("vae-pocket"))
        model = scenes_latent.network(seed, NoiseSchedule.cosine(shift=shift).predicting("v"))
        history = labelled.fit(model, space, labels, steps, seed, progress=False)
        found = labelled.quality(model, space, each=8, seed=1)
        return {"shift": shift, "seed": seed, "steps": steps, "minutes": history.seconds / 60} | found

    return measured_once(Path(runs) / "latent-steps" / f"{shift}-{seed}-{steps}.json", measure, resume)


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train each, with seeds from `seed` on, and write the table into the record of `scenes-latent`."""
    rows = [row(shift, seed + more, steps, resume, runs) for shift, more in JOBS]
    return amend("scenes-latent", out, dtype=labelled.DTYPE, equal_steps=rows)
