"""Self-attention compared with convolutions of as many parameters, in long trainings on `twins`.

The table goes into the record of the shipped `twins`, where lesson 05 reads it. About 40 minutes on one core; each
finished training is kept, and one that was stopped goes on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minildm.recipes import RUNS, amend, measured_once, twins
from minildm.tensors import count_parameters

SEEDS = 2
ARMS = ("attention", "convolutions")
LOOKS = 8  # how often in a training its samples are looked at


def row(arm: str, seed: int = 0, steps: int | None = None, resume: bool = True, runs: Path = RUNS) -> dict[str, Any]:
    """What one training gives, measured once (see `recipes.measured_once`).

    As `twins.evaluate` measures it; `pictures`, 8 samples, which `pictures` opens; and `curve`: [steps done, share of
    equal pixels in tiles and their mirror images, and in the two tiles] of a few samples drawn on the way.
    """
    steps = steps or twins.STEPS
    folder, name = Path(runs) / "attention", f"{arm}-{seed}-{steps}"

    def measure():
        model = twins.network(seed, attention=arm == "attention")
        checkpoint = folder / f"{name}.safetensors"
        if not resume:
            checkpoint.unlink(missing_ok=True)
        history = twins.fit(
            model,
            steps,
            seed,
            checkpoint=checkpoint,
            progress=False,
            validate=lambda model: twins.agreement(twins.draw(model, 128, steps=10)),
            validate_every=max(1, steps // LOOKS),
        )
        drawn = (127.5 * (twins.draw(model, 8) + 1)).round().clamp(0, 255).to(torch.uint8)
        known = {"arm": arm, "seed": seed, "steps": steps, "parameters": count_parameters(model)}
        curve = [[step, found["near"], found["far"]] for step, found in history.validation]
        return known | {"curve": curve, "pictures": drawn.numpy().tobytes().hex()} | twins.evaluate(model)

    return measured_once(folder / f"{name}.json", measure, resume)


def pictures(row: Mapping[str, Any]) -> Tensor:
    """The samples that the record of a training keeps. (8, 1, 10, 10)"""
    numbers = torch.tensor(list(bytes.fromhex(row["pictures"])), dtype=torch.float32)
    return numbers.view(-1, 1, twins.SIZE, twins.SIZE) / 127.5 - 1


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train both arms with the seeds from `seed` on, and write the table into the record of `twins`.

    Only the rows of the first seed keep their pictures.
    """
    jobs = [(arm, seed + k) for k in range(SEEDS) for arm in ARMS]
    table = [row(*job, steps, resume, runs) for job in jobs]
    for one in table[len(ARMS) :]:
        one.pop("pictures", None)
    return amend("twins", out, dtype=twins.DTYPE, attention=table)
