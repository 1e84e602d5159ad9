"""The denoiser: the U of lesson 1 with blocks that are told the time, and, if asked for, attend to words.

The contract of every denoiser here: `m(x_t, t, **conditions) -> prediction`, with t: (b,) int64 and 0 the least noise.
`Conditional` writes down what a pipeline needs besides.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import SpatialAttention, SpatialTransformer
from minildm.layers import Chain, Cond, ResidualBlock
from minildm.optional import moved
from minildm.schedule import NoiseSchedule
from minildm.tensors import check_images, check_integers
from minildm.unet import UNet

__getattr__ = moved(
    __name__,
    {name: f"minildm.losses.{name}" for name in ("draw_noise", "denoising_error", "denoising_loss")},
)


class Conditional(Protocol):
    """What a pipeline needs of a denoiser: a `Denoiser` has it, and so has whatever wraps or replaces one.

    in_channels, out_channels: of pictures or latents.  multiple: what their height and width must be divisible by.
    schedule: the `NoiseSchedule` that it was trained with, and what it predicts.
    conditions: names of all that it can be conditioned on, keyword arguments of the call: {"context", "mask", "y"}.
    context_dim: width of `context`, if it is among them; None otherwise.
    num_classes: how many classes y knows, from 0, and null_class: the y of "no label"; None where y is not among them.

    All are plain attributes or properties; one that a file is to keep can be set (`schedule`), has its constructor's
    arguments in `config`, and its class in `weights.CLASSES`.
    """

    in_channels: int
    out_channels: int
    multiple: int
    schedule: NoiseSchedule | None
    conditions: frozenset[str]
    context_dim: int | None
    num_classes: int | None
    null_class: int | None

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Tensor | None) -> Tensor: ...


def schedule_of(
    model: Callable[..., Tensor], schedule: NoiseSchedule | None = None, predicts: str | None = None
) -> NoiseSchedule:
    """The noise schedule to train or sample a model with, once nothing contradicts the model's own.

    model: any callable; its attribute `schedule`, if it has one that is not None, is what it was trained with.
    schedule, predicts: what is asked for; None: the model's own.
    Raises ValueError for a schedule that is not the model's, and where nobody says one.
    """
    own = getattr(model, "schedule", None)
    if schedule is None and own is None:
        raise ValueError("expected a schedule: this model has none of its own (model.schedule = NoiseSchedule...)")
    asked = own if schedule is None else schedule
    asked = asked if predicts is None else asked.predicting(predicts)
    if own is not None and asked != own:
        raise ValueError(f"this model was trained with {own}, not with {asked}: pass model.schedule, or leave it out")
    return asked


def timestep_embedding(t: Tensor, dim: int, period: float = 10_000) -> Tensor:
    """Timestep embedding: cosines, then sines, of `dim` / 2 wavelengths from 2 pi to 2 pi `period`. (b,) -> (b, dim)

    An odd `dim` ends with a 0.
    Source: Vaswani et al., "Attention Is All You Need" (2017), section 3.5, in Stable Diffusion's order.
    """
    half = torch.arange(dim // 2, device=t.device, dtype=torch.float32)
    angles = t[:, None].float() * torch.exp(-math.log(period) * half / (dim // 2))  # (b, dim / 2)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class TimeBlock(ResidualBlock):
    """The residual block conditioned on `cond.emb` (b, emb_dim), which shifts each channel between its convolutions.

    Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B.
    """

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, **norm: int | float | None):
        super().__init__(in_channels, out_channels, **norm)
        self.shift = nn.Linear(emb_dim, out_channels)

    def condition(self, h: Tensor, cond: Cond) -> Tensor:
        return h + self.shift(cond.emb)[:, :, None, None]


class Conditioned(nn.Module):
    """What every denoiser here is told besides x_t: the time, a class, a context. A base class; `embed` is the outcome.

    It has `time`, which makes emb_dim numbers of the timestep's embedding, and `classes`, an embedding, or None.
    """

    def _condition_on(
        self,
        time_dim: int,
        emb_dim: int,
        context_dim: int | None,
        num_classes: int | None,
        schedule: NoiseSchedule | None,
    ) -> None:
        """To be called in the constructor, once."""
        self.schedule, self.context_dim, self.num_classes = schedule, context_dim, num_classes
        self.null_class = None if num_classes is None else -1
        self.time = nn.Sequential(nn.Linear(time_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        # One row more than there are classes: the last is for "no label".
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, emb_dim)

    def _check(self, x_t: Tensor, t: Tensor) -> None:
        check_images(x_t, self.in_channels, self.multiple)
        check_integers("t", t)
        if len(t) != len(x_t):
            raise ValueError(f"expected t: ({len(x_t)},), one timestep per picture, got ({len(t)},)")

    @property
    def conditions(self) -> frozenset[str]:
        """The names of all that it can be conditioned on."""
        words = () if self.context_dim is None else ("context", "mask")
        return frozenset((*words, *(() if self.num_classes is None else ("y",))))

    def embed(
        self, t: Tensor, context: Tensor | None = None, mask: Tensor | None = None, y: Tensor | None = None
    ) -> Cond:
        """The blocks' conditions. Time and class are one vector, cond.emb, ready for the blocks' linear layers."""
        b = len(t)
        emb = self.time(timestep_embedding(t, self.time[0].in_features).to(self.time[0].weight.dtype))
        if self.classes is not None:
            emb = emb + self.classes(self._labels(y, b, t.device))
        elif y is not None:
            raise ValueError("got y, but this network knows no classes: build it with num_classes=...")
        self._check_context(context, mask, b)
        return Cond(F.silu(emb), context, mask)

    def _labels(self, y, b, device):
        """Rows of the embedding: those of the classes, and the last one for "no label"."""
        if y is None:
            return torch.full((b,), self.num_classes, device=device, dtype=torch.int64)
        check_integers("y", y, self.num_classes, start=self.null_class)
        if len(y) != b:
            raise ValueError(f"expected y: ({b},), one class per picture, got ({len(y)},)")
        # On a GPU, where y was not looked at: what is no class becomes -1, which the embedding itself refuses.
        known = y.where((y >= 0) & (y < self.num_classes), -1)
        return known.where(y != self.null_class, self.num_classes)

    def _check_context(self, context, mask, b):
        if self.context_dim is None and (context is not None or mask is not None):
            raise ValueError("got a context or mask, but this network takes none: build it with context_dim=...")
        if self.context_dim is not None and context is None:
            raise ValueError(
                f"expected a context (b, n, {self.context_dim}), got None; "
                "to condition on nothing, pass the embedding of the empty prompt"
            )
        if context is not None and (context.ndim != 3 or context.shape[::2] != (b, self.context_dim)):
            raise ValueError(f"expected context: ({b}, n, {self.context_dim}), got shape {tuple(context.shape)}")
        if mask is not None and (mask.shape != context.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(
                f"expected mask: {tuple(context.shape[:2])} bool, True where context holds something, "
                f"got shape {tuple(mask.shape)} of {mask.dtype}"
            )


class Denoiser(Conditioned, UNet):
    """The U-Net of diffusion models. `m(x_t, t, context, mask, y)` -> prediction (b, out_channels, h, w)

    in_channels, out_channels, channels, blocks_per_level, skip, groups, eps: as in `UNet`. If it is to go to diffusers
        one day, choose groups and heads now, as `stable_diffusion.save` says.
    attention: where pixels attend: one bool for each level, or the numbers of the levels, 0 being full resolution.
    middle_attention: whether they do at the bottom, between its two blocks.
    heads: of all attention, or a list with those of each level; the bottom takes the last.
    context_dim: width of the context (words) that is attended to as well; None: there is none.
    num_classes: of the labels y, from 0; None: there are none. A y of `m.null_class`, -1, stands for "no label".
    projection: "conv" or "linear", as in `SpatialTransformer`.
    schedule: the noise schedule it is trained with, which also says what it predicts; `m.schedule` may be set later.
        A file keeps it, and samplers, losses and pipelines take it from there.

    Stable Diffusion 1: Denoiser(4, 4, (320, 640, 1280, 1280), 2, attention=(0, 1, 2), heads=8, context_dim=768).
    Stable Diffusion 2: the same with heads=(5, 10, 20, 20), context_dim=1024, projection="linear".

    Sources: Ho et al., "Denoising Diffusion Probabilistic Models" (2020); with context, Rombach et al. (2022).
    Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128),
        blocks_per_level: int = 1,
        attention: Sequence[bool] | Sequence[int] = (),
        heads: int | Sequence[int] = 4,
        context_dim: int | None = None,
        num_classes: int | None = None,
        *,
        middle_attention: bool = True,
        projection: str = "conv",
        skip: bool = True,
        groups: int | None = None,
        eps: float = 1e-5,
        schedule: NoiseSchedule | None = None,
    ):
        channels = tuple(channels)
        attends = _per_level(attention, len(channels))
        heads = [heads] * len(channels) if isinstance(heads, int) else list(heads)
        if len(heads) != len(channels):
            raise ValueError(f"expected heads as one number or {len(channels)}, one for each level, got {heads}")
        if channels and channels[0] % 2:
            raise ValueError(f"expected an even channels[0], for cosines and sines of the time, got {channels[0]}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"expected num_classes from 1, or None for no classes, got {num_classes}")
        emb_dim = 4 * channels[0] if channels else 0

        def attend(width, level):
            if context_dim is None:
                return SpatialAttention(width, heads[level], groups=groups, eps=eps)
            return SpatialTransformer(width, context_dim, heads[level], projection=projection, groups=groups)

        def block(in_channels, out_channels, level):
            timed = TimeBlock(in_channels, out_channels, emb_dim, groups=groups, eps=eps)
            return Chain([timed, attend(out_channels, level)]) if attends[level] else timed

        def middle(width):
            first, second = (TimeBlock(width, width, emb_dim, groups=groups, eps=eps) for _ in range(2))
            return Chain([first, attend(width, -1), second] if middle_attention else [first, second])

        super().__init__(
            in_channels,
            out_channels,
            channels,
            blocks_per_level,
            skip,
            block=block,
            middle=middle,
            groups=groups,
            eps=eps,
        )
        self.config = dict(
            in_channels=in_channels,
            out_channels=out_channels,
            channels=list(channels),
            blocks_per_level=blocks_per_level,
            attention=attends,
            heads=heads,
            context_dim=context_dim,
            num_classes=num_classes,
            middle_attention=middle_attention,
            projection=projection,
            skip=skip,
            groups=groups,
            eps=eps,
        )
        self._condition_on(channels[0], emb_dim, context_dim, num_classes, schedule)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """x_t: (b, c, h, w).  t: (b,) int64.  context: (b, n, context_dim).  y: (b,) int64; None: no label.

        mask: (b, n) bool, True where context holds something; None: everywhere.
        Raises ValueError for an input of the wrong shape or dtype, or one that this network does not take or lacks.
        """
        self._check(x_t, t)
        return super().forward(x_t, self.embed(t, context, mask, y))


def _per_level(attention, levels):
    """One bool for each level, from bools or from the numbers of levels."""
    attention = list(attention)
    bools = [isinstance(a, bool) for a in attention]
    if attention and all(bools) and len(attention) == levels:
        return attention
    if not any(bools) and all(isinstance(a, int) and 0 <= a < levels for a in attention):
        return [level in attention for level in range(levels)]
    raise ValueError(
        f"expected attention as {levels} bools, one for each level, or as numbers of levels from 0 to {levels - 1}, "
        f"got {attention}"
    )
