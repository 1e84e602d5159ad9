"""LoRA of your own pictures: a file of less than a megabyte, for `minildm generate --lora`."""

from pathlib import Path

import torch

from minildm.adapt import Examples, LoRA, example_loss, networks
from minildm.adapt.lora import ATTENTION
from minildm.recipes._frame import RUNS
from minildm.recipes._own import steps_of
from minildm.recipes.adapting._frame import AdaptingJob
from minildm.tensors import seeded

# Tried on the pocket with eight pictures of a new thing, see lesson 10. Full-size models want a far lower rate, 1e-4.
STEPS, BATCH, LR, RANK = 240, 8, 3e-3, 4


def run(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Path = "pocket",
    prompt: str | None = None,
    rank: int = RANK,
    attention_only: bool = False,
    text_encoder: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = BATCH,
    lr: float = LR,
    seed: int = 0,
    resume: bool = True,
    runs: str | Path = RUNS,
) -> Path:
    """Train a LoRA on the pictures of a folder; returns the path of its file.

    out: by default FOLDER-lora.safetensors; diffusers opens it where it opens the model.
    model: what is adapted, and is not changed: a name that ships, a saved pipeline, or a folder of diffusers.
    prompt: what all pictures show; None: the captions beside them, where the model takes words.
    rank: as of `LoRA`.  attention_only: leave convolutions and other layers alone: a smaller file, but new shapes are
        hardly learned.  text_encoder: adapt that as well, for words that it does not know.
    steps: how many (240); or minutes.  batch, lr: samples of a step, and the peak of the learning rate.
    resume, runs: as for all recipes; the run's own folder in `runs` keeps sheets of samples.
    Raises what `data.images` raises, and ValueError for prompts that are missing or not wanted.
    """
    job = AdaptingJob("lora", folder, out, model, seed, resume, runs)
    pictures, prompts = job.pictures(prompt)
    job.pipe._knows(prompts)
    parts = networks(job.pipe)
    parts.requires_grad_(False)
    examples = Examples(job.pipe, pictures, prompts)
    with seeded(seed):
        layers = ATTENTION if attention_only else lambda name, layer: True
        lora = LoRA(parts if text_encoder else job.pipe.unet, rank, layers=layers, words=sorted(set(prompts)))
    facts = dict(pictures=len(pictures), prompt=prompt, rank=rank, text_encoder=text_encoder)
    facts["attention_only"] = attention_only
    steps = steps_of(steps, minutes, STEPS)
    history = job.teach(parts, examples, example_loss, examples, steps, minutes, facts, batch_size=batch, lr=lr)
    record = job.learned(history, **facts, batch=batch, lr=lr)
    path = lora.save(job.out, dtype=torch.float16, **record)
    job.end()
    return path
