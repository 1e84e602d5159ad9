"""Visible checks of homework 6, of the letters and of the experiments. They are called by `homework_6`."""

import copy
from collections.abc import Callable, Sequence
from functools import wraps

import torch

from ._outcome import NotWritten, Outcome
from ._probe import Probe, probe

_UNSEEN = {  # the exhibit's name: what an experiment that lets it pass may have overlooked
    "preview": "the exhibit's picture *is* right: what else is promised?",
    "train_on": "the loss that the exhibit returns *is* right: look at the weights",
    "train_with_average": "the exhibit's losses and model *are* right, and its average moves: what should it be after "
    "one step?",
}
_ADAM = "with Adam a factor of the gradient cannot be seen: use SGD"


def experiment(answer: Callable, exhibit: Callable, repaired: Callable, *, strict: bool | None = None) -> Outcome:
    """An experiment of yours: `answer(function)` -> True if the function is right, False if it is broken.

    It must tell the exhibit from your repair, and say the same when it is run again. At grading it meets others.
    """

    @probe()
    def experiment(ask: Probe) -> None:
        for _ in range(2):
            for function, right in ((exhibit, False), (repaired, True)):
                stubs, optimizers = [], []
                said = _try(ask, function, stubs, optimizers)
                if stubs:  # also where the experiment catches the stub's error
                    raise NotWritten("your *repair* is not written yet: the experiment needs it")
                ask.need(type(said) in (bool, torch.Tensor) or hasattr(said, "dtype"), "expected True or False")
                where = "your repair" if right else "the exhibit"
                by_adam = optimizers and all(
                    isinstance(one, torch.optim.Adam | torch.optim.AdamW) for one in optimizers
                )
                unseen = _ADAM if by_adam and exhibit.__name__ == "train_on" else _UNSEEN.get(exhibit.__name__)
                likely = f"\nlikely: {unseen}" if unseen and not right else ""
                ask.need(bool(said) == right, f"it must say {right} of {where}, and says {bool(said)}{likely}")

    outcome = experiment(answer, strict=strict)
    if outcome:
        print("  so far: grading has other broken functions, and others that are right")
    return outcome


def _try(ask, function, stubs, optimizers):
    """What an experiment says of a function; noted are a stub that it meets, and optimizers that it hands over."""
    function = copy.copy(function)

    @wraps(function)
    def noting(*arguments, **named):
        given = [*arguments, *named.values()]
        optimizers.extend(one for one in given if isinstance(one, torch.optim.Optimizer))
        try:
            return function(*arguments, **named)
        except NotImplementedError:
            stubs.append(function)
            raise

    try:
        return ask.raw(noting)
    except NotWritten:
        if not stubs:
            raise
        return None


def choice(answer: Callable, exhibits: Sequence[int] = (), *, strict: bool | None = None) -> Outcome:
    """Whether each exhibit asked for has a letter; which letters are right is found when the homework is graded.

    answer: `answer()` -> a dictionary, number of the exhibit -> "a", "b" or "c".
    exhibits: the numbers asked for; none given: any.
    """

    @probe()
    def choice(ask: Probe) -> None:
        said = ask.raw()
        ask.need(isinstance(said, dict) and len(said) > 0, "expected a dictionary: number of the exhibit -> letter")
        for number in said:
            ask.need(type(number) is int, f"expected numbers as keys, as in {{9: ...}}, without quotes; got {number!r}")
        for number in exhibits:
            ask.need(number in said, f"exhibit {number} is missing: expected the keys {_row(exhibits)}")
        for number, letter in said.items():
            known = not exhibits or number in exhibits
            ask.need(known, f"exhibit {number} is not asked for here: expected the keys {_row(exhibits)}")
            ask.need(letter in ("a", "b", "c"), f'expected "a", "b" or "c" for exhibit {number}, got {letter!r}')

    return choice(answer, strict=strict)


def _row(numbers):
    return ", ".join(map(str, numbers))
