"""The pocket model of lessons 08 and 09: words to pictures of 64×64, in latents of 8×8×16 of its own autoencoder.

The autoencoder is trained first, then its decoder on; latents of many scenes are computed once and kept in the cache
folder; then the U-Net is trained; then the decoder once more, on what the U-Net leaves of scenes; and at last the U-Net
once more, on its own pictures, judged. The text encoder of `text-pocket` is frozen, as in Stable Diffusion.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import data, geneval, weights
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.images import to_unit
from minildm.losses import denoising_error
from minildm.pipeline import LatentDiffusion
from minildm.recipes import RUNS, Job, first_process, pocket_autoencoder, pocket_feedback, text_pocket
from minildm.recipes.pocket_loss import TextConditionedLoss, WithCells
from minildm.recipes.pocket_scenes import SHARES, SIZE, TRAIN_SEED, UNCONDITIONAL_RATE, Batches, latents
from minildm.schedule import NoiseSchedule
from minildm.tensors import best_device, fast_bfloat16, in_bfloat16, seeded
from minildm.text import TextEncoder
from minildm.training import History, Muon, inner_and_rest, train, unwrapped

STEPS, DECAY, BATCH, LR = 26_000, 0.3, 64, 1e-3  # DECAY: the share of the steps over which the rate falls
MUON = 20  # times the rate of AdamW, for its updates have another size
WIDTH, GUIDANCE = 160, 3.0
GUIDED = (350, 1000)  # the drawings are as good as with guidance at all timesteps, for a sixth less work
SHIFT = 3.0  # of the noise schedule: 16 channels say the same thing many times over, and that shows through noise
SCENES, UNSEEN = 10_000, 500  # for each share of a task, to learn from; and of each task, to measure on
TEST_SEED = 8
# How many scenes are repainted for the decoder, with which seed, and from how much noise.
REPAINTED, REPAINTED_SEED, STRENGTHS = 11_000, 31, (0.12, 0.64)
REPAINTED_STEPS = 2_700  # of the decoder
SHIPPED = {"text_encoder": "text-pocket"}  # what a shipped pocket need not repeat


def network(latent_channels: int, context_dim: int, seed: int = 0, **config: Any) -> Denoiser:
    """The untrained U-Net: on maps of 8×8 and 4×4, both read the words; other sizes by `config`."""
    pocket = dict(blocks_per_level=1, attention=(0, 1), **widths(WIDTH))
    with seeded(seed):
        return Denoiser(
            latent_channels, latent_channels, context_dim=context_dim, schedule=schedule(), **pocket | config
        )


def widths(width: int) -> dict[str, object]:
    """The configuration of a U-Net whose levels have so many channels, in the pocket's proportions."""
    return dict(channels=(width, width), groups=math.gcd(16, width), heads=math.gcd(max(1, width // 32), width))


def schedule() -> NoiseSchedule:
    """The noise schedule it is trained with, to predict v."""
    return NoiseSchedule.cosine(shift=SHIFT).predicting("v")


def optimizers(parameters: Mapping[str, nn.Parameter], lr: float = LR) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and kernels within the U-Net; AdamW for its first and last layer, the time and the head."""
    outer = ("denoiser.stem", "denoiser.head", "denoiser.time", "head")
    inner, others = inner_and_rest(parameters, outer)
    rest = [p for name, p in others.items() if not name.startswith("head")]
    head = [p for name, p in others.items() if name.startswith("head")]
    return [
        Muon(inner.values(), lr=MUON * lr),
        torch.optim.AdamW([{"params": rest}, {"params": head, "lr": 2 * lr}], lr, weight_decay=0.0),
    ]


def fit(
    model: Denoiser,
    batches: Batches,
    encoder: TextEncoder,
    steps: int = STEPS,
    seed: int = 0,
    *,
    compiled: bool = False,
    **options: Any,
) -> History:
    """Train `model`, with a head for the second task beside it; further options go to `minildm.training.train`.

    compiled: by `torch.compile`, which takes minutes and then saves a third of each step.
    """
    settings = dict(steps=steps, batch_size=BATCH, lr=LR, ema=0.999, seed=seed, bfloat16=fast_bfloat16(best_device()))
    settings |= dict(warmup=min(150, steps // 2), decay=max(1, round(DECAY * steps))) | options
    both = WithCells(model, seed)
    how = dict(optimizers=partial(optimizers, lr=settings["lr"]))
    try:
        return train(torch.compile(both) if compiled else both, batches, TextConditionedLoss(encoder), **how | settings)
    finally:
        both.hook.remove()


@torch.no_grad()
def error(model: Denoiser, batches: Batches, encoder: TextEncoder, n: int = 1000, seed: int = 0) -> float:
    """The mean squared error of v over n draws of scenes, timesteps and noise."""
    loss = TextConditionedLoss(encoder, denoising_error)
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    parts = [batches(generator, 100) for _ in range(-(-n // 100))]
    errors = [loss(model, {name: tensor.to(device) for name, tensor in part.items()}) for part in parts]
    return float(torch.cat(errors).mean())


def autoencoder(job: Job, seed: int = 0, steps: int | None = None) -> AutoencoderKL:
    """The pocket's own autoencoder, trained, and its decoder trained on through noise, of `steps` each if given."""
    model = pocket_autoencoder.network(seed)
    how = dict(seed=seed, checkpoint=job.checkpoint("-autoencoder"))
    pocket_autoencoder.fit(model, steps or pocket_autoencoder.STEPS, **how)
    how |= dict(checkpoint=job.checkpoint("-decoder"))
    pocket_autoencoder.finetune_decoder(model, steps or pocket_autoencoder.DECODER_STEPS, **how)
    return model


def repainted(pipe: LatentDiffusion, n: int, seed: int = REPAINTED_SEED) -> tuple[Tensor, Tensor]:
    """Scenes, and what the pipeline leaves wrong in their latents when it paints them anew from middle noise.

    So much of a scene shows through the noise that the painter has to paint this very scene; what is different in the
    end is its error. -> (n, 3, h, w) uint8, (n, c, h / f, w / f) float16
    """
    dice, tasks = np.random.default_rng(seed), list(pocket_autoencoder.DECODER_SHARES)
    often = np.array([*pocket_autoencoder.DECODER_SHARES.values()], float)
    pictures, errors = [], []
    for start in range(0, n, 64):
        task, k = dice.choice(tasks, p=often / often.sum()), min(64, n - start)
        scenes = data.scene_arrays(k, seed, "train", tasks=str(task), start=start, layout="grid")
        said = [data.caption(prompt, str(dice.choice(data.LANGUAGES)), dice.random) for prompt in scenes.prompts]
        pictures.append(torch.from_numpy(scenes.images).movedim(-1, 1))
        x = to_unit(pictures[-1])
        with in_bfloat16(pipe.device):
            *_, last = pipe.steps(said, image=x, strength=dice.uniform(*STRENGTHS), steps=14, seed=start)
            errors.append((last.x_t - pipe.encode(x)).half().cpu())
    return torch.cat(pictures), torch.cat(errors)


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
    compiled: bool = False,
) -> Path:
    """Train autoencoder, U-Net, and the decoder once more, of `steps` each if given; measure, write the folder.

    In its shipped place the folder names the text encoder, which ships already; elsewhere it holds all there is.
    batch, lr, width, size: other settings than the shipped model's: samples of a step, peak of the learning rate,
    channels of the U-Net's levels (a multiple of 4), and pixels of a side (a multiple of 16).
    compiled: see `fit`. -> the folder
    """
    if size % 16 or size < 16 or width % 4 or width < 4:
        raise ValueError(f"expected size as a multiple of 16 and width as one of 4, got {size} and {width}")
    job = Job("pocket", out, seed, resume, runs)
    checkpoint = job.checkpoint()
    encoder, tokenizer = text_pocket.load()
    vae = autoencoder(job, seed, steps)
    scenes = {task: latents(vae, task, SCENES * share, size=size) for task, share in SHARES.items()}
    heldout = {task: latents(vae, task, UNSEEN, TEST_SEED, "heldout", size) for task in data.TASKS[1:]}
    seen, unseen = (Batches(some, tokenizer, SHARES, schedule()) for some in (scenes, heldout))
    model = network(vae.latent_channels, encoder.dim, seed, **widths(width))

    def validate(both: WithCells) -> dict[str, float]:
        parts = {"training_error": seen, "heldout_error": unseen}
        return job.say("pocket", {name: error(unwrapped(both).denoiser, part, encoder) for name, part in parts.items()})

    how = dict(batch_size=batch or BATCH, lr=lr or LR)
    options = dict(checkpoint=checkpoint, validate=validate, validate_every=1650, compiled=compiled)
    history = fit(model, seen, encoder, steps or STEPS, seed, **how, **options)
    captions = [text for some in scenes.values() for said in some.captions.values() for text in said]
    own = dict(size=size, guidance=GUIDANCE, guidance_interval=GUIDED, sees_padding=True, words=captions)
    pipe, feedback = LatentDiffusion(model, vae, None, encoder, tokenizer, **own), None
    if size == SIZE:  # which the judge knows, and of which are the scenes that the autoencoder learns from
        options = dict(repainted=repainted(pipe, REPAINTED), seed=seed, checkpoint=job.checkpoint("-repainted"))
        pocket_autoencoder.finetune_decoder(vae, steps or REPAINTED_STEPS, **options)
        before = measured(pipe) if first_process() else {}
        feedback = dict(pocket_feedback.learn(pipe, scenes, job, seed=seed, steps=steps), before=before)
    record = job.record(history) | dict(data=f"scenes on the grid, seed {TRAIN_SEED}, train, {size}×{size}")
    record |= dict(feedback=feedback)
    record |= dict(scenes=SCENES * sum(SHARES.values()), shares=SHARES, unconditional_rate=UNCONDITIONAL_RATE)
    record |= dict(batch=how["batch_size"], lr=how["lr"], measured=history.validation[-1][1])
    path = write(pipe, out, **record)
    if not first_process():
        return path
    job.end()
    pipe = LatentDiffusion.from_pretrained(path)  # as learners get it: in half precision
    return write(pipe, out, **record, geneval=measured(pipe))


def write(pipe: LatentDiffusion, out: Path | None, **record: Any) -> Path:
    """The pipeline's folder, where it ships or elsewhere."""
    shipped = SHIPPED if out is None else {}
    return pipe.save_pretrained(out or weights.FOLDER / "pocket", dtype=torch.float16, shipped=shipped, **record)


def measured(pipe: LatentDiffusion) -> dict[str, dict]:
    """`geneval_summary` in each language."""
    return {language: geneval_summary(pipe, language) for language in data.LANGUAGES}


def geneval_summary(
    pipe: LatentDiffusion, language: str, per_task: int = 100, seeds: int = 4, **how: Any
) -> dict[str, dict]:
    """Pocket GenEval in a language, on combinations seen in training and on held-out ones: `Report.summary` of each.

    Drawn in bfloat16 where that is fast, as the U-Net was trained, and judged at the size that the judge knows.
    how: goes to the pipeline, such as steps=25.
    """

    def paint(*asked, **how) -> Tensor:
        with in_bfloat16(pipe.device):
            pictures = pipe(*asked, **how)
        if pictures.shape[-1] == SIZE:
            return pictures
        return F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(0, 1)

    reports = {}
    for split in ("train", "heldout"):
        report = geneval.evaluate(paint, split, language, per_task=per_task, seeds=seeds, **how)
        print(report, flush=True)
        reports[split] = report.summary()
    return reports
