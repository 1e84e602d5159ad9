"""Cross-validation of `nuclei`: four folds over strips of the micrograph, three seeds, and a classical baseline.

The table goes into the record of the shipped `nuclei`, where lesson 01 reads it. About half an hour on two cores;
each finished training is kept, so a run that was stopped goes on with the next one.
"""

import itertools
from pathlib import Path

import numpy as np

from minildm import data
from minildm.recipes import RUNS, amend, measured_once, nuclei
from minildm.segmentation import classical, segment

FOLDS, SEEDS = 4, 3
# What the classical baseline may choose from, on the strips that the U learns from.
GRID = [
    dict(zip(("block", "offset", "blur", "height"), values, strict=True))
    for values in itertools.product((0, 41, 61, 101, 201), (0.0, 0.2, 0.4, 0.6), (1.0, 2.0), (0.25, 0.5, 1.0, 2.0))
]


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train every fold with the seeds from `seed` on, and write the table into the record of `nuclei`."""
    jobs = [("classical", fold, seed) for fold in range(FOLDS)]
    jobs += [("U-Net", fold, seed + k) for k in range(SEEDS) for fold in range(FOLDS)]
    rows = [row(*job, steps or nuclei.STEPS, resume, runs) for job in jobs]
    return amend("nuclei", out, cross_validation=rows)


def row(arm: str, fold: int, seed: int, steps: int = nuclei.STEPS, resume: bool = True, runs: Path = RUNS) -> dict:
    """The figures of one fold on the strip that it has not seen, measured once (see `recipes.measured_once`)."""

    def measure():
        micrograph = data.nuclei()[0]
        strips = list(data.nuclei_strips(micrograph["image"], micrograph["mask"], FOLDS))
        train_pairs, (image, mask) = strips[fold]
        if arm == "classical":
            figures = classical_baseline(train_pairs, image, mask)
        else:
            model = nuclei.network(seed)
            history = nuclei.fit(model, train_pairs, steps, seed)
            figures = nuclei.scores(mask, segment(model, image)) | {"minutes": history.seconds / 60}
        return {"arm": arm, "fold": fold, "seed": seed, **figures}

    return measured_once(
        Path(runs) / "nuclei-folds" / f"{arm.replace(' ', '-')}-{fold}-{seed}-{steps}.json", measure, resume
    )


def classical_baseline(train_pairs: list[nuclei.Pair], image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Threshold and watershed on the test strip, with the settings that are best on the training strips.

    Chosen anew for each figure: no single pipeline could do better on all three.
    """
    sizes = [pair[0].size for pair in train_pairs]
    tables = [[nuclei.scores(true, classical(raw, **settings)) for raw, true in train_pairs] for settings in GRID]
    figures = {}
    for name in ("dice", "ap50", "ap75"):
        means = [np.average([scores[name] for scores in table], weights=sizes) for table in tables]
        figures[name] = nuclei.scores(mask, classical(image, **GRID[int(np.argmax(means))]))[name]
    return figures
