"""Classifier-free guidance: what a condition changes in the prediction, exaggerated.

    prediction = untold + scale * (told - untold)

Scale 1 is off, 0 leaves the condition out, and above 1 the picture follows it more closely than it was trained to.
In some papers and programs 0 is off; their scale is one less. Negative prompts are nothing else: where the condition
is left out, another one is put, and the picture moves away from that.

At one x_t, eps, x_0 and v follow from each other by straight lines, so whichever a model predicts, the guided picture
is the same.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minildm.tensors import expand

Told = dict[str, Tensor]  # what a denoiser is told besides x_t and t, by the names of its arguments


def guided(
    model: Callable[..., Tensor], scale: float, told: Told, untold: Told | None = None, rescale: float = 0.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser under guidance, as samplers take it: (x_t, t) -> prediction.

    model: a `Denoiser`, or any callable (x_t, t, **told) -> prediction.
    told: the condition: context (b, n, d), mask (b, n), y (b,), as far as the model takes them.
    untold: the same where nothing is asked for, or what is to be avoided. A y that it lacks is the model's null_class.
        Its context may be of another length: the shorter one is padded, and a mask hides the padding.
    rescale: from 0 to 1, how far the spread of the prediction goes back to that of the told one, against pictures
        that are too bright at large scales; Lin et al. (2023), section 3.4, who take 0.7. Unlike the rest, it depends
        on what the model predicts.

    Both conditions go through the model in one batch; at scale 1, or 0, only the one that counts does.
    Raises ValueError for a scale below 0, and for conditions that do not match.
    Sources: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022); the scale is that of Imagen (2022).
    """
    if not scale >= 0:
        raise ValueError(f"expected a guidance scale from 0, where 1 is off, got {scale}")
    if not 0 <= rescale <= 1:
        raise ValueError(f"expected rescale from 0 to 1, got {rescale}")
    if scale == 1:
        return lambda x_t, t: model(x_t, t, **told)
    told, untold = _complete(model, told, untold)
    if scale == 0:
        return lambda x_t, t: model(x_t, t, **untold)
    both = _one_batch(told, untold)

    def denoise(x_t, t):
        with_it, without = model(torch.cat([x_t, x_t]), torch.cat([t, t]), **both).chunk(2)
        prediction = without + scale * (with_it - without)
        if rescale:
            ratio = with_it.flatten(1).std(1) / prediction.flatten(1).std(1)
            prediction = prediction * expand(1 + rescale * (ratio - 1), prediction)
        return prediction

    return denoise


def _complete(model, told, untold):
    """Both conditions without what is None, the other with the label for none where it has no y of its own."""
    told, untold = ({name: v for name, v in (one or {}).items() if v is not None} for one in (told, untold))
    null_class = getattr(model, "null_class", None)
    if "y" in told and "y" not in untold and null_class is not None:
        untold["y"] = torch.full_like(told["y"], null_class)
    if told.keys() - {"mask"} != untold.keys() - {"mask"} or not told:
        raise ValueError(
            f"expected the same conditions told and untold, and at least one, got {sorted(told)} and {sorted(untold)}; "
            "for a model that is told nothing, guidance is 1"
        )
    return told, untold


def _one_batch(told, untold):
    """Two conditions one behind the other."""
    if "context" in told:
        n, n_other = (one["context"].shape[1] for one in (told, untold))
        if n != n_other or "mask" in told or "mask" in untold:
            told, untold = (_padded(one, max(n, n_other)) for one in (told, untold))
    return {name: torch.cat([told[name], untold[name]]) for name in told}


def _padded(told, n):
    """A condition whose context is n long; its mask hides what was added."""
    context, mask = told["context"], told.get("mask")
    more = n - context.shape[1]
    if mask is None:
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    return told | {"context": F.pad(context, (0, 0, 0, more)), "mask": F.pad(mask, (0, more))}
