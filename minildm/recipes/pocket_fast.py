"""A LoRA with which the pocket paints in 4 calls of its U-Net instead of 42: guidance and steps, distilled.

Two things cost calls. Guidance asks twice, with words and without; and a step must be small, because the way from
noise to picture bends. A teacher, the pocket as it is, walks that way in twelve guided steps. A student learns to do
three of them at once, without guidance: its one call leads straight to where the teacher arrived. It sees only paths
that end well, by the judge. Then it learns from its own mistakes: it walks the first calls itself, and comes to places
where the teacher never was; from there the teacher shows how to go on. What is learned is a LoRA: the pocket itself
stays as it is, and the file is small.

    pipe = LatentDiffusion.from_pretrained("pocket")
    pipe.load_lora("pocket-fast").merge()
    pipe("a cat", steps=4, guidance=1)

Sources: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models" (2022); Meng et al., "On
Distillation of Guided Diffusion Models" (2023); as a LoRA: Luo et al., "LCM-LoRA" (2023); from one's own mistakes:
Ross et al., "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning" (2011).
"""

import json
from collections.abc import Callable, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minildm import data, geneval, samplers, storage, weights
from minildm.adapt import LoRA
from minildm.adapt.lora import SHIPPED
from minildm.data._cache import cached
from minildm.denoiser import schedule_of
from minildm.losses import denoising_error
from minildm.pipeline import LatentDiffusion
from minildm.recipes import RUNS, Job, checksum, pocket
from minildm.recipes.pocket_loss import TextConditionedLoss
from minildm.recipes.pocket_scenes import draw_prompts
from minildm.samplers.loop import Level, levels
from minildm.schedule import NoiseSchedule
from minildm.tensors import best_device, fast_bfloat16, in_bfloat16, seeded
from minildm.training import History, train

CALLS, PARTS = 4, 3  # of the student; and into how many guided steps the teacher divides each of them
# How often each of the four is learned, and how much its error counts: the first two decide what stands where, and are
# the hardest; but small errors of the last two are seen in the drawing.
SHARES, WEIGHTS = (0.3, 0.3, 0.2, 0.2), (1.0, 1.0, 5.0, 10.0)
PATHS, UNSEEN = 12_000, 300  # of the teacher, to learn from, and to measure on
STEPS, BATCH, LR, RANK = 2_500, 64, 1e-3, 20
OWN, OWN_STEPS, OWN_LR = 6_000, 1_200, 5e-4  # ways that the student begins itself; and how it learns from them
PLACE = SHIPPED / "pocket-fast.safetensors"
SEED = 9  # of the prompts; noise is counted on from SEED * 1,000,000


def paths(model: str | Path, n: int, start: int = 0) -> dict[str, Tensor]:
    """What `walked` finds of the teacher alone, computed once, and kept in the cache folder."""
    key = dict(model=checksum(model), n=n, start=start, calls=CALLS, parts=PARTS, seed=SEED, version=3)
    key["judge"] = weights.checksum("scenes-judge")

    def build(folder: Path) -> None:
        teacher = LatentDiffusion.from_pretrained(model).to(best_device())
        storage.write(folder / "paths.safetensors", walked(teacher, n, start), {})

    return storage.read(cached("paths", key, build) / "paths.safetensors")[0]


@torch.no_grad()
def walked(
    teacher: LatentDiffusion, n: int, start: int = 0, student: LatentDiffusion | None = None
) -> dict[str, Tensor]:
    """Ways from noise to n pictures, of which those are kept that end well, see `right`.

    Prompts are of all tasks and in both languages, none of them held out.
    student: makes the first calls, one to all but one; the teacher goes on from where it came to.
    -> "x" (up to n, CALLS + 1, c, h, w) float16: before each of the CALLS, and at the end; "ids" (as many, length):
    what was to be painted; "first" (as many,): the first call that was the teacher's
    """
    dice = np.random.default_rng((SEED, start))
    said, x, first = draw_prompts(n, dice), [], []
    for at in range(0, n, BATCH):
        some = said[at : at + BATCH]
        first += [0 if student is None else int(dice.integers(1, CALLS))] * len(some)
        seeds = [SEED * 1_000_000 + start + at + i for i in range(len(some))]
        with in_bfloat16(teacher.device):
            x.append(walk(teacher, student, some, seeds, first[-1]).half().cpu())
    found = {"x": torch.cat(x), "ids": teacher.tokenizer(said)[0], "first": torch.tensor(first)}
    return right(found, teacher)


def walk(
    teacher: LatentDiffusion, student: LatentDiffusion | None, said: list[str], seeds: list[int], first: int = 0
) -> Tensor:
    """One way for each prompt: calls before the `first` are the student's, the others the teacher's, PARTS steps each.

    -> (b, CALLS + 1, c, h, w)
    """
    fine = samplers.timesteps(teacher.schedule, CALLS * PARTS)
    states, x_T = [], None
    if first:
        own = student.steps(said, timesteps=fine[::PARTS], guidance=1, seed=seeds)
        *states, x_T = (step.x_t for step in islice(own, first + 1))
    shown = teacher.steps(said, timesteps=fine[first * PARTS :], seed=seeds if x_T is None else None, x_T=x_T)
    return torch.stack([*states, *(step.x_t for step in islice(shown, 0, None, PARTS))], dim=1)


def record(path: Path = PLACE) -> dict[str, Any]:
    """How a LoRA of this recipe was made, and how it scores: "geneval" by language and split, as `Report.summary`."""
    return json.loads(storage.read_metadata(path)["record"])


@torch.no_grad()
def right(found: Mapping[str, Tensor], pipe: LatentDiffusion) -> dict[str, Tensor]:
    """Those paths that end in a picture of what was asked for, drawn as it should be: by both eyes of `geneval`.

    So the student need not learn its teacher's mistakes.
    """
    kept = []
    for x, ids in zip(found["x"].split(BATCH), found["ids"].split(BATCH), strict=True):
        said = [pipe.tokenizer.decode(one) for one in ids]
        pictures = pipe.decode(x[:, -1].float().to(pipe.device)).cpu()
        kept += (geneval.quality(pictures, [data.parse(text) for text in said]) > 0).tolist()
    print(f"{sum(kept)} of {len(kept)} paths end in what was asked for", flush=True)
    if not any(kept):
        raise ValueError("expected a teacher that paints what it is told; none of its paths ends in what was asked for")
    return {name: tensor[torch.tensor(kept)] for name, tensor in found.items()}


def jumps(schedule: NoiseSchedule) -> list[tuple[Level, Level]]:
    """From where to where each call of the student leads: t = 999 to 749, ..., 249 to the clean picture."""
    return list(pairwise(levels(schedule, samplers.timesteps(schedule, CALLS))))


def pair(x_t: Tensor, x_next: Tensor, now: Level, then: Level) -> tuple[Tensor, Tensor]:
    """The picture and the noise that mix to x_t now, and to x_next then: two equations with two unknowns.

    A network that answers with them leads from x_t to x_next in one step of DDIM.
    """
    area = now.a * then.s - now.s * then.a
    return (then.s * x_t - now.s * x_next) / area, (now.a * x_next - then.a * x_t) / area


class Batches:
    """`batches(generator, n)` -> x_0, eps, t, ids (n, length) of n jumps, all of one call; as if a scene were noised.

    x_0 and eps are the `pair` of each jump. So the loss of any denoiser teaches the student to jump. Only jumps of the
    teacher are learned.
    """

    def __init__(self, found: Mapping[str, Tensor], schedule: NoiseSchedule):
        self.x, self.ids = found["x"], found["ids"]
        self.jumps, self.shares = jumps(schedule), torch.tensor(SHARES)
        self.shown = [(found["first"] <= call).nonzero().flatten() for call in range(CALLS)]

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        call = int(torch.multinomial(self.shares, 1, generator=generator))
        shown = self.shown[call]
        at = shown[torch.randint(len(shown), (n,), generator=generator)]
        now, then = self.jumps[call]
        x_0, eps = pair(self.x[at, call].float(), self.x[at, call + 1].float(), now, then)
        return {"x_0": x_0, "eps": eps, "t": torch.full((n,), now.t), "ids": self.ids[at]}


def jump_loss(model: Callable[..., Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """`denoising_loss`, with each sample's error times the weight of its call. -> scalar"""
    schedule = schedule_of(model)
    weight = {now.t: weight for (now, _), weight in zip(jumps(schedule), WEIGHTS, strict=True)}
    each = torch.tensor([weight[t] for t in batch["t"].tolist()])
    error = denoising_error(model, batch, schedule)
    return (error * each.to(error)).mean()


def run(
    out: Path | None = None,
    *,
    model: str | Path = "pocket",
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    runs: Path = RUNS,
) -> Path:
    """Watch the teacher, teach the student, correct it on its own ways, measure it on pocket GenEval, write its LoRA.

    model: the teacher, a pipeline with words; the LoRA is for it alone.  steps: of each of the two lessons.
    -> the path
    """
    job = Job("pocket-fast", out, seed, resume, runs)
    teacher, pipe = (LatentDiffusion.from_pretrained(model).to(best_device()) for _ in range(2))
    known, unseen = paths(model, PATHS), paths(model, UNSEEN, start=PATHS)
    unet = pipe.unet
    with seeded(seed):
        lora = LoRA(unet, RANK, layers=lambda name, layer: True)
    loss = TextConditionedLoss(pipe.text_encoder, jump_loss)

    def validate(unet: nn.Module) -> dict[str, float]:
        parts = {"training_error": known, "unseen_error": unseen}
        errors = {
            name: pocket.error(unet, Batches(some, pipe.schedule), pipe.text_encoder) for name, some in parts.items()
        }
        return job.say("pocket-fast", errors)

    def learn(found: Mapping[str, Tensor], steps: int, lr: float, part: str) -> History:
        settings = dict(steps=steps, batch_size=BATCH, lr=lr, ema=0.99, seed=seed, decay=max(1, steps // 2))
        settings |= dict(bfloat16=fast_bfloat16(best_device()), checkpoint=job.checkpoint(part))
        return train(unet, Batches(found, pipe.schedule), loss, **settings, validate=validate, validate_every=425)

    histories = [learn(known, steps or STEPS, LR, "")]
    place = job.checkpoint("-own-paths")
    if not place.exists():
        storage.write(place, walked(teacher, OWN, PATHS + UNSEEN, pipe), {})
    own, _ = storage.read(place)
    both = {name: torch.cat([known[name], own[name]]) for name in known}
    histories += [learn(both, steps or OWN_STEPS, OWN_LR, "-own")]
    how = dict(steps=CALLS, guidance=1)
    record = job.record(*histories) | dict(
        model=checksum(model), paths=len(known["x"]), own_paths=len(own["x"]), batch=BATCH, lr=LR, rank=RANK, how=how
    )
    record["measured"] = histories[-1].validation[-1][1]
    record["geneval"] = {
        language: pocket.geneval_summary(pipe, language, seeds=1, **how) for language in data.LANGUAGES
    }
    path = lora.save(out or PLACE, dtype=torch.float16, **record)
    job.end()
    return path
