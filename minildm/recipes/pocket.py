"""The pocket model of lessons 08 and 09: words to pictures of 64×64, in the latents of `vae-pocket`.

Latents of many scenes are computed once and kept in the cache folder; what is left to train is the U-Net. The text
encoder of `text-pocket` is frozen, as in Stable Diffusion. In the end the decoder is finetuned on what a denoiser
leaves: a pocket's decoder is its own, as some of Stable Diffusion's are.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm import data, geneval, storage, weights
from minildm.autoencoder import AutoencoderKL
from minildm.data import sprites
from minildm.data._cache import cached
from minildm.data.scenes import CONTENT
from minildm.denoiser import Denoiser
from minildm.images import to_model
from minildm.losses import denoising_error, denoising_loss, draw_noise, spread_timesteps
from minildm.pipeline import LatentDiffusion
from minildm.recipes import RUNS, Job, first_process, text_pocket, vae_pocket
from minildm.schedule import NoiseSchedule
from minildm.tensors import best_device, fast_bfloat16, seeded
from minildm.text import TextEncoder, Tokenizer
from minildm.training import History, train

BATCH, LR = 128, 1.2e-3
SIZE, WIDTH, GUIDANCE = 64, 64, 3.0
SCENES, UNSEEN = 10_000, 500  # for each share of a task, to learn from; and of each task, to measure on
UNCONDITIONAL_RATE = 0.1  # how often a caption is dropped, so that the U-Net can also draw without one, for guidance
TRAIN_SEED, TEST_SEED = 7, 8
SHIPPED = {"text_encoder": "text-pocket"}  # what a shipped pocket need not repeat
# How often a task is drawn: where things stand and how many there are takes longest to learn.
SHARES = {"one object": 1, "two objects": 2, "counting": 3, "colour": 1, "position": 4, "colour attribution": 2}
# Steps, and how often a task is drawn. After the first round things were where they belong, but many were clumsy or too
# many: the second sets out from its averaged weights and sees more of that.
ROUNDS = (5200, SHARES), (6600, SHARES | {"one object": 2, "two objects": 3, "counting": 6})


def network(latent_channels: int, context_dim: int, seed: int = 0, **config: Any) -> Denoiser:
    """The untrained U-Net: on maps of 16×16, 8×8 and 4×4, the last two read the words; other sizes by `config`."""
    pocket = dict(blocks_per_level=1, attention=(1, 2), heads=4, **widths(WIDTH))
    with seeded(seed):
        return Denoiser(
            latent_channels, latent_channels, context_dim=context_dim, schedule=schedule(), **pocket | config
        )


def widths(width: int) -> dict[str, object]:
    """The configuration of a U-Net whose first level has so many channels, in the pocket's proportions."""
    return dict(channels=(width, 2 * width, 3 * width), groups=math.gcd(16, width))


def schedule() -> NoiseSchedule:
    """The noise schedule it is trained with, to predict v."""
    return NoiseSchedule.cosine().predicting("v")


class Latents(NamedTuple):
    """Scenes of one task, ready for training."""

    z: Tensor  # (n, c, h, w) float16, scaled
    captions: dict[str, list[str]]  # by language


def latents(
    vae: AutoencoderKL, task: str, n: int, seed: int = TRAIN_SEED, split: str = "train", size: int = SIZE
) -> Latents:
    """The first n scenes of a task as the autoencoder's means, with captions in both languages; computed once.

    They lie in the cache folder, `data.scenes` says where that is, under a name that changes with the autoencoder.
    """
    values = hashlib.sha256()
    for name, tensor in sorted(storage.state(vae).items()):
        values.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    key = dict(task=task, n=n, seed=seed, split=split, size=size, content=CONTENT, sprites=sprites.version())
    key |= dict(vae=values.hexdigest(), scale_factor=vae.scale_factor)

    def build(folder: Path):
        captions = {language: [] for language in data.LANGUAGES}
        parts = []
        for start in range(0, n, 1000):
            scenes = data.scene_arrays(min(1000, n - start), seed, split, size=size, tasks=task, start=start)
            parts.append(encoded(vae, scenes.images))
            wording = np.random.default_rng((seed, start)).random
            for language, said in captions.items():
                said += [data.caption(prompt, language, wording) for prompt in scenes.prompts]
        storage.write(folder / "latents.safetensors", {"z": torch.cat(parts)}, {})
        storage.write_text(folder / "captions.json", json.dumps(captions))

    folder = cached("latents", key, build)
    z, _ = storage.read(folder / "latents.safetensors")
    return Latents(z["z"], json.loads((folder / "captions.json").read_text(encoding="utf-8")))


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: np.ndarray) -> Tensor:
    """Pictures (n, h, w, 3) uint8 as scaled latents, the means, in float16. -> (n, c, h / f, w / f)"""
    device, home = best_device(), next(vae.parameters()).device
    vae.to(device)
    parts = (to_model(part).to(device) for part in np.array_split(images, -(-len(images) // 64)))
    z = torch.cat([vae.scale(vae.encode(part).mean).half().cpu() for part in parts])
    vae.to(home)
    return z


class Batches:
    """`batches(generator, n)` -> x_0, eps, t and ids (n, length) of n scenes, each captioned in one of the languages.

    shares: how often each task is drawn, in any unit.
    unconditional_rate: how often a caption is dropped, that is, left empty.
    """

    def __init__(
        self,
        latents: Mapping[str, Latents],
        tokenizer: Tokenizer,
        shares: Mapping[str, float] = SHARES,
        unconditional_rate: float = UNCONDITIONAL_RATE,
    ):
        self.latents, self.tokenizer, self.unconditional_rate = latents, tokenizer, unconditional_rate
        self.tasks = [task for task in latents if shares.get(task, 0)]
        self.shares = torch.tensor([float(shares[task]) for task in self.tasks])
        self.schedule = schedule()

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        tasks = torch.multinomial(self.shares, n, replacement=True, generator=generator).tolist()
        where, language, kept = torch.rand(3, n, generator=generator, dtype=torch.float64).tolist()
        z, texts = [], []
        for i in range(n):
            scenes = self.latents[self.tasks[tasks[i]]]
            at = int(where[i] * len(scenes.z))
            z.append(scenes.z[at])
            captions = scenes.captions[data.LANGUAGES[int(language[i] * len(data.LANGUAGES))]]
            texts.append(captions[at] if kept[i] >= self.unconditional_rate else "")
        noised = draw_noise(torch.stack(z).float(), self.schedule, generator)
        t = spread_timesteps(n, self.schedule, generator)
        return noised | {"t": t, "ids": self.tokenizer(texts)[0]}


class TextConditionedLoss:
    """A loss conditioned on text: `loss(model, batch)`, with the frozen encoder's context of the batch's ids.

    Kept for all captions, the contexts would take 2.7 GB; made anew they take a twentieth of a step.
    """

    def __init__(self, encoder: TextEncoder, loss: Callable[..., Tensor] = denoising_loss, **options: Any):
        self.encoder, self.loss = encoder.eval().requires_grad_(False), loss
        self.options = options

    def __call__(self, model: Denoiser, tensors: dict[str, Tensor]) -> Tensor:
        ids, back = tensors["ids"].unique(dim=0, return_inverse=True)
        # Padding included: the picture sees it, as in Stable Diffusion.
        context = self.encoder.to(ids.device)(ids)[back]
        rest = {name: tensor for name, tensor in tensors.items() if name != "ids"}
        return self.loss(model, rest | {"context": context}, **self.options)


def fit(
    model: Denoiser, batches: Batches, encoder: TextEncoder, steps: int = ROUNDS[0][0], seed: int = 0, **options: Any
) -> History:
    """Train `model`; further options go to `minildm.training.train`."""
    settings = dict(steps=steps, batch_size=BATCH, lr=LR, ema=0.999, seed=seed, bfloat16=fast_bfloat16(best_device()))
    return train(model, batches, TextConditionedLoss(encoder), **settings | options)


@torch.no_grad()
def error(model: Denoiser, batches: Batches, encoder: TextEncoder, n: int = 1000, seed: int = 0) -> float:
    """The mean squared error of v over n draws of scenes, timesteps and noise."""
    loss = TextConditionedLoss(encoder, denoising_error)
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    parts = [batches(generator, 100) for _ in range(-(-n // 100))]
    errors = [loss(model, {name: tensor.to(device) for name, tensor in part.items()}) for part in parts]
    return float(torch.cat(errors).mean())


def pretrained_parts() -> tuple[AutoencoderKL, TextEncoder, Tokenizer]:
    """The parts that were trained before."""
    return weights.load("vae-pocket"), *text_pocket.load()


def run(
    out: Path | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    runs: Path = RUNS,
    batch: int | None = None,
    lr: float | None = None,
    width: int = WIDTH,
    size: int = SIZE,
) -> Path:
    """Train the U-Net in rounds, of `steps` each if given; measure it, write the pipeline's folder; returns its path.

    In its shipped place the folder names the text encoder, which ships already; elsewhere it holds all there is.
    batch, lr, width, size: other settings than the shipped model's: samples of a step, peak of the learning rate,
    channels of the U-Net's first level (a multiple of 4), and pixels of a side (a multiple of 16).
    """
    if size % 16 or size < 16 or width % 4 or width < 4:
        raise ValueError(f"expected size as a multiple of 16 and width as one of 4, got {size} and {width}")
    job = Job("pocket", out, seed, resume, runs)
    checkpoints = [job.checkpoint(f"-{number}") for number in range(1, 1 + len(ROUNDS))]
    vae, encoder, tokenizer = pretrained_parts()
    scenes = {task: latents(vae, task, SCENES * share, size=size) for task, share in SHARES.items()}
    heldout = {task: latents(vae, task, UNSEEN, TEST_SEED, "heldout", size) for task in data.TASKS[1:]}
    unseen = Batches(heldout, tokenizer)
    model = network(vae.latent_channels, encoder.dim, seed, **widths(width))
    settings, histories = dict(batch_size=batch or BATCH, lr=lr or LR), []
    for number, (length, shares) in enumerate(ROUNDS):
        seen = Batches(scenes, tokenizer, shares)

        def validate(model: Denoiser, seen: Batches = seen) -> dict[str, float]:
            parts = {"training_error": seen, "heldout_error": unseen}
            return job.say("pocket", {name: error(model, part, encoder) for name, part in parts.items()})

        how = settings | dict(checkpoint=checkpoints[number], validate=validate, validate_every=1650)
        histories.append(fit(model, seen, encoder, steps or length, seed + number, **how))
    captions = [text for some in scenes.values() for said in some.captions.values() for text in said]
    how = dict(size=size, guidance=GUIDANCE, sees_padding=True, words=captions)
    vae_pocket.finetune_decoder(vae)  # the encoder, and so what the U-Net learned from, stays
    pipe = LatentDiffusion(model, vae, None, encoder, tokenizer, **how)
    rounds = [dict(steps=done.step, shares=shares) for done, (_, shares) in zip(histories, ROUNDS, strict=True)]
    record = job.record(*histories) | dict(data=f"scenes, seed {TRAIN_SEED}, train, {size}×{size}", rounds=rounds)
    record |= dict(scenes=SCENES * sum(SHARES.values()), unconditional_rate=UNCONDITIONAL_RATE)
    record |= dict(batch=settings["batch_size"], lr=settings["lr"], measured=histories[-1].validation[-1][1])
    path = write(pipe, out, **record)
    if not first_process():
        return path
    job.end()
    pipe = LatentDiffusion.from_pretrained(path)  # as learners get it: in half precision
    return write(
        pipe, out, **record, geneval={language: geneval_summary(pipe, language) for language in data.LANGUAGES}
    )


def write(pipe: LatentDiffusion, out: Path | None, **record: Any) -> Path:
    """The pipeline's folder, where it ships or elsewhere."""
    shipped = SHIPPED if out is None else {}
    return pipe.save_pretrained(out or weights.FOLDER / "pocket", dtype=torch.float16, shipped=shipped, **record)


def geneval_summary(pipe: LatentDiffusion, language: str, per_task: int = 100, seeds: int = 4) -> dict[str, dict]:
    """Pocket GenEval in a language, on combinations seen in training and on held-out ones: `Report.summary` of each.

    Drawn in bfloat16 where that is fast, as the U-Net was trained, and judged at the size that the judge knows.
    """

    def paint(*asked, **how) -> Tensor:
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=fast_bfloat16(pipe.device)):
            pictures = pipe(*asked, **how)
        if pictures.shape[-1] == SIZE:
            return pictures
        return F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(0, 1)

    reports = {}
    for split in ("train", "heldout"):
        report = geneval.evaluate(paint, split, language, per_task=per_task, seeds=seeds)
        print(report, flush=True)
        reports[split] = report.summary()
    return reports
