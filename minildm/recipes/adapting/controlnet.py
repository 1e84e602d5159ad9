"""ControlNet on your own pictures and masks: then the model paints what a mask says. `minildm generate --control`"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minildm import data
from minildm import images as conversions
from minildm.adapt import Controlled, ControlNet, Examples, example_loss, networks
from minildm.recipes._frame import RUNS
from minildm.recipes._own import parted, steps_of
from minildm.recipes.adapting._frame import AdaptingJob, error, samples
from minildm.tensors import seeded

STEPS, BATCH, LR, SAMPLES, HELD_OUT = 1000, 8, 3e-4, 6, 10


def read(images: str | Path, masks: str | Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, h, w) and where objects are (n, 1, h, w), 0 and 1, from folders as of `data.pairs`."""
    rows = data.pairs(images, masks, channels=3, instances="labels")
    pictures = conversions.fit([_bytes(row["image"]) for row in rows], size)
    return pictures, conversions.fit([row["mask"] > 0 for row in rows], size, channels=1).ge(0.5).float()


def run(
    images: str | Path,
    masks: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Path = "pocket",
    prompt: str = "",
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = BATCH,
    lr: float = LR,
    seed: int = 0,
    resume: bool = True,
    runs: str | Path = RUNS,
) -> Path:
    """Train a ControlNet on two folders, pictures and their masks; returns the path of its file.

    images, masks: as in `data.pairs`. Whatever is not background counts as mask. One pair in ten is held out.
    out: by default IMAGES-controlnet.safetensors: `Controlled(pipe.unet, weights.load(out))`.
    prompt: what all pictures show, where the model takes words.  The rest as of `adapting.lora.run`.
    """
    job = AdaptingJob("controlnet", images, out, model, seed, resume, runs)
    pictures, control = read(images, masks, job.pipe.size)
    known, held = parted(len(pictures), HELD_OUT, seed)
    print(f"{len(pictures)} pictures with masks, {len(held)} of them held out", flush=True)
    words = [] if job.pipe.tokenizer is None else [prompt]
    factor = job.pipe.multiple // job.pipe.unet.multiple
    with seeded(seed):
        net = ControlNet.copy_of(job.pipe.unet, factor=factor)
    job.pipe.unet = Controlled(job.pipe.unet, net)
    parts = networks(job.pipe)
    parts.requires_grad_(False)
    net.requires_grad_(True)
    examples = {
        name: Examples(job.pipe, pictures[numbers], len(numbers) * words, control=control[numbers])
        for name, numbers in (("training", known), ("heldout", held))
        if numbers
    }
    numbers = (held or known)[:SAMPLES]

    def look(parts: nn.ModuleDict, step: int) -> dict[str, float]:
        asked = control[numbers].to(job.pipe.device)
        drawn = samples(job.pipe, words, len(numbers), control=asked).cpu()
        rows = [part for i, picture in enumerate(drawn) for part in (control[numbers[i]].expand(3, -1, -1), picture)]
        job.show(f"step-{step:06}", torch.stack(rows), columns=2)
        return {f"{name}_error": error(parts, part) for name, part in examples.items()}

    facts = dict(pictures=len(pictures), masks=str(Path(masks).expanduser().resolve()), prompt=prompt, base=job.model)
    settings = dict(batch_size=batch, lr=lr, ema=0.99)
    steps = steps_of(steps, minutes, STEPS)
    history = job.train(parts, examples["training"], example_loss, look, steps, minutes, facts, **settings)
    return job.finish(net, history, **facts | dict(batch=batch, lr=lr, measured=history.validation[-1][1]))


def _bytes(image: np.ndarray) -> np.ndarray:
    """Intensities of any kind as a picture: bytes as they are, of others what is brightest is white."""
    if image.dtype == np.uint8:
        return image
    top = float(image.max())
    return (image / top if top > 0 else image).astype(np.float32).clip(0, 1)
