"""DiT, the diffusion transformer: a denoiser without a U. Patches of the picture look at one another, in equal blocks.

The noisy picture is cut into patches, and each becomes a vector, as a word does in a sentence. There is no way down and
no way up; there are no skips and no convolutions. Time and class reach each block through its normalisations, which is
called adaLN-zero: a linear layer makes six vectors of them. These shift and scale what the block reads, and say how
much of its answer counts. The layer starts at zero. So at first each block lets x pass unchanged, as a zero convolution
does.
Sources: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023); with words, Chen et al., "PixArt-α"
(2024).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minildm.attention import Attention
from minildm.denoiser import Conditioned, timestep_embedding
from minildm.layers import Chain, Cond
from minildm.schedule import NoiseSchedule

TIME_DIM = 256  # of the timestep's cosines and sines


class DiTBlock(nn.Module):
    """The transformer block with adaLN-zero. (b, n, dim) -> (b, n, dim)

    Its normalisations have no weights of their own; `modulation` makes them of `cond.emb` (b, dim).
    With a context_dim it looks at `cond.context`, too; what that adds starts at zero as well.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, expansion: int = 4):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(dim, heads=heads, bias=True)
        self.cross_attention = None if context_dim is None else Attention(dim, context_dim, heads, bias=True)
        self.fc1, self.fc2 = nn.Linear(dim, expansion * dim), nn.Linear(expansion * dim, dim)
        self.modulation = nn.Linear(dim, 6 * dim)

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(cond.emb)[:, None].chunk(
            6, dim=-1
        )  # (b, 1, dim)
        x = x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1))
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, cond.context, cond.mask)
        h = modulate(self.norm2(x), shift2, scale2)
        return x + gate2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class DiT(Conditioned):
    """The diffusion transformer. `m(x_t, t, context, mask, y)` -> prediction (b, out_channels, h, w), as a `Denoiser`

    dim, depth, heads: width of the patches' vectors, number of blocks, heads of their attention.
    patch: side of a patch; h and w must be multiples of it. Half of it makes four times as many patches, and sixteen
        times as much attention.
    expansion: how many times dim the inside of a block's feed-forward is.
    context_dim, num_classes, schedule: as of a `Denoiser`.

    The paper's, on latents of 32×32 with patch=2: S has dim=384, depth=12, heads=6; B 768, 12, 12; L 1024, 24, 16;
    XL 1152, 28, 16. Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 2,
        context_dim: int | None = None,
        num_classes: int | None = None,
        *,
        expansion: int = 4,
        schedule: NoiseSchedule | None = None,
    ):
        super().__init__()
        if min(in_channels, out_channels, dim, depth, patch, expansion) < 1 or dim % 4:
            raise ValueError(
                "expected positive sizes, and dim as a multiple of 4, for cosines and sines of rows and columns; got "
                f"{in_channels=}, {out_channels=}, {dim=}, {depth=}, {patch=}, {expansion=}"
            )
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"expected num_classes from 1, or None for no classes, got {num_classes}")
        self.config = dict(
            in_channels=in_channels,
            out_channels=out_channels,
            dim=dim,
            depth=depth,
            heads=heads,
            patch=patch,
            context_dim=context_dim,
            num_classes=num_classes,
            expansion=expansion,
        )
        self.in_channels, self.out_channels, self.multiple = in_channels, out_channels, patch
        self.stem = nn.Linear(in_channels * patch**2, dim)
        self.blocks = Chain([DiTBlock(dim, heads, context_dim, expansion) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, out_channels * patch**2)
        self._condition_on(TIME_DIM, dim, context_dim, num_classes, schedule)
        self._start()

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """The arguments and errors of `Denoiser.forward`."""
        p = self.multiple
        if x_t.ndim == 4 and (x_t.shape[2] % p or x_t.shape[3] % p):
            raise ValueError(f"expected height and width divisible by {p}, the side of a patch, got {tuple(x_t.shape)}")
        self._check(x_t, t)
        cond = self.embed(t, context, mask, y)
        h = x_t.shape[2] // p
        x = self.stem(rearrange(x_t, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p))  # (b, n, dim), n patches
        x = x + positions(h, x.shape[1] // h, x.shape[2]).to(x)
        x = self.blocks(x, cond)
        shift, scale = self.modulation(cond.emb)[:, None].chunk(2, dim=-1)
        x = self.head(modulate(self.norm(x), shift, scale))
        return rearrange(x, "b (h w) (p q c) -> b c (h p) (w q)", h=h, p=p, q=p)

    def _start(self):
        """The paper's random start: what is added to x, and the head, start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for part in (self.time[0], self.time[2], *([self.classes] if self.classes is not None else [])):
            nn.init.normal_(part.weight, std=0.02)
        cross = [block.cross_attention.to_out for block in self.blocks if block.cross_attention is not None]
        for layer in (*(block.modulation for block in self.blocks), *cross, self.modulation, self.head):
            nn.init.zeros_(layer.weight)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive normalisation: scale and shift what was normalised; a scale of 0 leaves it as it is."""
    return x * (1 + scale) + shift


def positions(h: int, w: int, dim: int) -> Tensor:
    """Positions: sines and cosines of a patch's column, then of its row. -> (h w, dim), patches row by row

    Fixed, so it takes pictures of any size. Source: Vaswani et al. (2017), section 3.5, in each of two directions.
    """
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    each = [timestep_embedding(place.flatten(), dim // 2).roll(dim // 4, dims=1) for place in (column, row)]
    return torch.cat(each, dim=1)
