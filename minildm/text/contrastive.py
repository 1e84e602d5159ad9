"""Contrastive training (CLIP): of all pictures in a batch, find the one that a caption belongs to, and the reverse.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minildm.attention import Attention
from minildm.layers import Chain, Downsample, ResidualBlock, conv3x3, group_norm
from minildm.tensors import check_images
from minildm.text.encoder import TextEncoder


def contrastive_loss(
    text_features: Tensor, image_features: Tensor, log_scale: Tensor, meaning: Tensor | None = None
) -> Tensor:
    """Contrastive loss: cross-entropy of finding each caption's picture and each picture's caption, averaged. -> scalar

    text_features, image_features: (b, d), of any length; caption i belongs to picture i.
    log_scale: scalar; cosines times exp(log_scale), at most 100, are the logits.
    meaning: (b,) int64, equal where captions say the same; None: no two do. Caption i also fits the picture of a
        caption j that says the same, so that would be no wrong answer: such pairs are left out of the choice.
        `ids.unique(dim=0, return_inverse=True)[1]` tells equal captions apart from different ones.

    With b wholly unlike pairs, guessing costs log(b). Raises ValueError for shapes that do not fit together.
    """
    b = len(text_features)
    if text_features.ndim != 2 or text_features.shape != image_features.shape:
        found = f"{tuple(text_features.shape)} and {tuple(image_features.shape)}"
        raise ValueError(f"expected text and image features of one shape (b, d), got {found}")
    if meaning is not None and meaning.shape != (b,):
        raise ValueError(f"expected meaning: ({b},), one label per caption, got shape {tuple(meaning.shape)}")
    text, image = (F.normalize(features.float(), dim=1) for features in (text_features, image_features))
    logits = log_scale.float().clamp(max=math.log(100)).exp() * text @ image.T  # (b captions, b pictures)
    own = torch.arange(b, device=logits.device)
    if meaning is not None:
        also = (meaning[:, None] == meaning) & (own[:, None] != own)
        logits = logits.masked_fill(also, -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class ImageEncoder(nn.Module):
    """CLIP's image encoder: the U's way down, then attention pooling. (b, in_channels, size, size) -> (b, dim)

    channels: width of each level, from full resolution down, as in `UNet`.
    The mean over all places looks at each of them, as in CLIP's ResNets: each place has its embedding, so that it
    matters where something stands. Raises ValueError for pictures of another size.
    """

    def __init__(
        self, dim: int, size: int = 64, channels: Sequence[int] = (32, 64, 128), heads: int = 4, in_channels: int = 3
    ):
        super().__init__()
        channels = tuple(channels)
        self.in_channels, self.size = in_channels, size
        multiple = 2 ** (len(channels) - 1)
        if size % multiple:
            raise ValueError(f"expected a size that can be halved {len(channels) - 1} times, got {size}")
        self.stem = conv3x3(in_channels, channels[0])
        levels = [
            [ResidualBlock(before, after), Downsample(after)] for before, after in pairwise(channels[:1] + channels)
        ]
        self.down = Chain(sum(levels, [])[:-1])
        width = channels[-1]
        self.norm = group_norm(width)
        self.places = nn.Parameter(torch.randn(1 + (size // multiple) ** 2, width) * width**-0.5)
        self.attention = Attention(width, heads=heads, bias=True)
        self.project = nn.Linear(width, dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: (b, in_channels, size, size) in [-1, 1]. -> (b, dim)"""
        check_images(images, self.in_channels)
        if images.shape[2:] != (self.size, self.size):
            h, w = images.shape[2:]
            raise ValueError(f"expected pictures of {self.size}×{self.size} pixels, got {h}×{w}: resize them")
        h = F.silu(self.norm(self.down(self.stem(images))))
        h = rearrange(h, "b c h w -> b (h w) c")
        h = torch.cat([h.mean(1, keepdim=True), h], dim=1) + self.places  # (b, 1 + h w, c)
        return self.project(self.attention(h[:, :1], h)[:, 0])


class CLIP(nn.Module):
    """CLIP: a text and an image encoder whose features are compared. `m(ids, mask, images)` -> for `contrastive_loss`.

    image_encoder: any module, images -> (b, dim).  dim: of the features that are compared.
    The text's pooled vector is projected to dim numbers; the scale of the logits starts at 1 / 0.07, as in CLIP. After
    training, `m.text_encoder` is what a diffusion model needs.
    """

    def __init__(self, text_encoder: TextEncoder, image_encoder: nn.Module, dim: int):
        super().__init__()
        self.text_encoder, self.image_encoder = text_encoder, image_encoder
        self.project = nn.Linear(text_encoder.dim, dim, bias=False)
        nn.init.normal_(self.project.weight, std=text_encoder.dim**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, ids: Tensor, mask: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> text features (b, dim), image features (b, dim), log_scale ()"""
        pooled = self.text_encoder.pool(self.text_encoder(ids, mask), ids)
        return self.project(pooled), self.image_encoder(images), self.log_scale
