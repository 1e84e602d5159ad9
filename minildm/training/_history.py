"""The record of a training: losses, validations, seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class History:
    """What happened so far: `plot(history.loss)` is the loss curve.

    loss: one number per step.  validation: (steps done, what `validate` returned).  seconds: of training, all runs.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[tuple[int, float | dict]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.loss)

    def note(self, result: float | Mapping | None) -> dict[str, float]:
        """Keep what `validate` returned, as plain numbers, and return it named for a log.

        None, from a `validate` that only looks or draws, is not kept.
        """
        if result is None:
            return {}
        if isinstance(result, Mapping):
            numbers = {name: float(value) for name, value in result.items()}
            self.validation.append((self.step, numbers))
            return {f"validation/{name}": value for name, value in numbers.items()}
        self.validation.append((self.step, float(result)))
        return {"validation": float(result)}
