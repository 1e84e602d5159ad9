"""Captions of scenes in English and Chinese, and back: one table both writes and reads them, so they cannot diverge."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .vocabulary import LANGUAGES, THINGS, Thing

TASKS = ("one object", "two objects", "counting", "colour", "position", "colour attribution")
RELATIONS = ("left of", "right of", "above", "below")

_COUNTS = {"en": ("one", "two", "three", "four"), "zh": ("一", "两", "三", "四")}

# The first of each list is the plain form; captions use it most often.
_TEMPLATES = {
    "en": {
        "one": ("{a}", "a picture of {a}", "a drawing of {a}"),
        "two": ("{a} and {b}", "{a} with {b}", "a picture of {a} and {b}", "both {a} and {b}"),
        "relation": ("{a} {r} {b}", "{a} is {r} {b}", "a picture of {a} {r} {b}"),
    },
    "zh": {
        "one": ("{a}", "图中有{a}", "画里有{a}"),
        "two": ("{a}和{b}", "{a}与{b}", "图中有{a}和{b}", "画里有{a}和{b}"),
        "relation": ("{a}在{b}的{r}", "{a}在{b}{r}", "{b}的{r}有{a}", "图中{a}在{b}的{r}"),
    },
}
_RELATION_WORDS = {
    "en": {
        "left of": ("left of", "to the left of", "on the left of"),
        "right of": ("right of", "to the right of", "on the right of"),
        "above": ("above", "over"),
        "below": ("below", "under", "beneath"),
    },
    "zh": {
        "left of": ("左边", "左侧"),
        "right of": ("右边", "右侧"),
        "above": ("上面", "上方", "上边"),
        "below": ("下面", "下方", "下边"),
    },
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a caption asks for, whatever its language: the record that a judge decides."""

    task: str  # one of TASKS
    objects: tuple[tuple[str, int], ...]  # (name in VOCABULARY, how many): one entry or two
    relation: str | None = None  # one of RELATIONS: the first object stands there, seen from the second


def task_of(objects: tuple[tuple[str, int], ...], relation: str | None = None) -> str:
    """The task, one of TASKS, that these objects and this relation make."""
    things = [THINGS[name] for name, _ in objects]
    if len(objects) == 1:
        if objects[0][1] > 1:
            return "counting"
        return "colour" if things[0].colour else "one object"
    if relation:
        return "position"
    colours, shapes = ({getattr(thing, part) for thing in things} for part in ("colour", "shape"))
    return "colour attribution" if None not in colours and len(colours) == len(shapes) == 2 else "two objects"


def caption(prompt: Prompt, language: str = "en", draw: Callable[[], float] = lambda: 0.0) -> str:
    """A caption of the prompt; `draw` gives uniform numbers in [0, 1) that choose the wording, 0 the plainest."""

    def pick(options):
        return options[int(draw() ** 3 * len(options))]  # cubed: the plain wording, first in the list, leads

    kind = "relation" if prompt.relation else "one" if len(prompt.objects) == 1 else "two"
    template = pick(_TEMPLATES[language][kind])
    words = {slot: pick(_phrases(name, n, language)) for slot, (name, n) in zip("ab", prompt.objects, strict=False)}
    if prompt.relation:
        words["r"] = pick(_RELATION_WORDS[language][prompt.relation])
    return template.format(**words)


def parse(text: str) -> Prompt:
    """The Prompt that a caption in English or Chinese asks for; ValueError naming the words it does not know."""
    text = " ".join(text.lower().split()).rstrip(".。!！")
    for language in LANGUAGES:
        known = _known_phrases(language)
        for pattern, relation in _patterns(language):
            if (match := pattern.fullmatch(text)) is None:
                continue
            found = match.groupdict()
            objects = tuple(known.get(found[slot]) for slot in "ab" if slot in found)
            if None not in objects and len({name for name, _ in objects}) == len(objects):
                return Prompt(task_of(objects, relation), objects, relation)
    raise ValueError(_complaint(text))


@cache
def _phrases(name: str, count: int, language: str) -> tuple[str, ...]:
    """The wordings of `count` times a thing that captions use."""
    thing, number = THINGS[name], _COUNTS[language][count - 1]
    if language == "zh":
        counted = f"{thing.measure}{thing.chinese}"
        return (number + counted, thing.chinese if count == 1 else f"{count}{counted}")
    if count == 1:
        return (f"{'an' if name[0] in 'aeiou' else 'a'} {name}", f"one {name}")
    return (f"{number} {thing.plural}", f"{count} {thing.plural}")


def _also_read(thing: Thing, count: int, language: str) -> list[str]:
    """Wordings that captions do not use but people do."""
    if language == "zh":
        numbers = [_COUNTS["zh"][count - 1], str(count)] + ["二"] * (count == 2)
        return [f"{number}{measure}{thing.chinese}" for number in numbers for measure in (thing.measure, "个")]
    return [thing.name, f"the {thing.name}", f"1 {thing.name}"] if count == 1 else []


@cache
def _known_phrases(language: str) -> dict[str, tuple[str, int]]:
    return {
        phrase: (name, count)
        for name, thing in THINGS.items()
        for count in (1, 2, 3, 4)
        for phrase in [*_phrases(name, count, language), *_also_read(thing, count, language)]
    }


@cache
def _patterns(language: str) -> list[tuple[re.Pattern, str | None]]:
    slots = {"a": "(?P<a>.+?)", "b": "(?P<b>.+?)"}
    plain = [(template, None, "") for kind in ("one", "two") for template in _TEMPLATES[language][kind]]
    related = [
        (template, relation, words)
        for template in _TEMPLATES[language]["relation"]
        for relation, wordings in _RELATION_WORDS[language].items()
        for words in wordings
    ]
    return [(re.compile(template.format(**slots, r=words)), relation) for template, relation, words in plain + related]


def _complaint(text: str) -> str:
    chinese = any("\u4e00" <= character <= "\u9fff" for character in text)
    language = "zh" if chinese else "en"
    pieces = [*_known_phrases(language), *sum(_RELATION_WORDS[language].values(), ())]
    pieces += [re.sub(r"\{.\}", " ", template) for kind in _TEMPLATES[language].values() for template in kind]
    if chinese:
        rest = text
        for known in sorted({part for piece in pieces for part in piece.split()}, key=len, reverse=True):
            rest = rest.replace(known, " ")
        unknown = rest.split()
    else:
        words = {word for piece in pieces for word in piece.split()}
        unknown = [word for word in re.findall(r"[^\s,]+", text) if word not in words]
    if unknown:
        words = ", ".join(map(repr, unknown))
        return f"unknown words {words} in {text!r}; minildm.data.VOCABULARY lists the names that are known"
    return (
        f"cannot read {text!r}: expected a caption such as 'a cat', 'three apples', 'a red heart', 'a cat and a dog' "
        "or 'a cat left of a red heart' (shapes always have a colour, other things never)"
    )
