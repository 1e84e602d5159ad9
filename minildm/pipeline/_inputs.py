"""What people hand in, checked and as tensors: one thing or a list of them, pictures, masks, sizes, seeds, words."""

import operator
import re
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minildm.images import to_unit
from minildm.schedule import check_integers


def is_list(value) -> bool:
    """Whether an argument is one thing for each picture; a batch of one is not: it holds for all."""
    if isinstance(value, Tensor):
        return value.ndim in (1, 4) and len(value) > 1
    return isinstance(value, Sequence) and not isinstance(value, str)


def count(**given) -> int | None:
    """How many pictures the lists among the arguments ask for; None where there is no list, so that it is one."""
    lengths = {name: len(value) for name, value in given.items() if is_list(value)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = ", ".join(f"{n} for {name}" for name, n in lengths.items())
        raise ValueError(f"expected lists of one length, one entry for each picture, got {found}")
    return next(iter(lengths.values()), None)


def each(value, n: int) -> list:
    """One entry for each of n pictures."""
    return list(value) if is_list(value) else [value] * n


def pictures(image, n: int | None, channels: int) -> Tensor:
    """A PIL picture, a list of them or a tensor (c, h, w) or (b, c, h, w) in [0, 1] -> (n, c, h, w); n None: b"""
    if isinstance(image, Tensor):
        image = image[None] if image.ndim == 3 else image
    elif not is_list(image):
        image = [image]
    image = to_unit(image, channels)
    return image.expand(len(image) if n is None else n, *image.shape[1:]).float()


def regions(mask, n: int, size: tuple[int, int]) -> Tensor:
    """Where to paint anew: PIL pictures (white) or a tensor (h, w) or (b, 1, h, w) -> (n, 1, h, w) of 0 and 1"""
    if isinstance(mask, Tensor):
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    else:
        arrays = [np.asarray(one.convert("L"), np.float32) / 255 for one in (mask if is_list(mask) else [mask])]
        mask = torch.stack([torch.from_numpy(array) for array in arrays])[:, None]
    if mask.shape[2:] != size or len(mask) not in (1, n):
        raise ValueError(
            f"expected a mask as large as the picture, {size[0]}×{size[1]}, one or {n} of them, "
            f"got {len(mask)} of {mask.shape[2]}×{mask.shape[3]}"
        )
    return mask.float().ge(0.5).float().expand(n, 1, *size)


def at_latents(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask as large as the latents: of each square of pixels the first, as Stable Diffusion was trained with."""
    return F.interpolate(mask, size=size, mode="nearest")


def side_lengths(size: int | Sequence[int], multiple: int) -> tuple[int, int]:
    """Height and width of a picture, once it is known that they fit the networks."""
    h, w = (size, size) if isinstance(size, int) else size
    if min(h, w) < 1 or h % multiple or w % multiple:
        fit = [max(1, round(side / multiple)) * multiple for side in (h, w)]
        raise ValueError(
            f"expected a height and width divisible by {multiple}, as autoencoder and U-Net halve them, got {h}×{w}: "
            f"ask for {fit[0]}×{fit[1]}, or resize the picture to that"
        )
    return h, w


def generators(seed: int | Sequence[int] | None, n: int) -> list[torch.Generator] | None:
    """A source of noise for each picture, on the CPU, so that a seed gives the same picture on every device.

    One seed stands for itself and those that follow it, so that no two pictures are the same.
    """
    if seed is None:
        return None
    seeds = list(seed) if is_list(seed) else [operator.index(seed) + i for i in range(n)]
    return [torch.Generator().manual_seed(operator.index(one)) for one in seeds]


def noise(shape: tuple[int, ...], sources: list[torch.Generator] | None) -> Tensor:
    """Standard normal noise (n, c, h, w), each picture's from its own source, or from torch's global stream."""
    if sources is None:
        return torch.randn(shape)
    return torch.stack([torch.randn(shape[1:], generator=source) for source in sources])


def labels(y, n: int, null_class: int) -> Tensor:
    """The class of each picture, (n,) int64; None is the one that stands for no label."""
    y = torch.tensor([null_class if one is None else operator.index(one) for one in each(y, n)])
    check_integers("y", y, null_class + 1)
    return y


def words(text: str) -> list[str]:
    """The words of a text, in lower case, and each Chinese character as one."""
    return re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", text.lower())


def warn_of_unknown(texts: Iterable[str], known: frozenset[str]) -> None:
    """Name the words of prompts that training never saw."""
    unknown = [word for word in dict.fromkeys(w for text in texts for w in words(text)) if word not in known]
    if unknown:
        named = ", ".join(map(repr, unknown))
        warnings.warn(f"this model never saw {named} in training, and cannot know what it means", stacklevel=2)
