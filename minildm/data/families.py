"""Prompts that differ in one respect: hard to tell apart, and so what teaches a text encoder order and number.

In a batch drawn at random no two captions name the same things, so that a bag of words is enough to find a caption's
picture, and then a bag of words is all that is learned: Yuksekgonul et al., "When and Why Vision-Language Models
Behave like Bags-of-Words" (2023).
"""

from collections.abc import Callable

from .captions import RELATIONS, Prompt, task_of
from .prompts import COUNTS, draw_prompt, expect, heldout
from .vocabulary import THINGS

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def meaning(prompt: Prompt) -> Prompt:
    """One prompt for all that say the same: "a dog right of a cat" is "a cat left of a dog"."""
    if list(prompt.objects) == sorted(prompt.objects):
        return prompt
    return _reversed(prompt)


def family(task: str, split: str, draw: Callable[[], float]) -> list[Prompt]:
    """Hard negatives: two to four prompts that differ in one respect; `draw` gives uniform numbers in [0, 1).

    task: which respect. "position": where the two things stand. "counting": how many there are, one included.
        "colour": colour and shape. "colour attribution": which shape has which colour. "two objects": which two.
    split: "train", without a held-out combination; or "heldout": with at least one, and maybe others beside it.
    Raises ValueError for another task or split.
    """
    expect("task", task, _MEMBERS)
    expect("split", split, ("train", "heldout"))
    while True:
        members = _MEMBERS[task](split, draw)
        if split == "train":
            members = [prompt for prompt in members if not heldout(prompt)]
        if len(members) > 1:
            return [_reversed(prompt) if draw() < 0.5 else prompt for prompt in members]


def _reversed(prompt):
    relation = prompt.relation and OPPOSITE[prompt.relation]
    return Prompt(prompt.task, prompt.objects[::-1], relation)


def _prompt(*names, relation=None, count=1):
    objects = tuple((name, count) for name in names)
    return Prompt(task_of(objects, relation), objects, relation)


def _names(split, task, draw):
    return [name for name, _ in draw_prompt(draw, split, (task,)).objects]


def _positions(split, draw):
    names = _names(split, "position", draw)
    return [_prompt(*names, relation=relation) for relation in RELATIONS]


def _counts(split, draw):
    (name,) = _names(split, "counting", draw)
    return [_prompt(name, count=count) for count in (1, *COUNTS)]


def _pairs(split, draw):
    one, other = _names(split, "two objects", draw)
    third = one
    while third in (one, other):
        third, _ = _names("all", "two objects", draw)
    return [_prompt(one, other), _prompt(one, third), _prompt(other, third)]


def _colours(split, draw):
    (name,) = _names(split, "colour", draw)
    one, other = THINGS[name], THINGS[name]
    while other.colour == one.colour or other.shape == one.shape:
        other = THINGS[_names("all", "colour", draw)[0]]
    return [_prompt(f"{a.colour} {b.shape}") for a in (one, other) for b in (one, other)]


def _attributions(split, draw):
    one, other = (THINGS[name] for name in _names(split, "colour attribution", draw))
    third = one
    while third.colour in (one.colour, other.colour):
        third = THINGS[_names("all", "colour", draw)[0]]
    colours = [(a.colour, b.colour) for a, b in ((one, other), (other, one), (one, third), (third, one))]
    return [_prompt(f"{a} {one.shape}", f"{b} {other.shape}") for a, b in colours]


_MEMBERS = {
    "position": _positions,
    "counting": _counts,
    "colour": _colours,
    "two objects": _pairs,
    "colour attribution": _attributions,
}
FAMILIES = tuple(_MEMBERS)
