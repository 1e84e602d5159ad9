"""A segmenter of your own pictures, from pictures and masks: `minildm train masks IMAGES MASKS`

What to expect: a handful of pictures with some hundred objects are enough, since each step sees other crops of them,
turned, bent and re-lit. 500 steps took three minutes on two cores. Objects should be 8 to 60 pixels wide: what is some
5 pixels wide is dropped as a speck, and crops of 128 show little around what is much larger. Resize other pictures
before. Each object is outlined by itself, also where two touch.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minildm import data
from minildm.data.augment import Crops
from minildm.recipes import nuclei
from minildm.recipes._frame import RUNS
from minildm.recipes._own import OwnJob, parted, steps_of
from minildm.segmentation import normalise, segment, segmentation_loss
from minildm.tensors import seeded
from minildm.unet import UNet

STEPS, BATCH, LR, WIDTH, SIZE = 500, 4, 2e-3, 16, 128
HELD_OUT = 5  # one picture in so many
SAMPLES = 4  # pictures on a sheet
NARROW, WIDE = 8, 60  # widths of objects between which `segmentation.segment` works well, pixels
# Colours of the background, black, and of 255 objects, after which they come again. (256, 3) uint8
PALETTE = np.random.default_rng(0).integers(77, 256, (256, 3), np.uint8)
PALETTE[0] = 0


def network(channels: int, width: int = WIDTH, seed: int = 0) -> UNet:
    """The untrained network: pictures of so many channels in, foreground and depth out. width: at full size."""
    with seeded(seed):
        return UNet(channels, 2, channels=(width, 2 * width, 4 * width, 8 * width))


def scores(model: nn.Module, pairs: Sequence[nuclei.Pair]) -> dict[str, float]:
    """The means over pictures of overlap and of the shares found at two strictnesses, as `nuclei.scores` has them."""
    each = [nuclei.scores(mask, segment(model, image)) for image, mask in pairs]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def sheet(model: nn.Module, pairs: Sequence[nuclei.Pair], side: int = 256) -> Tensor:
    """Each picture, its mask, and what the model finds, cut to the middle. -> (3 n, 3, side, side) in [0, 1]"""
    rows = []
    for image, mask in pairs:
        shown = ((normalise(image) + 1) / 2).clip(0, 1)
        shown = shown if shown.ndim == 3 else np.stack([shown] * 3, axis=-1)
        rows += [_middle(part, side) for part in (shown, colours(mask), colours(segment(model, image)))]
    return torch.from_numpy(np.stack(rows)).movedim(-1, 1).float()


def colours(labels: np.ndarray) -> np.ndarray:
    """Each object in a colour of its own, on black. (h, w) integers -> (h, w, 3) in [0, 1]"""
    return PALETTE[np.where(labels > 0, (labels - 1) % 255 + 1, 0)] / 255


def _announce(masks: Sequence[np.ndarray], held: int) -> None:
    areas = np.concatenate([np.bincount(mask.ravel())[1:] for mask in masks])
    width = float(np.median(np.sqrt(areas * 4 / np.pi))) if len(areas) else 0.0  # of a disc with this area
    print(f"{len(masks)} pictures with {len(areas)} objects, {held} of them held out", flush=True)
    if not NARROW <= width <= WIDE:
        warnings.warn(
            f"objects are {width:.0f} pixels wide (half of them less), and {NARROW} to {WIDE} are found best: resize "
            "pictures and masks before",
            stacklevel=3,
        )


def _middle(picture: np.ndarray, side: int) -> np.ndarray:
    """The square in the middle, on black where the picture is smaller."""
    for axis in (0, 1):
        more = max(0, side - picture.shape[axis])
        width = [(0, 0)] * 3
        width[axis] = (more // 2, more - more // 2)
        picture = np.pad(picture, width)
        start = (picture.shape[axis] - side) // 2
        picture = picture.take(range(start, start + side), axis)
    return picture


def run(
    images: str | Path,
    masks: str | Path,
    out: str | Path | None = None,
    *,
    channels: int | None = None,
    instances: str | None = None,
    size: int = SIZE,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = BATCH,
    lr: float = LR,
    width: int = WIDTH,
    seed: int = 0,
    resume: bool = True,
    runs: str | Path = RUNS,
) -> Path:
    """Train on two folders; sheets on the way; a weights file at the end, whose path is returned.

    images, masks, channels, instances: as in `data.pairs`.  out: ends in .safetensors; by default
        IMAGES-model.safetensors. `segmentation.segment(weights.load(out), image)` and `minildm segment --model` use it.
    size: side of the crops that it learns from, a multiple of 8.
    steps: how many (500); or minutes: as many as take about so long on this machine.
    batch, lr, width: crops of a step, peak of the learning rate, channels of the network's first level.
    resume, runs: as for all recipes; the run's own folder in `runs` keeps the sheets: picture, mask, what is found.

    Raises ValueError for a size or width that does not fit the network, and what `data.pairs` raises.
    """
    if size < 16 or size % 8 or width < 1:
        raise ValueError(f"expected size from 16 as a multiple of 8, and width from 1; got {size} and {width}")
    job = OwnJob("masks", images, out, seed, resume, runs, ending=".safetensors")
    if job.out.suffix != ".safetensors":
        raise ValueError(f"expected a file name that ends in .safetensors for the model, got {job.out}")
    pairs = [(row["image"], row["mask"]) for row in data.pairs(images, masks, channels=channels, instances=instances)]
    known, held = ([pairs[i] for i in numbers] for numbers in parted(len(pairs), HELD_OUT, seed))
    _announce([mask for _, mask in pairs], len(held))

    inputs = 3 if pairs[0][0].ndim == 3 else 1
    crops = Crops([nuclei.maps(*pair) for pair in known], size=size)
    shown = (held or known)[:SAMPLES]

    def look(model: nn.Module, step: int) -> dict[str, float]:
        job.show(f"step-{step:06}", sheet(model, shown), columns=3)
        return {f"{'heldout' if held else 'training'}_{name}": one for name, one in scores(model, shown).items()}

    facts = dict(pictures=len(pairs), masks=str(Path(masks).expanduser().resolve()), size=size, width=width)
    model, settings = network(inputs, width, seed), dict(batch_size=batch, lr=lr, ema=0.99)
    steps = steps_of(steps, minutes, STEPS)
    history = job.train(model, crops, segmentation_loss, look, steps, minutes, facts, **settings)
    result = job.say("held out" if held else "training pictures", scores(model, held or known))
    record = dict(data=f"{len(known)} pictures of {job.source.name}", batch=batch, lr=lr)
    return job.finish(model, history, **record, measured=result, held_out=len(held))
