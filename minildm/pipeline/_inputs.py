"""What people hand in, checked and as tensors: one thing or a list of them, pictures, masks, sizes, seeds, words."""

import difflib
import inspect
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm import images
from minildm.denoiser import Conditional
from minildm.guidance import check_interval, check_scale
from minildm.samplers.loop import check_clip, check_spacing
from minildm.tensors import check_integers, described

if TYPE_CHECKING:
    from minildm.pipeline.diffusion import LatentDiffusion

# The same for all pictures of a call.
_FOR_ALL = ("steps", "timesteps", "guidance", "sampler", "size", "strength", "negative_conditions")
_OWN = ("prompt", "negative_prompt", "seed", "x_T", "y", "image", "mask")  # for each picture, as values or lists
_CONTRACT = (
    "in_channels",
    "out_channels",
    "multiple",
    "schedule",
    "conditions",
    "context_dim",
    "num_classes",
    "null_class",
)


def is_list(value: object) -> bool:
    """Whether an argument is one thing for each picture; a batch of one is not: it holds for all."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim in (1, 4) and len(value) > 1
    return isinstance(value, Sequence) and not isinstance(value, str)


def count(**given: object) -> int | None:
    """How many pictures the lists among the arguments ask for; None where there is no list, so that it is one."""
    lengths = {}
    for name, value in given.items():
        if name in ("context", "negative_context"):
            embedded = value[0] if isinstance(value, tuple) else value
            many = isinstance(embedded, Tensor) and embedded.ndim == 3 and len(embedded) > 1
            lengths |= {name: len(embedded)} if many else {}
        elif name in _OWN:
            lengths |= {name: len(value)} if is_list(value) else {}
        elif name not in _FOR_ALL and isinstance(value, Tensor) and value.ndim and len(value) > 1:
            lengths[name] = len(value)  # a condition of the denoiser's own
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = ", ".join(f"{n} for {name}" for name, n in lengths.items())
        raise ValueError(f"expected lists of one length, one entry for each picture, got {found}")
    return next(iter(lengths.values()), None)


def each(value: object, n: int) -> list:
    """One entry for each of n pictures."""
    return list(value) if is_list(value) else [value] * n


def pictures(image: images.Images, n: int | None, channels: int) -> Tensor:
    """Pictures as `images` reads them, one or a list -> (n, c, h, w) float32 in [0, 1]; n None: as many as there are"""
    image = images.to_unit(image, channels)
    n = len(image) if n is None else n
    if len(image) not in (1, n):
        raise ValueError(f"expected one image, or {n} of them, got {len(image)}")
    return image.expand(n, *image.shape[1:])


def regions(mask: images.Images, n: int, size: tuple[int, int]) -> Tensor:
    """Where to paint anew, white or True or 1: masks as `images` reads them -> (n, 1, h, w) of 0 and 1"""
    mask = images.to_masks(mask)
    if tuple(mask.shape[2:]) != tuple(size) or len(mask) not in (1, n):
        raise ValueError(
            f"expected a mask as large as the picture, {size[0]}×{size[1]}, one or {n} of them, "
            f"got {len(mask)} of {mask.shape[2]}×{mask.shape[3]}"
        )
    return mask.expand(n, 1, *size)


def at_latents(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask as large as the latents: of each square of pixels the first, as Stable Diffusion was trained with.

    Where that would lose a part of the mask, since nothing of it is kept near by, each square counts that it touches.
    """
    first, touched = F.interpolate(mask, size=size, mode="nearest"), F.adaptive_max_pool2d(mask, size)
    near = F.max_pool2d(first, 3, stride=1, padding=1)
    return torch.maximum(first, touched * (1 - near))


def side_lengths(size: int | Sequence[int], multiple: int) -> tuple[int, int]:
    """Height and width of a picture, once it is known that they fit the networks."""
    sides = (size, size) if hasattr(size, "__index__") and not isinstance(size, bool) else size
    try:
        h, w = (operator.index(side) for side in sides)
    except (TypeError, ValueError):
        raise ValueError(f"expected a size as one whole number or as height and width, got {size!r}") from None
    if min(h, w) < 1 or h % multiple or w % multiple:
        fit = [max(1, round(side / multiple)) * multiple for side in (h, w)]
        raise ValueError(
            f"expected a height and width divisible by {multiple}, as the networks halve them, got {h}×{w}: "
            f"ask for {fit[0]}×{fit[1]}, or resize the picture to that"
        )
    return h, w


def generators(seed: int | Sequence[int] | None, n: int) -> list[torch.Generator] | None:
    """A source of noise for each picture, on the CPU, so that a seed gives the same picture on every device.

    One seed stands for itself and those that follow it, so that no two pictures are the same.
    """
    if seed is None:
        return None
    seeds = [_whole("seed", one) for one in (seed if is_list(seed) else [seed])]
    seeds = seeds if is_list(seed) else [seeds[0] + i for i in range(n)]
    return [torch.Generator("cpu").manual_seed(one) for one in seeds]


def starting_noise(
    x_T: Tensor | None, n: int, pipe: "LatentDiffusion", size: object, sources: list[torch.Generator] | None
) -> Tensor:
    """The noise that a pipeline starts from, (n, c, h, w): that which was handed in, for pictures of this size; or new.

    New noise is standard normal, each picture's from its own source, or from torch's global stream.
    """
    c, f = pipe.unet.out_channels, pipe.multiple // pipe.unet.multiple
    if x_T is None:
        h, w = side_lengths(pipe.size if size is None else size, pipe.multiple)
        shape, how = (c, h // f, w // f), dict(dtype=torch.float32, device="cpu")
        if sources is None:
            return torch.randn((n, *shape), **how)
        return torch.stack([torch.randn(shape, generator=source, **how) for source in sources])
    if not isinstance(x_T, Tensor) or x_T.ndim != 4 or x_T.shape[1] != c or len(x_T) not in (1, n):
        found = described(x_T)
        raise ValueError(f"expected x_T: ({n}, {c}, h, w), got shape {found}")
    h, w = side_lengths([f * side for side in x_T.shape[2:]], pipe.multiple)
    if size is not None and side_lengths(size, pipe.multiple) != (h, w):
        raise ValueError(f"x_T of shape {tuple(x_T.shape)} is noise for pictures of {h}×{w}, not of {size}")
    return x_T.expand(n, *x_T.shape[1:]).float()


def classes(given: object, n: int, labels: Sequence[str] | None, unet: Conditional) -> Tensor:
    """The class of each picture, by number or by name, as (n,) int64; None is the one that stands for no label."""
    found = []
    for one in each(given, n):
        if isinstance(one, str):
            if one not in (labels or ()):
                close = difflib.get_close_matches(one, labels or (), n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(labels or ()) or 'no names'}"
                raise ValueError(f"this model knows no class {one!r}; {hint}")
            one = labels.index(one)
        found.append(unet.null_class if one is None else _whole("y", one))
    y = torch.tensor(found, dtype=torch.int64, device="cpu")
    asked = y[y != unet.null_class] if unet.null_class < 0 else y[[value is not None for value in each(given, n)]]
    check_integers("y", asked, unet.num_classes)
    return y


def embeddings(context: object, n: int, width: int | None, device: torch.device, dtype: torch.dtype) -> dict:
    """A context made elsewhere, alone or with its mask, for n pictures: {"context": (n, m, d)} and perhaps "mask"."""
    context, mask = context if isinstance(context, tuple) else (context, None)
    if width is None:
        raise ValueError("got a context, but this model takes none")
    if not isinstance(context, Tensor) or context.ndim != 3 or context.shape[2] != width or len(context) not in (1, n):
        found = described(context)
        raise ValueError(f"expected a context (b, m, {width}) of one picture or {n}, got {found}")
    if mask is not None and (
        not isinstance(mask, Tensor) or mask.shape != context.shape[:2] or mask.dtype != torch.bool
    ):
        found = f"{tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"expected the context's mask as bool {tuple(context.shape[:2])}, True for words, got {found}")
    found = {"context": context.to(device, dtype).expand(n, -1, -1)}
    return found if mask is None else found | {"mask": mask.to(device).expand(n, -1)}


def conditions(given: Mapping[str, Tensor], n: int, known: Iterable[str], call: Callable) -> dict[str, Tensor]:
    """Further conditions (n, ...), known to be the denoiser's.  call: whose arguments a misspelt name may mean."""
    own = [name for name in known if name not in ("context", "mask", "y")]
    for name, value in given.items():
        if name not in own:
            close = difflib.get_close_matches(name, [*own, *inspect.signature(call).parameters], n=1)
            hint = f"did you mean {close[0]}?" if close else f"besides the rest it takes {', '.join(own) or 'nothing'}"
            raise ValueError(f"there is no argument {name!r}, and this denoiser takes no such condition; {hint}")
        if value is None:
            continue
        if not isinstance(value, Tensor) or not value.ndim or len(value) not in (1, n):
            found = described(value)
            hint = "; minildm.images makes tensors of pictures" if not isinstance(value, Tensor) else ""
            raise ValueError(f"expected {name} as a tensor (b, ...) of one picture or {n}, got {found}{hint}")
    return {name: value.expand(n, *value.shape[1:]) for name, value in given.items() if value is not None}


def check_denoiser(unet: Conditional, call: Callable) -> None:
    """Raise ValueError for what is no denoiser as `denoiser.Conditional` describes it, or hides arguments of `call`."""
    if isinstance(unet, str):
        raise ValueError(f"expected a denoiser, got {unet!r}: LatentDiffusion.from_pretrained loads pipelines by name")
    if missing := [name for name in _CONTRACT if not hasattr(unet, name)]:
        raise ValueError(
            f"expected a denoiser, such as a Denoiser, with all that minildm.denoiser.Conditional lists; "
            f"{type(unet).__name__} lacks {', '.join(missing)}"
        )
    if hidden := sorted((unet.conditions - {"context", "mask", "y"}) & inspect.signature(call).parameters.keys()):
        raise ValueError(
            f"this denoiser's condition {hidden[0]!r} has the name of an argument of the pipeline: rename it"
        )


def check_settings(guidance: object, interval: object, clip: object, spacing: object, offset: object) -> None:
    """Raise ValueError for settings of a pipeline that no call could use."""
    check_scale(guidance)
    check_interval(interval)
    check_clip(clip)
    check_spacing(spacing, offset)


def class_names(labels: Sequence[str] | None, unet: Conditional) -> list[str] | None:
    """The names of the classes, one for each that the denoiser knows."""
    if labels is None:
        return None
    if isinstance(labels, str):
        raise ValueError(f"expected labels as a list of names, got the text {labels!r}")
    labels, n = list(labels), unet.num_classes
    if n is None or len(labels) != n or len(set(labels)) != len(labels):
        known = "knows no classes" if n is None else f"knows {n}"
        raise ValueError(f"expected a different name for each class of the U-Net, which {known}; got {labels}")
    return labels


def check_finite(x: Tensor, source: str, channels: int) -> None:
    """Raise ValueError unless x is (b, channels, h, w) of finite numbers, before others become black pixels."""
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != channels:
        found = described(x)
        raise ValueError(f"expected (b, {channels}, h, w) from {source}, such as step.x_t, got {found}")
    if not x.isfinite().all():
        raise ValueError(
            f"{source} gave NaN or infinity: its weights are damaged, or its numbers too large for {x.dtype} "
            "(pipe.to(torch.float32) computes in full precision)"
        )


def words(text: str) -> list[str]:
    """The words of a text, in lower case, and each Chinese character or pictograph as one."""
    return re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+|[\u2190-\u2bff\U0001f000-\U0001faff]", text.lower())


def vocabulary(texts: str | Iterable[str] | None) -> frozenset[str] | None:
    """All words of some texts, or of one; None where they are not known."""
    texts = [texts] if isinstance(texts, str) else texts
    return None if texts is None else frozenset(word for text in texts for word in words(text))


def warn_of_unknown(texts: Iterable[str], known: frozenset[str]) -> None:
    """Name the words of prompts that training never saw."""
    unknown = [word for word in dict.fromkeys(w for text in texts for w in words(text)) if word not in known]
    if unknown:
        named = ", ".join(map(repr, unknown))
        warnings.warn(f"this model never saw {named} in training, and cannot know what it means", stacklevel=2)


def _whole(name: str, value: object) -> int:
    try:
        return operator.index(value.item() if isinstance(value, np.ndarray | Tensor) and value.ndim == 0 else value)
    except TypeError:
        raise ValueError(f"expected {name} as a whole number or a list of them, got {value!r}") from None
