"""What teaches the pocket's U-Net: a loss conditioned on text, and a second task beside it."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from minildm import data
from minildm.denoiser import Denoiser
from minildm.layers import group_norm
from minildm.losses import denoising_loss
from minildm.tensors import seeded
from minildm.text import TextEncoder
from minildm.training import unwrapped

CELLS_WEIGHT = 0.2  # of the second task, see `WithCells`
SECOND_TASK = ("classes", "boxes", "cells")  # what it learns from


class WithCells(nn.Module):
    """A denoiser that also says what stands in each cell of its latent: a second task, for training alone.

    The judge's own job, asked of noisy latents: which thing, where the middle of its box is, and how large it is. To
    paint a thing in a place one has to know that it is there; said outright, this is learned sooner.
    `m(x_t, t, **conditions)` -> prediction, cells (b, 1 + classes + 4, h, w).  After training, `m.hook.remove()` leaves
    the denoiser as it was.
    """

    def __init__(self, denoiser: Denoiser, seed: int = 0):
        super().__init__()
        self.denoiser, width = denoiser, denoiser.config["channels"][0]
        with seeded(seed):
            norm = group_norm(width, denoiser.config["groups"])
            self.head = nn.Sequential(norm, nn.SiLU(), nn.Conv2d(width, 1 + len(data.VOCABULARY) + 4, 1))
        self.hook = denoiser.up[-2].register_forward_hook(self._keep)  # the block before the last one of the way up

    def _keep(self, block: nn.Module, inputs: tuple, features: Tensor) -> None:
        self._features = features

    def forward(self, x_t: Tensor, t: Tensor, **conditions: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.denoiser(x_t, t, **conditions)
        return prediction, self.head(self._features)


def cells_loss(told: Tensor, cells: Tensor, boxes: Tensor, there: Tensor) -> Tensor:
    """Cross-entropy of the chances in each cell, (b, 1 + classes, h, w), and squared error of boxes, (b, 4, h, w),
    where a thing is there, (b, h, w)."""
    told, there = told.float(), there[:, None]
    squared = ((told[:, -4:] - boxes).square() * there).sum() / (4 * there.sum()).clamp(min=1)
    return F.cross_entropy(told[:, :-4], cells) + squared


class TextConditionedLoss:
    """A loss conditioned on text: `loss(model, batch)`, with the frozen encoder's context of the batch's ids.

    Kept for all captions, the contexts would take 2.7 GB; made anew they take a twentieth of a step.
    """

    def __init__(self, encoder: TextEncoder, loss: Callable[..., Tensor] = denoising_loss, **options: Any):
        self.encoder, self.loss = encoder.eval().requires_grad_(False), loss
        self.options = options

    def __call__(self, model: Denoiser | WithCells, tensors: dict[str, Tensor]) -> Tensor:
        ids, back = tensors["ids"].unique(dim=0, return_inverse=True)
        # Padding included: the picture sees it, as in Stable Diffusion.
        context = self.encoder.to(ids.device)(ids)[back]
        batch = {name: tensor for name, tensor in tensors.items() if name not in ("ids", *SECOND_TASK)}
        batch["context"] = context
        if isinstance(unwrapped(model), Denoiser):
            return self.loss(model, batch, **self.options)
        told = {}

        def denoise(x_t, t, context):
            prediction, told["cells"] = model(x_t, t, context=context)
            return prediction

        loss = self.loss(denoise, batch, unwrapped(model).denoiser.schedule, **self.options)
        return loss + CELLS_WEIGHT * cells_loss(
            told["cells"], tensors["cells"], tensors["boxes"], tensors["classes"] > 0
        )
