"""Lesson 12's comparison: a segmenter taught by real crops alone, with pasted ones, with painted ones, at three shares.

A replicate is one clinic. It annotates a piece of the micrograph, and trains a painter on that piece alone. At 10 %
every clinic has a piece of its own; at 25 % and 100 % they share one, and its painter, and differ in all else that is
random. Its segmenters, one for each arm, begin from the same weights, take the same number of steps, and are scored on
the strip that nobody has seen. A batch is 8 real crops, or 4 real and 4 made ones; "half" has the 4 real ones alone, to
tell what made crops add from what the missing real ones cost. The table goes into the record of `clinic`. Each
finished training is kept, so a run that was stopped goes on with the next one.
"""

from pathlib import Path

from minildm import weights
from minildm.data.paste import pasted
from minildm.denoiser import Denoiser
from minildm.recipes import RUNS, amend, clinic, measured_once, nuclei

ARMS = ("real", "half", "pasted", "painted")
REPLICATES = 5
CROPS = 2_000  # to find the nearest among


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train all segmenters of the replicates from `seed` on, and write the table into the record of `clinic`."""
    numbers = range(seed, seed + REPLICATES)
    jobs = [(share, number) for number in numbers for share in clinic.SHARES]
    steps = steps or clinic.SEGMENTER_STEPS
    rows = [row(arm, *job, steps, resume, runs) for job in jobs for arm in ARMS]
    nearness = [copies(*job, resume, runs) for job in jobs if job[1] - seed < clinic.PIECES[job[0]]]
    return amend("clinic", out, dtype=clinic.DTYPE, arms=rows, copies=nearness)


def painter(share: float, number: int, resume: bool = True, runs: Path = RUNS) -> Denoiser:
    """The painter of a piece: the shipped one, or one that is trained like it and kept."""
    number = number % clinic.PIECES[share]
    if (share, number) == clinic.SHIPPED:
        return weights.load("clinic")
    file = Path(runs) / "clinic-arms" / f"painter-{share}-{number}.safetensors"
    if not (resume and file.exists()):
        model = clinic.network(number)
        clinic.fit(model, clinic.piece(share, number), clinic.STEPS[share], seed=number)
        weights.save(file, model, dtype=clinic.DTYPE)
    return weights.load(file)


def made(arm: str, share: float, number: int, resume: bool = True, runs: Path = RUNS) -> list[clinic.Pair]:
    """The pairs that an arm adds: none, composed by cut and paste, or painted."""
    if arm in ("real", "half"):
        return []
    if arm == "pasted":
        return pasted(*clinic.piece(share, number), clinic.PAINTED, clinic.SIZE, seed=number)
    return clinic.painted(painter(share, number, resume, runs), seed=number)


def row(
    arm: str, share: float, number: int, steps: int, resume: bool = True, runs: Path = RUNS
) -> dict[str, str | float]:
    """The figures of one segmenter on the strip that it has not seen, measured once (see `recipes.measured_once`)."""

    def measure():
        batch = clinic.lessons([clinic.piece(share, number)])
        if pairs := made(arm, share, number, resume, runs):
            batch = clinic.mixed(batch, clinic.lessons(pairs))
        model = clinic.segmenter(number)
        size = clinic.SEGMENTER_BATCH // (2 if arm == "half" else 1)
        clinic.fit_segmenter(model, batch, steps, seed=number, batch_size=size)
        image, mask = clinic.unseen()
        return {"arm": arm, "share": share, "number": number, **nuclei.scores(mask, clinic.found(model, image))}

    file = Path(runs) / "clinic-arms" / f"{arm}-{share}-{number}-{steps}.json"
    return {**measured_once(file, measure, resume), "steps": steps}


def copies(share: float, number: int, resume: bool = True, runs: Path = RUNS) -> dict[str, float]:
    """Which share of painted pairs lies nearer to crops that the painter saw than to crops of the strip for the test.

    The same for two kinds of real pairs: fresh crops of what it saw ("copies"), and crops of what neither holds
    ("strangers"; None where all known columns were seen).
    """

    def measure():
        seen = clinic.crops([clinic.piece(share, number)], CROPS, seed=1)
        other = clinic.crops([clinic.strip()], CROPS, seed=2)
        rest = clinic.around(share, number)
        asked = {
            "painted": clinic.draw(painter(share, number, resume, runs), clinic.PAINTED, seed=number),
            "copies": clinic.crops([clinic.piece(share, number)], clinic.PAINTED, seed=3),
            "strangers": clinic.crops(rest, clinic.PAINTED, seed=4) if rest else None,
        }
        near = {
            name: None if x is None else (clinic.nearest(x, seen) < clinic.nearest(x, other)).float().mean().item()
            for name, x in asked.items()
        }
        return {"share": share, "number": number, **near}

    return measured_once(Path(runs) / "clinic-arms" / f"copies-{share}-{number}.json", measure, resume)
