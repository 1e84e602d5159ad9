"""Classifier-free guidance: what a condition changes in the prediction, exaggerated.

    prediction = unconditional + scale * (conditional - unconditional)

Scale 1 is off, 0 leaves the condition out, and above 1 the picture follows it more closely than it was trained to.
In some papers and programs 0 is off; their scale is one less. Negative prompts are nothing else: where the condition
is left out, another one is put, and the picture moves away from that.

At one x_t, eps, x_0, v and flow follow from each other by straight lines, so whichever a model predicts, the guided
picture is the same.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minildm.tensors import check_number, expand

Conditions = dict[str, Tensor | None]  # by the names of the denoiser's arguments


def guided(
    model: Callable[..., Tensor],
    scale: float,
    conditional: Conditions,
    unconditional: Conditions | None = None,
    rescale: float = 0.0,
    interval: Sequence[float] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser under guidance, as samplers take it: (x_t, t) -> prediction; it carries the model's schedule.

    model: a `Denoiser`, or any callable (x_t, t, **conditions) -> prediction.
    conditional: the conditions by name: context (b, n, d), mask (b, n), y (b,), whatever the model takes.
    unconditional: the same where nothing is asked for, or what is to be avoided. A context must be given; a y that it
        lacks is the model's null_class, and anything else that it lacks is the same in both. Its context may be of
        another length: the shorter one is padded, and a mask hides the padding.
    rescale: from 0 to 1, how far the spread of the prediction goes back to that of the conditional one, against
        pictures that are too bright at large scales; Lin et al. (2023), section 3.4, who take 0.7. Unlike the rest, it
        depends on what the model predicts.
    interval: the lowest and the highest timestep at which to guide; at others the scale is 1. None: at all.

    Both go through the model in one batch; at scale 1, or 0, only the one that counts does.
    Raises ValueError for a scale below 0 or without bounds, for an interval without a timestep in it, and for
    conditions that do not match.
    Sources: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022); the scale is that of Imagen (2022).
    Kynkäänniemi et al., "Applying Guidance in a Limited Interval" (2024).
    """
    check_scale(scale)
    check_number(rescale, lambda v: 0 <= v <= 1, "rescale from 0 to 1")
    check_interval(interval)
    conditional = {name: value for name, value in conditional.items() if value is not None}
    if scale != 1:
        unconditional = _completed(model, conditional, unconditional)
    if scale in (0, 1):
        conditions = conditional if scale == 1 else unconditional

        def denoise(x_t, t):
            return model(x_t, t, **conditions)

    else:
        both = _one_batch(conditional, unconditional)

        def denoise(x_t, t):
            with_it, without = model(torch.cat([x_t, x_t]), torch.cat([t, t]), **both).chunk(2)
            prediction = without + scale * (with_it - without)
            return _rescaled(prediction, with_it, rescale) if rescale else prediction

    if interval is not None and scale != 1:
        denoise = _within(interval, denoise, lambda x_t, t: model(x_t, t, **conditional))
    denoise.schedule = getattr(model, "schedule", None)
    return denoise


def check_scale(scale: float) -> None:
    """Raise ValueError for a guidance scale below 0 or without bounds."""
    check_number(scale, lambda v: 0 <= v < math.inf, "a finite guidance scale from 0, where 1 is off")


def check_interval(interval: Sequence[float] | None) -> None:
    """Raise ValueError unless it is None or two timesteps in order."""
    if interval is None:
        return
    rule = "guidance's interval as its lowest and its highest timestep, or None"
    if not isinstance(interval, Sequence) or len(interval) != 2:
        raise ValueError(f"expected {rule}, got {interval!r}")
    low, high = interval
    check_number(low, math.isfinite, rule)
    check_number(high, lambda v: low <= v < math.inf, rule)


def _within(interval, inside, outside):
    """One denoiser at the timesteps of an interval, another at the rest; only what is needed is computed."""
    low, high = interval

    def denoise(x_t, t):
        here = (low <= t) & (t <= high)
        if here.all():
            return inside(x_t, t)
        if not here.any():
            return outside(x_t, t)
        return torch.where(expand(here, x_t), inside(x_t, t), outside(x_t, t))

    return denoise


def _completed(model, conditional, unconditional):
    """The unconditional conditions, with what they lack: no label, or the same as the conditional ones."""
    given = {name: value for name, value in (unconditional or {}).items() if value is not None}
    null_class = getattr(model, "null_class", None)
    filled = dict(conditional) | given
    if "y" in conditional and "y" not in given and null_class is not None:
        filled["y"] = torch.full_like(conditional["y"], null_class)
    if "mask" in conditional and "mask" not in given and "context" in given:
        del filled["mask"]  # it is the other context's
    asked = [name for name in ("context", "y") if name in conditional and name not in given]
    if not conditional or given.keys() - conditional.keys() - {"mask"} or "context" in asked:
        raise ValueError(
            "expected the same conditions, conditional and unconditional, and at least one, got "
            f"{sorted(conditional)} and {sorted(given)}; for a model without conditions, guidance is 1"
        )
    if "y" in asked and null_class is None:
        raise ValueError("expected y among the unconditional conditions too, as this model has no null_class")
    if not given and not asked:
        raise ValueError(
            f"expected {' or '.join(sorted(conditional))} among the unconditional conditions too: guidance exaggerates "
            "a difference, and so far there is none; or guidance=1"
        )
    return filled


def _one_batch(conditional, unconditional):
    """Two sets of conditions one behind the other."""
    if "context" in conditional:
        n, n_other = (one["context"].shape[1] for one in (conditional, unconditional))
        if n != n_other or "mask" in conditional or "mask" in unconditional:
            conditional, unconditional = (_padded(one, max(n, n_other)) for one in (conditional, unconditional))
    return {name: torch.cat([conditional[name], unconditional[name]]) for name in conditional}


def _padded(conditions, n):
    """Conditions whose context is n long; its mask hides what was added."""
    context, mask = conditions["context"], conditions.get("mask")
    more = n - context.shape[1]
    if mask is None:
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    return conditions | {"context": F.pad(context, (0, 0, 0, more)), "mask": F.pad(mask, (0, more))}


def _rescaled(prediction, conditional, share):
    """The prediction with its spread gone back, by this share, to that of the conditional one; in float32 at least."""
    precise = torch.promote_types(prediction.dtype, torch.float32)
    wide, wanted = (x.to(precise).flatten(1).std(1) for x in (prediction, conditional))
    ratio = torch.where(wide > 0, wanted / wide, 1.0)  # what is the same everywhere has no spread to restore
    return (prediction * expand(1 + share * (ratio - 1), prediction)).to(prediction.dtype)
