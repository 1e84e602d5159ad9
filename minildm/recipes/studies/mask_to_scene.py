"""Mask to scene: a ControlNet of the pocket, with zero convolutions or without, and its rivals. For `adapters`."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minildm import data, judge
from minildm.adapt import Controlled, ControlNet, Examples, example_error, example_loss, networks
from minildm.images import to_unit
from minildm.pipeline import LatentDiffusion
from minildm.recipes.taught import CoreMinutes, painted
from minildm.tensors import count_parameters, seeded
from minildm.training import train

STEPS, BATCH, LR = 350, 4, 2e-3
SCENES, HELD, TESTED = 400, 16, 24  # to learn from, for the curve of the error, to measure on: none twice
TASKS = ("one object", "colour")
EARLY = 400  # timesteps from here on are trained: there it is settled what stands where
LOOKS = 10  # at the error, on the way
GREY, GROUND = 0.5, 0.93  # of the silhouette that a rival starts from, and of all around it
STRENGTHS = (0.5, 0.6, 0.7, 0.8)  # of image-to-image


class Wanted(NamedTuple):
    """Masks and words, and real scenes that have both."""

    pictures: Tensor  # (n, 3, 64, 64) in [0, 1]
    masks: Tensor  # (n, 1, 64, 64) of 0 and 1: all that stands in the scene
    captions: list[str]


def scenes(n: int, seed: int) -> Wanted:
    """n scenes with their masks; those of two seeds have nothing to do with each other."""
    some = data.scene_arrays(n, seed, tasks=TASKS, layout="grid")
    masks = torch.from_numpy(some.masks > 0)[:, None].float()
    return Wanted(to_unit(torch.from_numpy(some.images).movedim(-1, 1)), masks, some.captions)


def tested(n: int = TESTED) -> Wanted:
    """The masks that all is measured on: none that stands in the training, pixel by pixel, counts."""
    known = {mask.numpy().tobytes() for mask in scenes(SCENES, 1_000).masks}
    some = scenes(8 * n, 1_002)
    new = [i for i, mask in enumerate(some.masks) if mask.numpy().tobytes() not in known][:n]
    return Wanted(some.pictures[new], some.masks[new], [some.captions[i] for i in new])


def overlaps(pictures: Tensor, masks: Tensor) -> np.ndarray:
    """Intersection over union of each wanted mask and all that the judge finds in the picture. -> (n,)"""
    wanted = masks[:, 0].numpy() > 0
    found = np.zeros_like(wanted)
    for there, objects in zip(found, judge.inspect(pictures), strict=True):
        for one in objects:
            there |= one.mask
    return (wanted & found).sum((1, 2)) / (wanted | found).sum((1, 2))


def score(pictures: Tensor, wanted: Wanted) -> dict[str, float]:
    """Mean overlap with the masks, its standard error, and the share of pictures that show what the words say."""
    iou, right = overlaps(pictures, wanted.masks), judge.score(pictures, wanted.captions)
    return {"iou": float(iou.mean()), "iou_error": float(iou.std() / len(iou) ** 0.5), "right": float(np.mean(right))}


def untrained(pipe: LatentDiffusion, zero: bool = True, seed: int = 0) -> ControlNet:
    """A new ControlNet of a pipeline's denoiser.  zero=False: random numbers in its zero convolutions."""
    with seeded(seed):
        net = ControlNet.copy_of(pipe.unet, factor=pipe.multiple // pipe.unet.multiple)
        if not zero:
            for conv in (net.hint[-1], *net.zeros, net.zero_middle):
                conv.reset_parameters()
    return net


def learned(pipe: LatentDiffusion, zero: bool, steps: int, seed: int) -> tuple[dict, Tensor, ControlNet]:
    """Train a ControlNet on masks of scenes; it stays in the pipeline. -> figures, pictures for the tested masks, it"""
    net = untrained(pipe, zero, seed)
    pipe.unet = Controlled(pipe.unet, net)
    parts = networks(pipe)
    parts.requires_grad_(False)
    net.requires_grad_(True)
    known, held, wanted = scenes(SCENES, 1_000), scenes(HELD, 1_001), tested()
    examples, others = (Examples(pipe, some.pictures, some.captions, control=some.masks) for some in (known, held))
    last = len(pipe.schedule.noise) - 1

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return _early(examples(generator, n), last)

    clock = CoreMinutes()

    @torch.no_grad()
    def error(parts: nn.Module) -> float:
        with clock.stopped():
            asked = others.at(torch.arange(HELD), torch.Generator().manual_seed(0))
            return float(example_error(parts, _early(asked, last)).mean())

    with clock:
        curve = [(0, error(parts))]
        looks = dict(validate=error, validate_every=max(1, steps // LOOKS), progress=False)
        history = train(parts, batch, example_loss, steps=steps, batch_size=BATCH, lr=LR, seed=seed, ema=0.9, **looks)
    pictures = painted(pipe, wanted.captions, control=wanted.masks)
    figures = dict(
        parameters=count_parameters(net), steps=steps, minutes=clock.minutes, curve=curve + history.validation
    )
    return figures | score(pictures, wanted), pictures, net


def rivals(pipe: LatentDiffusion) -> dict[str, tuple[dict, Tensor]]:
    """What can be done with a mask without any training: figures and pictures of each way.

    words alone: the mask is not told.  image-to-image: from the mask as a grey silhouette, at that one of STRENGTHS
    whose overlap on these very masks is best: chosen in its favour.  inpainting: on a plain ground, the mask is painted
    anew.
    """
    wanted = tested()
    silhouette = torch.where(wanted.masks > 0, GREY, GROUND).expand(-1, 3, -1, -1)
    plain = torch.full_like(silhouette, GROUND)
    found = {"words alone": {}, "inpainting": dict(image=plain, mask=wanted.masks)}
    found |= {f"image-to-image, strength {s}": dict(image=silhouette, strength=s) for s in STRENGTHS}
    pictures = {name: painted(pipe, wanted.captions, **how) for name, how in found.items()}
    scores = {name: score(some, wanted) for name, some in pictures.items()}
    best = max((name for name in scores if name.startswith("image")), key=lambda name: scores[name]["iou"])
    return {name: (scores[name], pictures[name]) for name in ("words alone", best, "inpainting")}


def _early(batch: dict[str, Tensor], last: int) -> dict[str, Tensor]:
    """The same batch with all timesteps moved to EARLY and above."""
    return batch | {"t": EARLY + batch["t"] * (last - EARLY) // last}
