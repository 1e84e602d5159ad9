"""CLIP's text encoder at any size: a causal transformer, in which each token sees itself and those before it.

A text encoder is any callable (ids, mask) -> (b, n, d), with ids: (b, n) int64 and mask: (b, n) bool, True where ids
hold something. So any of Hugging Face can take this one's place:

    def encode(ids, mask):
        return model(input_ids=ids, attention_mask=mask).last_hidden_state
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import Attention


def quick_gelu(x: Tensor) -> Tensor:
    """QuickGELU, x sigmoid(1.702 x): the approximation of GELU that CLIP's weights were trained with. Any shape."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class TextBlock(nn.Module):
    """A transformer block: causal attention, then a feed-forward, each normalised before and added after.

    (b, n, dim) -> (b, n, dim)

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.3.
    """

    def __init__(self, dim: int, heads: int, hidden_dim: int, activation: str, eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attention = Attention(dim, heads=heads, bias=True)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """mask: bool (1, n, n), True where a token (row) may look."""
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


class TextEncoder(nn.Module):
    """CLIP's text encoder. `m(ids, mask)` -> hidden (b, n, dim); `m.pool(hidden, ids)` -> (b, dim), one vector a text.

    vocab_size: of the tokenizer.  depth: how many blocks.  length: n is at most this.
    activation: "quick_gelu" or "gelu".  hidden_dim: inside a block; None: 4 dim.
    end: id of the end token; None: the last of the vocabulary, as in CLIP.  eps: of the normalisations.

    Stable Diffusion 1, CLIP ViT-L/14: TextEncoder(49408, 768, depth=12, heads=12).
    Stable Diffusion 2, OpenCLIP ViT-H/14: TextEncoder(49408, 1024, depth=23, heads=16, activation="gelu"). It was
    trained with 24 blocks, but what the last one but one says, normalised, proved the better context.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).
    Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        depth: int,
        heads: int,
        length: int = 77,
        *,
        activation: str = "quick_gelu",
        hidden_dim: int | None = None,
        end: int | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        hidden_dim = 4 * dim if hidden_dim is None else hidden_dim
        end = vocab_size - 1 if end is None else end
        if min(vocab_size, dim, depth, length, hidden_dim) < 1:
            raise ValueError(f"expected positive sizes, got {vocab_size=}, {dim=}, {depth=}, {length=}, {hidden_dim=}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"expected activation as one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
        if not 0 <= end < vocab_size:
            raise ValueError(f"expected end, an id, from 0 to {vocab_size - 1}, got {end}")
        self.config = dict(
            vocab_size=vocab_size,
            dim=dim,
            depth=depth,
            heads=heads,
            length=length,
            activation=activation,
            hidden_dim=hidden_dim,
            end=end,
            eps=eps,
        )
        self.dim, self.length, self.end = dim, length, end
        self.tokens = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(length, dim)
        self.blocks = nn.ModuleList([TextBlock(dim, heads, hidden_dim, activation, eps) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps)
        self._start()

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids: (b, n) int64, n at most `length`.  mask: (b, n) bool, taken as every text encoder does, but not used.

        Padding stands behind the end token and nothing looks ahead, so no word sees it. Its own places come out filled
        too: Stable Diffusion lets the picture look there as well; to keep it from that, pass it the mask.
        Raises ValueError for ids that are too long, not whole numbers, or not in the vocabulary.
        """
        self._check(ids)
        n = ids.shape[1]
        x = self.tokens(ids) + self.positions.weight[:n]  # (b, n, dim)
        back = torch.ones(1, n, n, dtype=torch.bool, device=ids.device).tril()
        for block in self.blocks:
            x = block(x, back)
        return self.norm(x)

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Pooled text: the hidden state at the first end token, which has seen all. (b, n, dim), (b, n) -> (b, dim)

        Raises ValueError for a text without an end token.
        """
        ends = ids == self.end
        if not ends.any(1).all():
            raise ValueError(f"expected an end token, id {self.end}, in each row of ids, as the tokenizer puts it")
        return hidden[torch.arange(len(ids), device=ids.device), ends.int().argmax(1)]  # the first of the largest

    def _check(self, ids):
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype != torch.int64:
            found = f"shape {tuple(ids.shape)} of {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"expected ids: (b, n) int64, as a tokenizer makes them, got {found}")
        if ids.shape[1] > self.length:
            raise ValueError(
                f"expected at most {self.length} tokens, got {ids.shape[1]}: tokenizer(texts, length={self.length})"
            )
        # On a GPU this would wait for all that is under way there.
        if ids.numel() and ids.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (bound.item() for bound in ids.aminmax())
            if low < 0 or high >= self.tokens.num_embeddings:
                allowed = f"from 0 to {self.tokens.num_embeddings - 1}"
                raise ValueError(
                    f"expected ids {allowed}, got {low} to {high}: do tokenizer and encoder belong together?"
                )

    def _start(self):
        """CLIP's random start: what is added to the stream is the smaller, the more blocks add to it."""
        dim, depth = self.dim, len(self.blocks)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)
        for block in self.blocks:
            for layer in (block.attention.to_q, block.attention.to_k, block.attention.to_v):
                nn.init.normal_(layer.weight, std=dim**-0.5)
            nn.init.normal_(block.attention.to_out.weight, std=(2 * depth * dim) ** -0.5)
            nn.init.normal_(block.fc1.weight, std=(2 * dim) ** -0.5)
            nn.init.normal_(block.fc2.weight, std=(2 * depth * dim) ** -0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
