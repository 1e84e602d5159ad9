"""Does it paint what it is told? The six tasks of GenEval in the world of scenes, with the judge to decide.

Scenes are an easier world than photographs: read a score beside its own floor and ceiling first, and beside published
ones as the same questions asked there.  Source: Ghosh et al., "GenEval: An Object-Focused Framework for Evaluating
Text-to-Image Alignment" (2023).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from minildm import data, judge, likeness, weights
from minildm.data import TASKS, Prompt
from minildm.images import Images, to_unit

SEED = 43  # of the prompts, the same for all models; GenEval's own were drawn from this one, too
SIZE = 64  # of pictures that the judge knows

_SPLITS = {"train": "combinations seen in training", "heldout": "held-out combinations", "all": "any combinations"}
_LANGUAGES = {"en": "English", "zh": "Chinese"}


class Picture(NamedTuple):
    """One picture and what the judge says of it."""

    task: str
    prompt: str
    seed: int | None  # of the noise: with it and the prompt the picture can be drawn again; None for a real scene
    seen: list[str]  # what the judge found, from left to right
    faults: list[str]  # some of judge.FAULTS; none if it shows what its prompt asks for
    suits_another: bool  # whether it shows what the next prompt of its task asks for
    unexplained: Sequence[float] = ()  # of each object in `seen`, how little it is drawn like itself


class Share(NamedTuple):
    """A share of pictures, and the interval in which it lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """What `evaluate` found; printed, it is a table. All figures come from `pictures` and `real`."""

    split: str
    language: str
    settings: dict  # what the model was told beside prompts and seeds
    judge: dict | None  # how good the shipped judge is on fresh scenes; None for another judge
    pictures: list[Picture]  # those of one prompt stand together
    real: list[Picture]  # one real scene for each prompt

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(one.task for one in self.pictures))

    def score(self, task: str | None = None) -> Share:
        """Pictures that show what was asked for and nothing else. Without a task: the mean over all tasks."""
        return self._share(self.pictures, is_right, task)

    def ceiling(self, task: str | None = None) -> Share:
        """The score of real scenes, one for each prompt: what the judge lets a perfect painter reach."""
        return self._share(self.real, is_right, task)

    def floor(self, task: str | None = None) -> Share:
        """The score of the same pictures when each is judged by the next prompt of its task: what chance reaches."""
        return self._share(self.pictures, lambda one: one.suits_another, task)

    def lenient(self, task: str | None = None) -> Share:
        """The score by GenEval's own rule: only in counting may there not be more than was asked for."""
        return self._share(self.pictures, _right_by_geneval, task)

    def strict(self, task: str | None = None) -> Share:
        """The score by both eyes: the judge finds what was asked for, and each object is drawn like it."""
        return self._share(self.pictures, is_right_and_alike, task)

    def faults(self, task: str | None = None) -> dict[str, int]:
        """How many pictures have each of judge.FAULTS; some have two."""
        counts = Counter(fault for one in self.pictures if task in (None, one.task) for fault in one.faults)
        return {fault: counts[fault] for fault in judge.FAULTS}

    def summary(self) -> dict[str, dict]:
        """All figures of each task, and "overall"."""
        return {
            name or "overall": {
                "score": self.score(name)._asdict(),
                "ceiling": self.ceiling(name)._asdict(),
                "floor": self.floor(name)._asdict(),
                "geneval_rule": self.lenient(name)._asdict(),
                "strict": self.strict(name)._asdict(),
                "faults": self.faults(name),
            }
            for name in (*self.tasks, None)
        }

    def as_dict(self) -> dict:
        """All of it as JSON can hold it, each single picture as well."""
        whole = asdict(self) | {"summary": self.summary()}
        return whole | {name: [one._asdict() for one in getattr(self, name)] for name in ("pictures", "real")}

    def __str__(self):
        prompts, n = len(self.real), len(self.pictures)
        told = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [
            f"Pocket GenEval in {_LANGUAGES[self.language]}, {_SPLITS[self.split]}: "
            f"{prompts // len(self.tasks)} prompts a task × {n // prompts} seeds{told and '; ' + told}",
            "",
            f"{'':20}{'score':>7}{'95 % interval':>18}{'strict':>8}{'floor':>8}{'ceiling':>9}{'GenEval':>9}   faults",
        ]
        for name in (*self.tasks, None):
            figures = self.score, self.strict, self.floor, self.ceiling, self.lenient
            share, *others = (figure(name) for figure in figures)
            faults = ", ".join(f"{count} {fault}" for fault, count in self.faults(name).items() if count)
            lines.append(
                f"{name or 'overall':20}{share.value:7.3f}{f'{share.low:.3f} to {share.high:.3f}':>18}"
                f"{others[0].value:8.3f}{others[1].value:8.3f}{others[2].value:9.3f}{others[3].value:9.3f}   {faults}"
            )
        lines += [
            "",
            "score: the picture shows what its prompt asks for and nothing else; overall is the mean of the tasks.",
            "strict: and each object is drawn like itself, by `minildm.likeness`.",
            "floor: the same pictures, each judged by another prompt of its task.  ceiling: real scenes.",
            "GenEval: by GenEval's own rule, which forgives what was not asked for.",
        ]
        if self.judge:
            lines += [f"The judge on fresh scenes: {', '.join(f'{k} {v:.4f}' for k, v in self.judge.items())}."]
        return "\n".join(lines)

    def _share(self, pictures, passes, task):
        groups = []
        for name in self.tasks if task is None else [task]:
            mine = [passes(one) for one in pictures if one.task == name]
            prompts = sum(one.task == name for one in self.real)
            groups.append(np.reshape(mine, (prompts, -1)))
        return interval(groups)


def evaluate(
    paint: Callable[..., Images],
    split: str = "train",
    language: str = "en",
    *,
    per_task: int = 100,
    seeds: int = 4,
    tasks: str | Iterable[str] = TASKS,
    batch: int = 32,
    model: nn.Module | None = None,
    progress: bool = True,
    **how: object,
) -> Report:
    """Draw pictures for fixed prompts and let the judge decide: how often does the model paint what it is told?

    paint: a LatentDiffusion, or what is called like one: paint(prompts, seed=[...], output="tensor", **how)
        -> (b, 3, 64, 64) in [0, 1], or other 64×64 pictures as `images` takes them.
    split: "train": combinations that training has seen; "heldout": those that it has not. "one object" has none, and
        draws the usual nouns.  language: "en" or "zh": the same prompts in English or Chinese.
    per_task, seeds: prompts for each of `tasks`, some of data.TASKS, and pictures for each prompt. No two pictures
        start from the same noise: picture k of prompt i has the seed i * seeds + k.
    batch: pictures drawn at a time.  model: the judge, as in `judge.inspect`.
    how: goes to `paint`, such as steps=25, guidance=4.
    Raises ValueError for arguments that ask for nothing, and for pictures of another size.
    """
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if not tasks or per_task < 2 or seeds < 1 or batch < 1:
        raise ValueError(
            f"expected a task, 2 prompts of each, a seed and a batch of one or more, got {len(tasks)} tasks, "
            f"per_task={per_task}, seeds={seeds}, batch={batch}"
        )
    scenes = [data.scene_arrays(per_task, SEED, split, language, SIZE, task) for task in tasks]
    pictures, real = [], []
    with tqdm(total=len(tasks) * per_task * seeds, disable=not progress, desc="draw", unit="picture") as bar:
        for some in scenes:
            at = [i for i in range(per_task) for _ in range(seeds)]  # the prompt of each picture
            found = []
            for start in range(0, len(at), batch):
                chosen = range(start, min(start + batch, len(at)))
                prompts = [some.captions[at[k]] for k in chosen]
                images = to_unit(paint(prompts, seed=list(chosen), output="tensor", **how))
                if images.shape != (len(chosen), 3, SIZE, SIZE):
                    raise ValueError(
                        f"expected pictures ({len(chosen)}, 3, {SIZE}, {SIZE}), as the judge knows them, got "
                        f"{tuple(images.shape)}"
                    )
                found += _looked_at(images, model)
                bar.update(len(chosen))
            pictures += _judged(found, at, some, range(len(at)))
            real += _judged(_looked_at(some.images, model), range(per_task), some, [None] * per_task)
    accuracy = weights.record("scenes-judge")["fresh_scenes"] if model is None else None
    return Report(split, language, how, accuracy, pictures, real)


def interval(groups: Sequence[np.ndarray]) -> Share:
    """The mean of shares, each from an array (prompts, pictures of each) of bool, with Wilson's 95 % interval.

    Pictures of one prompt succeed or fail together more often than others do. So each group counts as so many
    independent pictures as explain how far its prompts differ: as many as there are prompts at least, as many as there
    are pictures at most.  Source: Wilson (1927); Kish, "Survey Sampling" (1965), section 8.2: the effective number.
    """
    means, variances, numbers = [], [], []
    for right in groups:
        p, prompts = right.mean(), len(right)
        spread = right.mean(1).var(ddof=1) / prompts  # the variance of p, prompts being what was drawn
        n = np.clip(p * (1 - p) / max(spread, 1e-9), prompts, right.size)
        means, variances, numbers = [*means, p], [*variances, p * (1 - p) / n], [*numbers, n]
    p, variance = np.mean(means), np.sum(variances) / len(groups) ** 2
    n = p * (1 - p) / variance if variance else np.sum(numbers)
    z = 1.96
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Share(float(p), float(max(0, middle - half)), float(min(1, middle + half)))


def _looked_at(images, model):
    """For each picture what both eyes see: the objects found, and how much of each is unexplained."""
    found = judge.inspect(images, model)
    return list(zip(found, likeness.drawn_like(images, found), strict=True))


def _judged(found, at, scenes, seeds) -> list[Picture]:
    """What the judge says of pictures; at: which of the scenes' prompts each was drawn for."""
    prompts, judged = scenes.prompts, []
    for (seen, shares), i, seed in zip(found, at, seeds, strict=True):
        other: Prompt = prompts[(i + 1) % len(prompts)]
        names, wrong = [one.name for one in seen], judge.faults(seen, prompts[i])
        suits_another = not judge.faults(seen, other)
        judged.append(Picture(prompts[i].task, scenes.captions[i], seed, names, wrong, suits_another, shares))
    return judged


def is_right(one: Picture) -> bool:
    """Whether the judge finds what was asked for, and nothing else."""
    return not one.faults


def is_right_and_alike(one: Picture) -> bool:
    """Whether it is right, and each object is drawn like itself: what `Report.strict` counts."""
    return is_right(one) and _alike(one.unexplained)


def quality(images: Images, prompts: Sequence[Prompt]) -> np.ndarray:
    """By both eyes: 0 for a picture that is not `is_right_and_alike`, else the share of its worst object that is
    explained, from 1 - likeness.ALIKE to 1. -> (n,)  images: 64×64.
    """
    x = to_unit(images)
    found, good = judge.inspect(x), np.zeros(len(x))
    right = [i for i, (seen, prompt) in enumerate(zip(found, prompts, strict=True)) if not judge.faults(seen, prompt)]
    # The second eye is the slow one: it looks at nothing that the judge has refused.
    for i, shares in zip(right, likeness.drawn_like(x[right], [found[i] for i in right]), strict=True):
        if _alike(shares):
            good[i] = 1 - max(shares)
    return good


def _alike(unexplained):
    return all(share < likeness.ALIKE for share in unexplained)


def _right_by_geneval(one: Picture) -> bool:
    forgiven = {judge.UNASKED} if one.task == "counting" else {judge.UNASKED, judge.TOO_MANY}
    return set(one.faults) <= forgiven
