"""Which prompts there are, and which of them training never sees."""

import hashlib
import operator
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from .captions import RELATIONS, TASKS, Prompt, caption, parse, task_of
from .vocabulary import COLOURED_SHAPES, LANGUAGES, NOUNS

SPLITS = ("train", "heldout", "all")
COUNTS = (2, 3, 4)

# Three of the 24 coloured shapes, with three colours and all three shapes that training sees in other pairings.
HELD_OUT_SHAPES = ("brown heart", "orange square", "purple circle")
HELD_OUT_SHARE = 0.12  # of the pairs of things, and of the (thing, number) pairs

_NOUNS = tuple(thing.name for thing in NOUNS)
_SHAPES = tuple(thing.name for thing in COLOURED_SHAPES)
# How often an object of a task is a noun; otherwise it is a coloured shape.
_NOUN_SHARE = {"one object": 1.0, "two objects": 0.8, "counting": 0.75, "position": 0.7}


def heldout(prompt: Prompt | str) -> bool:
    """Whether training never sees the combination that this prompt (or caption) asks for.

    Held out are three coloured shapes in every task, 12 % of the pairs of things (in any order and relation), and
    12 % of the (thing, number) pairs. One noun alone is no combination, so "one object" is never held out.
    """
    objects = (parse(prompt) if isinstance(prompt, str) else prompt).objects
    names = [name for name, _ in objects]
    return (
        any(name in HELD_OUT_SHAPES for name in names)
        or any(count > 1 and _in_held_out_share(name, str(count)) for name, count in objects)
        or (len(names) == 2 and _in_held_out_share(*sorted(names)))
    )


@cache
def _in_held_out_share(*words: str) -> bool:
    return in_share(" + ".join(words), HELD_OUT_SHARE)


def in_share(text: str, share: float) -> bool:
    """Whether a text is among the share of all texts that its hash chooses: the same ones on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < share * 2**64


def prompts(
    n: int, seed: int = 0, split: str = "train", tasks: str | Iterable[str] | None = None, language: str = "en"
) -> list[str]:
    """The captions of the first n scenes of these parameters, without their pictures; `parse` reads them.

    split: "train" (no held-out combination), "heldout" (only those) or "all". tasks: one or several of TASKS;
    None means all six, and for "heldout" the five that have combinations. "one object" may be asked for there by
    name: it then draws the usual nouns. Prompt i depends on seed, i, split and tasks alone. Raises ValueError.
    """
    tasks = check(n, seed, split, tasks, language)
    return [caption(*_prompt_and_wording(seed, i, split, tasks, language)) for i in range(n)]


def _prompt_and_wording(seed: int, index: int, split: str, tasks: tuple[str, ...], language: str):
    draw = generator(seed, index, split).random
    return draw_prompt(draw, split, tasks), language, draw


def generator(seed: int, index: int, split: str, purpose: int = 0) -> np.random.Generator:
    """The random numbers of one scene, for its words (purpose 0) or its picture (1); no two splits share them."""
    return np.random.default_rng((seed, index, SPLITS.index(split), purpose))


def draw_prompt(draw: Callable[[], float], split: str, tasks: tuple[str, ...]) -> Prompt:
    """A random prompt; `draw` gives uniform numbers in [0, 1)."""
    task = _pick(tasks, draw)
    while True:
        prompt = _draw_any(draw, task)
        combined = task != "one object"
        if prompt.task == task and (split == "all" or not combined or heldout(prompt) == (split == "heldout")):
            return prompt


def _draw_any(draw, task: str) -> Prompt:
    nouns = _NOUN_SHARE.get(task, 0.0)
    names = [_pick(_NOUNS if draw() < nouns else _SHAPES, draw)]
    if task in ("two objects", "position", "colour attribution"):
        names.append(_pick(_NOUNS if draw() < nouns else _SHAPES, draw))
        while names[1] == names[0]:
            names[1] = _pick(_NOUNS if draw() < nouns else _SHAPES, draw)
    count = _pick(COUNTS, draw) if task == "counting" else 1
    relation = _pick(RELATIONS, draw) if task == "position" else None
    objects = tuple((name, count) for name in names)
    return Prompt(task_of(objects, relation), objects, relation)


def _pick(options, draw):
    return options[int(draw() * len(options))]


def check(n: int, seed: int, split: str, tasks: str | Iterable[str] | None, language: str) -> tuple[str, ...]:
    """Raise ValueError for arguments that make no scenes; the tasks as a tuple in their own order otherwise."""
    if operator.index(n) < 1:
        raise ValueError(f"n, the number of scenes, must be at least 1, got {n}")
    if operator.index(seed) < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    expect("split", split, SPLITS)
    expect("language", language, LANGUAGES)
    if tasks is None:
        return TASKS if split != "heldout" else TASKS[1:]
    tasks = {tasks} if isinstance(tasks, str) else set(tasks)
    if not tasks or not tasks <= set(TASKS):
        unknown = ", ".join(map(repr, sorted(tasks - set(TASKS)))) or "an empty list"
        raise ValueError(f"unknown tasks {unknown}; choose from {', '.join(map(repr, TASKS))}")
    return tuple(task for task in TASKS if task in tasks)


def expect(what: str, value: str, options: Iterable[str]) -> None:
    """ValueError that lists the options, unless the value is one of them."""
    if value not in options:
        raise ValueError(f"unknown {what} {value!r}; choose one of {', '.join(map(repr, options))}")
