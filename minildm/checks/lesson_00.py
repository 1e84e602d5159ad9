"""Checks of lesson 00: the first wishes."""

from collections import Counter
from collections.abc import Callable

from minildm import judge
from minildm.data import heldout, parse
from minildm.pipeline import LatentDiffusion

from ._check import Function, check


def three_of_a_kind(answer: Function, pipe: Callable | None = None) -> None:
    """Exercise 1: `answer()` -> a prompt and a seed; the judge must find three things of one kind in the picture.

    pipe: what paints, called as `LatentDiffusion` is; None: the shipped "pocket".
    """
    name = "three_of_a_kind"
    try:
        wish = answer()
    except NotImplementedError:
        print(f"– {name}: not written yet")
        return
    if not (isinstance(wish, tuple) and [type(part) for part in wish] == [str, int]):
        raise AssertionError(f'{name}: expected a prompt and a seed, as in return "a cat", 3; got {wish!r}')
    prompt, seed = wish
    pipe = LatentDiffusion.from_pretrained("pocket") if pipe is None else pipe
    (found,) = judge.inspect(pipe(prompt, seed=seed, output="tensor"))
    seen = ", ".join(one.name for one in found) or "nothing that it knows"
    if 3 not in Counter(one.name for one in found).values():
        raise AssertionError(f"{name}: the judge sees {seen}\nlikely: {_why(prompt)}")
    print(f"✓ {name}: the judge sees {seen}")


def _why(prompt: str) -> str:
    """Why there may not be three of a kind in a picture of this prompt."""
    try:
        wish = parse(prompt)
    except ValueError as error:
        return f"the judge's world is small, and this is not of it: {error}"
    if 3 not in [count for _, count in wish.objects]:
        return 'the prompt does not ask for three; try a number, as in "two cats", but three'
    if heldout(wish):
        return "training kept this thing in this number away from the painter, on purpose: choose another thing"
    return "the painter miscounted: try another seed, or other things"


def bottom_size(answer: Function) -> None:
    """Exercise 2: `answer(height, width, levels)` -> (height, width) of the map at the bottom of a U."""

    def size(halvings=lambda levels: levels - 1, shrink=lambda n: 2**n, order=lambda h, w: (h, w)):
        return lambda height, width, levels: order(*(side // shrink(halvings(levels)) for side in (height, width)))

    cases = [(16, 24, 3), (64, 64, 4), (512, 512, 4), (32, 96, 1), (640, 512, 7), (96, 32, 2), (128, 384, 5)]
    mistakes = {
        "halved once too often: the first level has the full size": size(halvings=lambda levels: levels),
        "it is halved between any two levels, not only once": size(halvings=lambda levels: int(levels > 1)),
        "halving twice leaves a quarter: divide by powers of two": size(shrink=lambda n: max(1, 2 * n)),
        "height and width are exchanged": size(order=lambda h, w: (w, h)),
        "that is the size at the top; on the way down it is halved": lambda height, width, levels: (height, width),
    }
    check("bottom_size", answer, size(), cases, mistakes, tolerance=0)
