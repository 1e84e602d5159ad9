"""Checks of lesson 05: normalisation and attention."""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ._check import Function, check


def _on_tensors(function: Function) -> Function:
    """Hand it tensors where the case holds arrays."""
    return lambda *case: function(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in case))


def group_norm(answer: Function) -> None:
    """Exercise 2: `answer(x, groups, eps)`, x: (b, c, h, w) -> (b, c, h, w), each group of mean 0 and variance 1."""
    draw = torch.Generator().manual_seed(5)
    shapes = [((2, 4, 1, 2), 2, 0.5), ((3, 6, 2, 3), 2, 1e-5), ((1, 6, 3, 2), 3, 0.1), ((4, 8, 3, 5), 4, 0.01)]
    cases = []
    for (b, *rest), groups, eps in shapes:
        x = torch.randn(b, *rest, generator=draw, dtype=torch.float64)
        size = torch.rand(b, rest[0], 1, 1, generator=draw, dtype=torch.float64) + 0.5
        shift = torch.randn(b, 1, 1, 1, generator=draw, dtype=torch.float64)
        cases.append(((size * x + shift).numpy(), groups, eps))

    def norm(pattern="b (g k) h w -> b g (k h w)", correction=0, root=lambda variance, eps: (variance + eps).sqrt()):
        def apply(x, groups, eps):
            b, c, h, w = x.shape
            sizes = dict(g=groups) if "g" in pattern else {}
            z = rearrange(x, pattern, **sizes)
            variance, mean = torch.var_mean(z, dim=-1, correction=correction, keepdim=True)
            z = (z - mean) / root(variance, eps)
            left, right = pattern.split(" -> ")
            sizes = dict(b=b, c=c, g=groups, k=c // groups, h=h, w=w)
            return rearrange(z, f"{right} -> {left}", **{name: n for name, n in sizes.items() if name in left})

        return _on_tensors(apply)

    mistakes = {
        "the mean and variance run over the batch, too; each picture must be normalised alone": norm(
            "b (g k) h w -> g (b k h w)"
        ),
        "this normalises each channel over the batch: that is BatchNorm": norm("b c h w -> c (b h w)"),
        "this normalises each channel alone (InstanceNorm); the channels of a group share a mean": norm(
            "b c h w -> b c (h w)"
        ),
        "this normalises all channels together (LayerNorm); split them into groups": norm("b c h w -> b (c h w)"),
        "a group is made of neighbouring channels, not of every g-th one": norm("b (k g) h w -> b g (k h w)"),
        "each pixel is normalised on its own; the mean of a group runs over its pixels, too": norm(
            "b (g k) h w -> b g h w k"
        ),
        "the variance is divided by n - 1; normalisation divides by n (correction=0)": norm(correction=1),
        "eps is missing below the root": norm(root=lambda variance, eps: variance.sqrt()),
        "eps belongs below the root, to the variance, not to the standard deviation": norm(
            root=lambda variance, eps: variance.sqrt() + eps
        ),
        "divided by the variance: a root is missing": norm(root=lambda variance, eps: variance + eps),
    }
    check("group_norm", _on_tensors(answer), norm(), cases, mistakes)


def attention(answer: Function) -> None:
    """Exercise 3: `answer(q, k, v, heads)`, q: (b, n, heads * d), k and v: (b, m, heads * d) -> like q."""
    draw = torch.Generator().manual_seed(6)
    shapes = [(1, 2, 3, 1, 2), (2, 3, 4, 2, 3), (2, 5, 2, 3, 4), (3, 4, 6, 4, 5)]  # b, n, m, heads, d
    cases = []
    for b, n, m, heads, d in shapes:
        q, k, v = (torch.randn(b, length, heads * d, generator=draw, dtype=torch.float64) for length in (n, m, m))
        cases.append(((2 * q).numpy(), k.numpy(), v.numpy(), heads))

    def multi_head(scale=lambda d, heads: d**-0.5, axis=-1, split="b n (h d) -> b h n d", merge="b h n d -> b n (h d)"):
        def apply(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
            q, k, v = (rearrange(z, split, h=heads) for z in (q, k, v))
            weights = (q @ k.mT * scale(q.shape[-1], heads)).softmax(axis)
            return rearrange(weights @ v, merge)

        return _on_tensors(apply)

    mistakes = {
        "the scores are not divided by the root of the head's width": multi_head(scale=lambda d, heads: 1),
        "divided by the width itself: take its root": multi_head(scale=lambda d, heads: 1 / d),
        "multiplied by the root of the width instead of divided": multi_head(scale=lambda d, heads: d**0.5),
        "the scale takes the width of all heads together; each head compares only its own d numbers": multi_head(
            scale=lambda d, heads: (d * heads) ** -0.5
        ),
        "the softmax runs over those who ask; each place must share out its own attention (the last axis)": multi_head(
            axis=-2
        ),
        "one head over all channels: split them into heads first": lambda q, k, v, heads: multi_head()(q, k, v, 1),
        "a head is made of neighbouring channels: split them as (h d), not as (d h)": multi_head(
            split="b n (d h) -> b h n d", merge="b h n d -> b n (d h)"
        ),
        "split as (h d), but merged as (d h)": multi_head(merge="b h n d -> b n (d h)"),
        "the scores are used without a softmax": _on_tensors(_without_softmax),
    }
    check("attention", _on_tensors(answer), multi_head(), cases, mistakes)


def attention_flops(answer: Function) -> None:
    """Exercise 4: `answer(n, dim)`, the FLOPs of one self-attention layer on n places."""

    def count(linear=4, products=2, each=2, square=True):
        return lambda n, dim: each * (linear * n * dim**2 + products * n ** (2 if square else 1) * dim)

    cases = [(4, 8), (64, 128), (100, 32), (1024, 16), (4096, 320)]
    mistakes = {
        "a multiplication with its addition counts as two": count(each=1),
        "the linear layers are missing: queries, keys, values and output": count(linear=0),
        "the output layer is missing": count(linear=3),
        "only one of the two products is counted: scores, and weights times values": count(products=1),
        "the scores are missing: n places compare themselves with n places": count(products=0),
        "each place is compared with every other, so the products grow with the square of n": count(square=False),
    }
    check("attention_flops", answer, count(), cases, mistakes, tolerance=0)


def _without_softmax(q, k, v, heads):
    q, k, v = (rearrange(z, "b n (h d) -> b h n d", h=heads) for z in (q, k, v))
    return rearrange(q @ k.mT * q.shape[-1] ** -0.5 @ v, "b h n d -> b n (h d)")
