"""What fine-tuning needs of a pipeline: its networks as one module, a few pictures as its training data, and the loss.

LoRA, textual inversion and DreamBooth differ in what they train, not in this.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from minildm import images
from minildm.losses import denoising_error, draw_noise
from minildm.schedule import NoiseSchedule

BESIDE = ("ids", "mask", "prior")  # of a batch, what is not the denoiser's own


class Pipeline(Protocol):
    """What is needed of a `LatentDiffusion`."""

    unet: nn.Module
    text_encoder: nn.Module | None
    tokenizer: object
    schedule: NoiseSchedule
    sees_padding: bool

    def encode(self, pictures: images.Images) -> Tensor: ...


def networks(pipe: Pipeline) -> nn.ModuleDict:
    """The networks of a pipeline that can be adapted, `unet` and where there is one `text_encoder`, as one module.

    They are the pipeline's own, not copies: what is trained here draws there. A denoiser that has no schedule of its
    own gets the pipeline's.
    """
    if getattr(pipe.unet, "schedule", None) is None:
        pipe.unet.schedule = pipe.schedule
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    return nn.ModuleDict({name: part for name, part in parts.items() if isinstance(part, nn.Module)})


class Examples:
    """Pictures as a pipeline's training data: `examples(generator, n)` -> x_0, eps, t, and the pipeline's conditions.

    pictures: as `images.to_unit` takes them, of one size.
    prompts: a caption for each, or one for all; they are needed where the pipeline takes words, and only there.
    conditions: whatever else the denoiser takes, by name: tensors with one entry for each picture, or one for all.
        Labels y are "no label" where they are not given.

    x_0 is what the denoiser works on, latents or pixels, encoded once. A batch holds `ids` and `mask` of the prompts:
    the loss makes the context of them, so that a text encoder can learn too.
    Raises ValueError for prompts that are missing, too many or not of a number with the pictures.
    """

    def __init__(
        self, pipe: Pipeline, pictures: images.Images, prompts: str | Sequence[str] = (), **conditions: Tensor
    ):
        self.schedule, self.x_0 = pipe.schedule, pipe.encode(pictures).cpu()
        n = len(self.x_0)
        prompts = [prompts] * n if isinstance(prompts, str) else list(prompts)
        self.prompts, self.conditions = prompts, {}
        if (pipe.tokenizer is None) != (not prompts) or (prompts and len(prompts) != n):
            takes = "no words" if pipe.tokenizer is None else "words"
            raise ValueError(f"this pipeline takes {takes}; expected prompts for {n} pictures, got {len(prompts)}")
        if prompts:
            self.conditions["ids"], self.conditions["mask"] = pipe.tokenizer(prompts)
        if pipe.unet.null_class is not None and "y" not in conditions:
            conditions["y"] = torch.tensor([pipe.unet.null_class])
        for name, value in conditions.items():
            if len(value) not in (1, n):
                raise ValueError(f"expected {name} for one picture or {n}, got shape {tuple(value.shape)}")
            self.conditions[name] = value.cpu().expand(n, *value.shape[1:])
        self.sees_padding = pipe.sees_padding

    def __len__(self) -> int:
        return len(self.x_0)

    def __call__(self, generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return self.at(torch.randint(len(self), (n,), generator=generator), generator)

    def at(self, numbers: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The batch of these pictures, with noise from the generator."""
        batch = draw_noise(self.x_0[numbers], self.schedule, generator)
        batch |= {name: value[numbers] for name, value in self.conditions.items()}
        if self.sees_padding:
            batch.pop("mask", None)  # the picture may look at the padding as well
        return batch


def example_error(parts: Mapping[str, nn.Module], batch: Mapping[str, Tensor]) -> Tensor:
    """The denoiser's squared error for each sample of a batch, with the context made of its `ids`. -> (b,)

    parts: `networks(pipe)`.
    """
    rest = {name: tensor for name, tensor in batch.items() if name not in BESIDE}
    if "ids" in batch:
        rest["context"] = parts["text_encoder"](batch["ids"], batch.get("mask"))
        rest |= {"mask": batch["mask"]} if "mask" in batch else {}
    return denoising_error(parts["unet"], rest)


def example_loss(parts: Mapping[str, nn.Module], batch: Mapping[str, Tensor]) -> Tensor:
    """The training loss of LoRA and of textual inversion: `example_error`, averaged. -> scalar"""
    return example_error(parts, batch).mean()
