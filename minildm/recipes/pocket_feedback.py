"""The pocket learns from its own pictures: more like those that both eyes pass, less like those that they fail.

Scenes show what is right. They never show what this painter gets wrong, such as one thing drawn twice. So, once it can
paint, it does so: several pictures for each prompt. The eyes of `geneval` judge them, and the U-Net moves towards those
that were better than others of their prompt, and away from those that were worse. Then it paints anew.

Source: Zheng et al., "DiffusionNFT: Online Diffusion Reinforcement with Forward Process" (2025). No prompt is held out.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from minildm import data, geneval, storage
from minildm.denoiser import schedule_of
from minildm.losses import draw_noise
from minildm.pipeline import LatentDiffusion
from minildm.recipes import Job
from minildm.recipes.pocket_loss import TextConditionedLoss
from minildm.recipes.pocket_scenes import HIDDEN, Batches, Latents, draw_prompts, draw_timesteps
from minildm.schedule import NoiseSchedule
from minildm.tensors import best_device, fast_bfloat16, in_bfloat16
from minildm.training import train

ROUNDS, PROMPTS, GROUP = 30, 200, 8  # in each round so many prompts, and so many pictures of each
STEPS, BATCH, LR = 130, 64, 2e-4  # of each round
SCENES, UNTOLD = 0.25, 0.25  # the share of real scenes in a batch, and of those without a caption, for guidance
CALLS = 8  # steps of the sampler: as good as 25, by the same eyes
SPREAD = 0.35  # a picture so much better than the mean of its prompt counts as wholly good
# Which share of the samples lies below which part of the timesteps: more of them where it is decided what stands where.
TIMES = {0.0: 0.0, 0.2: 0.35, 0.45: 0.7, 0.78: HIDDEN, 1.0: 1.0}
SHARES = {"one object": 2, "two objects": 3, "counting": 3, "colour": 1, "position": 2, "colour attribution": 2}
SEED = 77


@torch.no_grad()
def attempts(pipe: LatentDiffusion, prompts: int, group: int, dice: np.random.Generator) -> dict[str, Tensor]:
    """Pictures that the pipeline paints, `group` of each prompt, and how good each is beside the others of its prompt.

    -> "z" (prompts * group, c, h, w) float32, latents; "ids" (as many, length); "quality" (as many,), as
    `geneval.quality` has it; "good" (as many,) from 0 to 1, as `goodness` has it
    """
    said = [text for text in draw_prompts(prompts, dice, SHARES) for _ in range(group)]
    z, quality = [], []
    for at in range(0, len(said), BATCH):
        some = said[at : at + BATCH]
        with in_bfloat16(pipe.device):
            *_, last = pipe.steps(some, steps=CALLS, seed=[int(seed) for seed in dice.integers(2**31, size=len(some))])
        z.append(last.x_t.float())
        quality.append(geneval.quality(pipe.decode(z[-1]).cpu(), [data.parse(text) for text in some]))
    quality = torch.from_numpy(np.concatenate(quality)).float()
    good = goodness(quality.view(-1, group)).flatten()
    return {"z": torch.cat(z).cpu(), "ids": pipe.tokenizer(said)[0], "quality": quality, "good": good}


def goodness(quality: Tensor) -> Tensor:
    """How good each picture is beside the others of its prompt: one half for the mean. (prompts, group), in [0, 1]"""
    better = quality - quality.mean(1, keepdim=True)
    return 0.5 + 0.5 * (better / SPREAD).clamp(-1, 1)


class Attempts:
    """`batches(generator, n)` -> x_0, eps, t, ids and good of n pictures: own ones, and a share of real scenes."""

    def __init__(self, found: Mapping[str, Tensor], scenes: Batches, schedule: NoiseSchedule):
        self.found, self.scenes, self.schedule = found, scenes, schedule

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        real = self.scenes(generator, max(1, round(SCENES * n)))
        at = torch.randint(len(self.found["z"]), (n - len(real["t"]),), generator=generator)
        own = draw_noise(self.found["z"][at], self.schedule, generator)
        own |= dict(t=draw_timesteps(len(at), self.schedule, generator, TIMES), ids=self.found["ids"][at])
        own |= dict(good=self.found["good"][at])
        real["good"] = torch.ones(len(real["t"]))  # nothing is better than what is real
        return {name: torch.cat([own[name], real[name]]) for name in own}


class FeedbackLoss:
    """Negative-aware fine-tuning: the denoising loss of what is good, and of what is bad, mirrored.

    old: the model that painted. What is good draws the prediction towards its target. What is bad draws towards it the
    prediction's mirror image behind the old one, and so pushes the prediction itself away.
    `loss(model, batch)` -> scalar; batch: x_0, eps, t, "good" (b,) from 0 to 1, and the model's conditions.
    """

    def __init__(self, old: Callable[..., Tensor]):
        self.old = old

    def __call__(self, model: Callable[..., Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        conditions = dict(batch)
        x_0, eps, t, good = (conditions.pop(name) for name in ("x_0", "eps", "t", "good"))
        schedule = schedule_of(model)
        x_t, target = schedule.add_noise(x_0, eps, t), schedule.target(x_0, eps, t)
        with torch.no_grad():
            before = self.old(x_t, t, **conditions).float()
        now = model(x_t, t, **conditions).float()
        towards = (now - target).square().flatten(1).mean(1)
        away = (2 * before - now - target).square().flatten(1).mean(1)
        return (good * towards + (1 - good) * away).mean()


def learn(
    pipe: LatentDiffusion, scenes: Mapping[str, Latents], job: Job, *, seed: int = 0, steps: int | None = None
) -> dict[str, int]:
    """ROUNDS times: paint, judge, learn. The U-Net is trained in place, at a rate that falls from round to round.

    scenes: of each task, for the real ones in each batch.  steps: of each round.
    A stopped job goes on with the round in which it was stopped.  -> for the record: how many "pictures" and "steps"
    """
    place, unet = job.checkpoint("-feedback"), pipe.to(best_device()).unet
    unet.to(memory_format=torch.channels_last)  # as training leaves it: the same pictures before a stop and after it
    real = Batches(scenes, pipe.tokenizer, SHARES, pipe.schedule, UNTOLD)
    start = 0
    if place.exists():
        tensors, said = storage.read(place)
        storage.fill(storage.state(unet), tensors, place)
        start = int(said["rounds"])
    for k in range(start, ROUNDS):
        found = attempts(pipe, PROMPTS, GROUP, np.random.default_rng((SEED, seed, k)))
        job.say(f"round {k + 1}, painted", {"right": (found["quality"] > 0).float().mean().item()})
        loss = TextConditionedLoss(pipe.text_encoder, FeedbackLoss(deepcopy(unet).eval().requires_grad_(False)))
        settings = dict(steps=steps or STEPS, batch_size=BATCH, lr=LR * (ROUNDS - k) / ROUNDS, ema=0.98)
        settings |= dict(decay=1, seed=seed + k, bfloat16=fast_bfloat16(best_device()), progress=False)
        train(unet, Attempts(found, real, pipe.schedule), loss, **settings)
        storage.write(place, storage.state(unet), {"rounds": str(k + 1)})
    return {"pictures": ROUNDS * PROMPTS * GROUP, "steps": ROUNDS * (steps or STEPS)}
