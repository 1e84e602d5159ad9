"""Attention: every place looks at every other (self), or at each word (cross).

The fused kernel of PyTorch does the work. It never holds the map of who looks where, so inside `attention_maps` the
same layers spell the softmax out instead, and hand the maps over.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minildm.layers import NO_CONDITION, Cond, group_norm


class Attention(nn.Module):
    """Multi-head attention of x to itself, or to a context. (b, n, dim) -> (b, n, dim)

    dim: width of x, split evenly over the heads.  context_dim: width of the context; None for self-attention.
    bias: of queries, keys and values; the output always has one.

    Source: Vaswani et al., "Attention Is All You Need" (2017). Raises ValueError when dim does not split into heads.
    """

    def __init__(self, dim: int, context_dim: int | None = None, heads: int = 8, *, bias: bool = False):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{dim} channels do not split into {heads} heads: choose heads that divide {dim}")
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_out = nn.Linear(dim, dim)
        self.maps = None  # a list while `attention_maps` listens

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """context: (b, m, context_dim).  mask: bool (b, m) or (b, n, m), True = may be looked at.

        A place that may look at nothing receives nothing: zeros, before the output projection.
        """
        context = x if context is None else context
        q, k, v = (
            rearrange(z, "b n (h d) -> b h n d", h=self.heads)
            for z in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        if mask is not None:
            mask = rearrange(mask, "b m -> b 1 1 m" if mask.ndim == 2 else "b n m -> b 1 n m")
            sees = mask.any(-1, keepdim=True)
            mask = mask | ~sees  # a softmax over nothing would be 0 / 0
        if self.maps is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (b, h, n, d)
        else:
            scores = q @ k.mT * q.shape[-1] ** -0.5  # (b, h, n, m)
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            weights = scores.softmax(-1)
            self.maps.append((weights if mask is None else weights * sees).detach())
            out = weights @ v
        if mask is not None:
            out = out * sees
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """The GEGLU feed-forward: half of a wider layer gates the other half. (b, n, dim) -> (b, n, dim)

    Source: Shazeer, "GLU Variants Improve Transformer" (2020).
    """

    def __init__(self, dim: int, expansion: int = 4):
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * expansion * dim)
        self.fc2 = nn.Linear(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.fc1(x).chunk(2, dim=-1)  # (b, n, expansion * dim) each
        return self.fc2(h * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Look at each other, look at the context, think: each normalised before and added after. (b, n, dim)

    Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (2022), appendix E.2.1.
    """

    def __init__(self, dim: int, context_dim: int, heads: int = 8):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads=heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, context_dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """context: (b, m, context_dim).  mask: bool (b, m), True where the context holds something."""
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), context, mask)
        return x + self.feed_forward(self.norm3(x))


class SpatialAttention(nn.Module):
    """Pixels look at one another, and what they see is added. (b, c, h, w) -> (b, c, h, w)

    groups, eps: of the normalisation, as in `layers.group_norm`.
    Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B.
    """

    def __init__(self, channels: int, heads: int = 1, *, groups: int | None = None, eps: float = 1e-5):
        super().__init__()
        self.norm = group_norm(channels, groups, eps)
        self.attention = Attention(channels, heads=heads, bias=True)

    def forward(self, x: Tensor, cond: Cond = NO_CONDITION) -> Tensor:
        h, w = x.shape[2:]
        seen = self.attention(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        return x + rearrange(seen, "b (h w) c -> b c h w", h=h, w=w)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels, which read `cond.context`; the outcome is added. (b, c, h, w)

    projection: how pixels go in and out, "conv" (Stable Diffusion 1) or "linear" (2); the same mathematics, but the
        weights are stored in other shapes.
    depth: how many transformer blocks.  groups: of the normalisation, as in `layers.group_norm`.
    Raises ValueError for another projection, or when there is no context.
    """

    def __init__(
        self,
        channels: int,
        context_dim: int,
        heads: int = 8,
        *,
        depth: int = 1,
        projection: str = "conv",
        groups: int | None = None,
    ):
        super().__init__()
        if projection not in ("conv", "linear"):
            raise ValueError(f'expected projection="conv" or "linear", got {projection!r}')
        self.norm = group_norm(channels, groups, eps=1e-6)  # the reference's, unlike elsewhere in its U-Net
        self.projection = projection
        project = nn.Linear if projection == "linear" else partial(nn.Conv2d, kernel_size=1)
        self.project_in = project(channels, channels)
        self.blocks = nn.ModuleList([TransformerBlock(channels, context_dim, heads) for _ in range(depth)])
        self.project_out = project(channels, channels)

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        if cond.context is None:
            raise ValueError("expected cond.context (b, n, context_dim) for the cross-attention, got None")
        h, w = x.shape[2:]
        z = self.norm(x)
        if self.projection == "linear":
            z = self.project_in(rearrange(z, "b c h w -> b (h w) c"))
        else:
            z = rearrange(self.project_in(z), "b c h w -> b (h w) c")
        for block in self.blocks:
            z = block(z, cond.context, cond.mask)
        if self.projection == "linear":
            return x + rearrange(self.project_out(z), "b (h w) c -> b c h w", h=h, w=w)
        return x + self.project_out(rearrange(z, "b (h w) c -> b c h w", h=h, w=w))


@contextmanager
def attention_maps(module: nn.Module, which: str = "") -> Iterator[dict[str, list[Tensor]]]:
    """Inside this context the attention layers of `module` also write down who looks where.

    which: keep the layers with this in their name, such as "cross_attention" or "middle"; "" keeps all.
    Yields a dictionary: name of the layer -> one map (b, heads, n, m) for each time it was called; the rows of a map
    sum to 1. What the layers compute stays the same, up to rounding, but takes the memory of the maps.

    Raises ValueError when no attention layer has such a name.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, Attention) and which in name}
    if not layers:
        names = [name for name, layer in module.named_modules() if isinstance(layer, Attention)]
        raise ValueError(f"no attention layer has {which!r} in its name; there are: {', '.join(names) or 'none'}")
    before = {name: layer.maps for name, layer in layers.items()}
    maps = {name: [] for name in layers}
    try:
        for name, layer in layers.items():
            layer.maps = maps[name]
        yield maps
    finally:
        for name, layer in layers.items():
            layer.maps = before[name]


def mean_map(maps: dict[str, list[Tensor]], size: tuple[int, int]) -> Tensor:
    """Average maps over layers, calls and heads, as pictures: for each word m, where it was looked at from.

    maps: of layers that look at the same m, as `attention_maps(model, "cross_attention")` collects them.
    size: (h, w) of the model's input.  -> (b, m, h, w)
    Raises ValueError when nothing was recorded, or when the maps differ in m.
    """
    every = [layer_map for calls in maps.values() for layer_map in calls]
    if len({layer_map.shape[::3] for layer_map in every}) != 1:
        found = sorted({tuple(layer_map.shape) for layer_map in every}) or "none"
        raise ValueError(
            f"expected maps (b, heads, n, m) that share b and m, got {found}; "
            'call the model inside `with attention_maps(model, "cross_attention") as maps:`'
        )
    total = 0
    for layer_map in every:
        shrink = (size[0] * size[1] / layer_map.shape[2]) ** 0.5
        h, w = round(size[0] / shrink), round(size[1] / shrink)
        pictures = rearrange(layer_map.mean(1), "b (h w) m -> b m h w", h=h, w=w)
        total = total + F.interpolate(pictures.float(), size=size, mode="bilinear")
    return total / len(every)
