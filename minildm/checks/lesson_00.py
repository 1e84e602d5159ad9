"""Checks of lesson 00: the first wishes."""

import time
from collections import Counter
from collections.abc import Callable

from minildm import judge
from minildm.data import heldout, parse
from minildm.pipeline import LatentDiffusion

from ._check import Exercise, exercise
from ._guard import Function, call, look_at
from ._outcome import CheckFailed, Outcome, settle


def three_of_a_kind(answer: Function, pipe: Callable | None = None, *, strict: bool | None = None) -> Outcome:
    """Exercise 1: `answer()` -> a prompt that asks for three of one thing, and a seed with which just that is there.

    pipe: what paints, called as `LatentDiffusion` is; None: the shipped "pocket".
    strict: whether an answer that is not written yet fails; None: as `checks.strict` has it.
    """
    __tracebackhide__ = True  # for pytest
    return settle("three_of_a_kind", lambda: _three(answer, pipe), strict)


def _three(answer, pipe):
    """What the judge sees, in words; CheckFailed where that is not what was asked for, three of a kind and no more."""
    look_at(answer)
    wish = call(answer, (), time.monotonic() + 600)  # an answer may try many seeds, on any machine
    if not (isinstance(wish, tuple) and [type(part) for part in wish] == [str, int]):
        raise CheckFailed(f'expected a prompt and a seed, as in return "a cat", 3; got {wish!r}')
    prompt, seed = wish
    pipe = LatentDiffusion.from_pretrained("pocket") if pipe is None else pipe
    (found,) = judge.inspect(pipe(prompt, seed=seed, output="tensor"))
    seen = ", ".join(one.name for one in found) or "nothing that it knows"
    threes = {name for name, count in Counter(one.name for one in found).items() if count == 3}
    if not threes & _asked_three_times(prompt):
        raise CheckFailed(f"the judge sees {seen}\nlikely: {_why(prompt)}")
    if wrong := judge.faults(found, parse(prompt)):
        raise CheckFailed(
            f"the judge sees {seen}\nlikely: three are there, but not all is as you asked for "
            f"({', '.join(wrong)}): try another seed"
        )
    return f"the judge sees {seen}"


def _asked_three_times(prompt):
    """The things of which a prompt asks for three."""
    try:
        return {name for name, count in parse(prompt).objects if count == 3}
    except ValueError:  # not a prompt of the judge's world
        return set()


def _why(prompt: str) -> str:
    """Why there may not be three of a kind in a picture of this prompt."""
    try:
        wish = parse(prompt)
    except ValueError as error:
        return f"the judge's world is small, and this is not of it: {error}"
    if 3 not in [count for _, count in wish.objects]:
        return (
            "the prompt does not ask for three of anything; it must ask for three of the thing that is to be there "
            'three times, in words such as "two cats", but three (what nobody asked for is a miscount)'
        )
    if heldout(wish):
        return "training kept this thing in this number away from the painter, on purpose: choose another thing"
    return "the painter miscounted: try another seed, or other things"


@exercise
def bottom_size() -> Exercise:
    """Exercise 2: `answer(height, width, levels)` -> (height, width) of the map at the bottom of a U."""

    def size(halvings=lambda levels: levels - 1, shrink=lambda n: 2**n, order=lambda h, w: (h, w)):
        return lambda height, width, levels: order(*(side // shrink(halvings(levels)) for side in (height, width)))

    cases = [(16, 24, 3), (64, 64, 4), (512, 512, 4), (32, 96, 1), (640, 512, 7), (96, 32, 2), (128, 384, 5)]
    mistakes = {
        "halved once too often: the first level has the full size": size(halvings=lambda levels: levels),
        "it is halved between any two levels, not only once": size(halvings=lambda levels: int(levels > 1)),
        "halving twice leaves a quarter: divide by powers of two": size(shrink=lambda n: max(1, 2 * n)),
        "divide by 2 for each halving, and there is one halving fewer than levels: a power of two, no product": size(
            halvings=lambda levels: levels, shrink=lambda n: 2 * n
        ),
        "height and width are exchanged": size(order=lambda h, w: (w, h)),
        "that is the size at the top; on the way down it is halved": lambda height, width, levels: (height, width),
    }
    return Exercise(size(), cases, mistakes, tolerance=0)
