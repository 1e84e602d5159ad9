"""The options that `minildm train` and `minildm adapt` share."""

from pathlib import Path
from typing import Annotated, NamedTuple

from minildm.optional import require


class TrainingOptions(NamedTuple):
    """The annotations of a command's parameters, as typer reads them."""

    steps: object
    minutes: object
    batch: object
    lr: object
    seed: object
    resume: object
    runs: object


def training_options() -> TrainingOptions:
    """How long, with what batches and rate, from which seed, and where the run is kept."""
    option = require("typer").Option
    return TrainingOptions(
        steps=Annotated[int | None, option(min=1, help="Train this many steps, not the recipe's own.")],
        minutes=Annotated[float | None, option(min=0, help="As many steps as take about so long here.")],
        batch=Annotated[int | None, option(min=1, help="Samples of a step.")],
        lr=Annotated[float | None, option(help="The learning rate, at its peak.")],
        seed=Annotated[int, option(min=0, help="The seed of all that is drawn at random.")],
        resume=Annotated[bool, option(help="Go on from the checkpoint of a run that was stopped.")],
        runs=Annotated[Path, option(metavar="FOLDER", help="Where a run keeps its checkpoint until it is done.")],
    )


def given(**settings: object) -> dict[str, object]:
    """Those that were given; for the others the recipe has its own."""
    return {name: value for name, value in settings.items() if value is not None}
