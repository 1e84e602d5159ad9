"""Checks of what learners write of a network: the U's forward pass, attention, the time, a low-rank addition."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import Attention
from minildm.denoiser import timestep_embedding
from minildm.tensors import seeded

from ._check import Exercise, exercise


class _U(nn.Module):
    """The parts of the 2015 network, padded, as lesson 01 names them; lists go from the top of the U to its bottom."""

    def __init__(self, in_channels, out_channels, channels):
        super().__init__()
        pairs = list(zip(channels, channels[1:], strict=False))
        self.first = self._block(in_channels, channels[0])
        self.down = nn.ModuleList(self._block(a, b) for a, b in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(self._block(2 * a, a) for a, _ in pairs)
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    @staticmethod
    def _block(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU())


@exercise
def unet_forward() -> Exercise:
    """`answer(net, x)`: the forward pass of the U-Net of 2015, x (b, c, h, w) -> (b, classes, h, w).

    net: a padded network with .first, a block; .down, .grow and .up, lists from the top of the U to its bottom;
    and .head. Max pooling by 2 stands before each block of .down; each of .grow doubles the size; each of .up takes
    torch.cat([skip, grown], dim=1).
    """
    cases = []
    for k, (b, c, h, w, channels) in enumerate(
        [(1, 2, 4, 6, (3, 5)), (2, 1, 8, 12, (2, 3, 4)), (3, 2, 16, 8, (2, 4, 3, 5))]
    ):
        with seeded(k):
            cases.append((_U(c, 4, channels).double().requires_grad_(False), torch.randn(b, c, h, w).double()))

    def forward(join=lambda skip, x: [skip, x], pool=F.max_pool2d, end=lambda y: y, bottom=lambda x: x, head=True):
        def apply(net, x):
            skips = [net.first(x)]
            for block in net.down:
                skips.append(block(pool(skips[-1], 2)))
            x = bottom(skips.pop())
            for grow, block in zip(reversed(net.grow), reversed(net.up), strict=True):
                x = block(torch.cat(join(skips.pop(), grow(x)), dim=1))
            return end(net.head(x)) if head else x

        return apply

    mistakes = {
        "joined in the other order: torch.cat([skip, grown], dim=1), the skip first": forward(
            lambda skip, x: [x, skip]
        ),
        "the skip is missing: what was grown is joined to itself": forward(lambda skip, x: [x, x]),
        "nothing arrives from the skip: it is joined, but empty": forward(lambda skip, x: [0 * skip, x]),
        "nothing arrives from below: both halves are the skip": forward(lambda skip, x: [skip, skip]),
        "pooled by the mean; the network of 2015 takes the largest": forward(pool=F.avg_pool2d),
        "the head's output goes out as it is: the loss takes logits, without a sigmoid": forward(end=torch.sigmoid),
        "the head's output goes out as it is: the loss takes logits, without a softmax": forward(
            end=lambda y: y.softmax(1)
        ),
        "the head's output goes out as it is, without a ReLU": forward(end=torch.relu),
        "the bottom is replaced by zeros: it is where the way up begins": forward(bottom=torch.zeros_like),
        "net.head is missing: it turns channels into classes": forward(head=False),
    }
    errors = {
        "Sizes of tensors must match": (
            "the skip has another size than what it is joined to: keep each map before it is pooled, pool before each "
            "block of net.down, go through the skips from the last to the first, and mind that the bottom is none"
        ),
        "pop from empty list": "a skip is taken too often: the way up begins with the bottom, and each block takes one",
        "channels, but got": (
            "a block is handed another number of channels than it takes: on the way up the lists run backwards, and "
            "the skip is joined along dim=1"
        ),
    }
    return Exercise(forward(), cases, mistakes, errors=errors)


@exercise
def time_embedding() -> Exercise:
    """`answer(t, dim)`: timesteps t (b,) as waves, (b, dim): first dim / 2 cosines, then as many sines.

    The k-th of each, k from 0, is of t times 10,000 to the power of -k / (dim / 2).
    """
    cases = [(torch.tensor([3]), 4), (torch.tensor([0, 999, 17]), 8), (torch.tensor([250, 1, 40, 7, 600]), 12)]

    def waves(sign=-1, over=lambda half: half, order=lambda c, s: torch.cat([c, s], 1), period=10_000.0, times=1.0):
        def apply(t, dim):
            half = dim // 2
            powers = sign * torch.arange(half, dtype=torch.float64) / over(half)
            angles = times * t[:, None].double() * period**powers
            return order(angles.cos(), angles.sin())

        return apply

    def grown(power):
        """Without the minus sign, in float32: such large angles are rounded there, by the way they are made."""

        def apply(t, dim):
            angles = t[:, None] * power(torch.arange(dim // 2) / (dim // 2))
            return torch.cat([angles.cos(), angles.sin()], 1)

        return apply

    def without_bracket(whole):
        def apply(t, dim):
            k = torch.arange(dim // 2, dtype=torch.float64)
            powers = (k == 0).double() if whole else 10_000.0**-k  # torch cuts 1 / 10,000 to 0, for whole numbers
            angles = t[:, None].double() * powers / (dim // 2)
            return torch.cat([angles.cos(), angles.sin()], 1)

        return apply

    mistakes = {
        "the sines come first; here the cosines do": waves(order=lambda c, s: torch.cat([s, c], 1)),
        "cosine and sine alternate; here all cosines come first": waves(
            order=lambda c, s: torch.stack([c, s], 2).flatten(1)
        ),
        "sine and cosine alternate; here all cosines come first": waves(
            order=lambda c, s: torch.stack([s, c], 2).flatten(1)
        ),
        "the frequencies grow; the exponent is negative": [
            waves(sign=1),
            grown(lambda share: 10_000.0**share),
            grown(lambda share: torch.exp(math.log(10_000) * share)),
        ],
        "the exponent runs over dim / 2, not over dim": waves(over=lambda half: 2 * half),
        "the last exponent is not quite -1: divide by dim / 2, not by dim / 2 - 1": waves(over=lambda half: half - 1),
        "the frequencies fall twice as fast: the exponent is k / (dim / 2)": waves(sign=-2),
        "the period is 10,000": waves(period=1000.0),
        "that is in turns, not in radians: no 2 pi is needed": waves(times=2 * math.pi),
        "a bracket is missing: all of -k / (dim / 2) is the exponent": [without_bracket(True), without_bracket(False)],
        "those are degrees; cosines and sines take radians": waves(times=math.pi / 180),
    }
    errors = {
        "negative integer powers": "a bracket is missing: all of -k / (dim / 2) is the exponent",
        "Dimension out of range": "t is (b,): give it the shape (b, 1), so that each timestep meets each speed",
        "must match the size": "t is (b,): give it the shape (b, 1), so that each timestep meets each speed",
    }
    return Exercise(waves(), cases, mistakes, tolerance=1e-3, own=[timestep_embedding], errors=errors)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale=lambda d: d**-0.5, axis=-1, weigh=torch.softmax) -> Tensor:
    return weigh(q @ k.mT * scale(q.shape[-1]), axis) @ v


_SLIPS = {  # of attention: {hint: what differs in `_attend`}
    "the scores are not divided by the root of d": {"scale": lambda d: 1.0},
    "divided by d itself: take its root": {"scale": lambda d: 1 / d},
    "multiplied by the root of d instead of divided": {"scale": lambda d: d**0.5},
    "the softmax runs over the wrong axis: for each query the weights of all keys add up to 1": {"axis": -2},
    "the scores are used without a softmax": {"weigh": lambda scores, axis: scores},
    "exponentials are missing: the softmax is more than a division by the sum": {
        "weigh": lambda scores, axis: scores / scores.sum(axis, keepdim=True)
    },
    "the weights do not add up to 1: divide the exponentials by their sum": {
        "weigh": lambda scores, axis: scores.exp()
    },
}


@exercise
def attention() -> Exercise:
    """`answer(q, k, v)`: attention in h heads, q (b, h, n, d), k and v (b, h, m, d) -> (b, h, n, d).

    PyTorch's own function for it does not count.
    """
    draw = torch.Generator().manual_seed(51)
    cases = []
    for b, h, n, m, d in ((1, 1, 2, 3, 4), (2, 3, 5, 4, 6), (3, 2, 4, 7, 5)):
        q, k, v = (torch.randn(b, h, length, d, generator=draw, dtype=torch.float64) for length in (n, m, m))
        cases.append((q, k, v))
    large = [torch.randint(-60, 61, (2, 1, length, 4), generator=draw).double() for length in (7, 8)]
    cases.append((*large, torch.randn(2, 1, 8, 4, generator=draw, dtype=torch.float64)))  # scores beyond ± 1,000

    def less(what):  # exponentials of the scores less something, divided by their sum
        def weigh(scores, axis):
            weights = (scores - what(scores)).exp()
            return weights / weights.sum(axis, keepdim=True)

        return lambda q, k, v: _attend(q, k, v, weigh=weigh)

    mistakes = {hint: lambda q, k, v, slip=slip: _attend(q, k, v, **slip) for hint, slip in _SLIPS.items()}
    mistakes |= {
        "k and v are exchanged": lambda q, k, v: _attend(q, v, k),
        "the values are summed up alike: where do the weights come in?": lambda q, k, v: v.mean(
            2, keepdim=True
        ).expand_as(q),
        "d is how many numbers a query has, not how many keys there are": lambda q, k, v: _attend(
            q, k, v, lambda d: k.shape[2] ** -0.5
        ),
        "d is how many numbers a query has, not how many heads there are": lambda q, k, v: _attend(
            q, k, v, lambda d: q.shape[1] ** -0.5
        ),
        "large scores overflow: subtract each row's maximum": [
            less(lambda scores: 0),
            less(lambda scores: scores.mean(-1, keepdim=True)),
            less(torch.mean),
            less(torch.amax),
            less(lambda scores: scores.amax((-2, -1), keepdim=True)),
            less(lambda scores: scores.amax(-2, keepdim=True)),
            less(lambda scores: scores.amin(-1, keepdim=True)),
        ],
    }
    errors = {
        "Expected size for first two dimensions": (
            "k is turned in all its axes; only its last two are to be exchanged: k.mT, or k.transpose(-1, -2)"
        ),
        "must match the size of tensor": "a sum over the last axis drops that axis; keepdim=True keeps it",
    }
    own = [F.scaled_dot_product_attention, F.multi_head_attention_forward]
    return Exercise(_attend, cases, mistakes, own=own, errors=errors)


@exercise
def cross_attention() -> Exercise:
    """`answer(x, context, to_q, to_k, to_v, to_out, heads)`: places x (b, n, dim) ask words -> (b, n, dim).

    context: the words, (b, m, width).  to_q, to_k, to_v, to_out: linear layers; each head has its own part of their dim
    channels, one after the other.
    """
    cases = []
    for k, (b, n, m, heads, d, width) in enumerate([(1, 2, 3, 2, 3, 5), (2, 7, 4, 3, 2, 5), (3, 4, 7, 2, 5, 6)]):
        with seeded(80 + k):
            dim = heads * d
            layers = [nn.Linear(i, dim) for i in (dim, width, width, dim)]
            x, context = torch.randn(b, n, dim), torch.randn(b, m, width)
        layers = [layer.double().requires_grad_(False) for layer in layers]
        cases.append((3 * x.double(), 3 * context.double(), *layers, heads))

    def split(z, heads):
        return z.unflatten(2, (heads, -1)).transpose(1, 2)  # (b, h, n, d)

    def merge(z):
        return z.transpose(1, 2).flatten(2)

    def cross(split=split, merge=merge, out=True, **slip):
        def apply(x, context, to_q, to_k, to_v, to_out, heads):
            q, k, v = (split(z, heads) for z in (to_q(x), to_k(context), to_v(context)))
            z = merge(_attend(q, k, v, **slip))
            return to_out(z) if out else z

        return apply

    def by_dim(x, context, to_q, to_k, to_v, to_out, heads):
        return cross(scale=lambda d: (d * heads) ** -0.5)(x, context, to_q, to_k, to_v, to_out, heads)

    def swapped(x, context, to_q, to_k, to_v, to_out, heads):
        return cross()(x, context, to_q, to_v, to_k, to_out, heads)

    mistakes = {hint: cross(**slip) for hint, slip in _SLIPS.items()}
    mistakes |= {
        "to_out is missing at the end": cross(out=False),
        "all heads look alike: split the channels into `heads` parts, each with its own softmax": cross(
            lambda z, heads: z[:, None], lambda z: z[:, 0]
        ),
        "divided by the root of dim; each head has only dim / heads numbers": by_dim,
        "the heads are cut out of the places, not of the channels: a transpose is missing before or after": [
            cross(lambda z, heads: z.reshape(len(z), heads, -1, z.shape[2] // heads)),
            cross(merge=lambda z: z.reshape(len(z), z.shape[2], -1)),
        ],
        "the channels are dealt to the heads in turn; each head has its part in one piece": cross(
            lambda z, heads: z.unflatten(2, (-1, heads)).permute(0, 3, 1, 2), lambda z: z.permute(0, 2, 3, 1).flatten(2)
        ),
        "keys and values are exchanged": swapped,
    }
    errors = {"cannot be multiplied": "keys and values are made from the context, queries from x: their widths differ"}
    own = [Attention.forward, F.scaled_dot_product_attention, F.multi_head_attention_forward]
    return Exercise(cross(), cases, mistakes, own=own, errors=errors)


@exercise
def lora_forward() -> Exercise:
    """`answer(x, weight, bias, down, up, alpha)`: a linear layer with a low-rank addition, x (b, i) -> (b, o).

    weight: (o, i), bias: (o,), both frozen.  down: (r, i), up: (o, r), trained.  The addition, up times down, counts
    alpha / r.
    """
    draw = torch.Generator().manual_seed(10)
    cases = []
    for b, i, o, r, alpha in ((1, 3, 4, 2, 1.0), (2, 5, 4, 3, 6.0), (4, 6, 7, 2, 8.0)):
        shapes = [(b, i), (o, i), (o,), (r, i), (o, r)]
        cases.append((*(torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes), alpha))

    def lora(scale=lambda alpha, r: alpha / r, base=1.0, offset=1.0, both=False):
        def apply(x, weight, bias, down, up, alpha):
            frozen, factor = base * x @ weight.T + offset * bias, scale(alpha, len(down))
            return factor * (frozen + x @ down.T @ up.T) if both else frozen + factor * (x @ down.T @ up.T)

        return apply

    mistakes = {
        "the addition does not count alpha / r, but once": lora(lambda alpha, r: 1.0),
        "alpha is not divided by the rank r, the rows of down": lora(lambda alpha, r: alpha),
        "multiplied by r instead of divided": lora(lambda alpha, r: alpha * r),
        "upside down: alpha / r, not r / alpha": lora(lambda alpha, r: r / alpha),
        "divided by the root of r; that is another paper's": lora(lambda alpha, r: alpha / math.sqrt(r)),
        "the frozen layer is missing: the addition is added to it": lora(base=0.0, offset=0.0),
        "the bias of the frozen layer is missing": lora(offset=0.0),
        "the frozen layer counts once, whatever alpha is": lora(both=True),
        "the addition is missing: that is the frozen layer alone": lora(lambda alpha, r: 0.0),
        "the addition is subtracted": lora(lambda alpha, r: -alpha / r),
    }
    errors = {
        "cannot be multiplied": "a weight is (out, in), so x @ weight.T; down comes first, i to r, then up, r to o"
    }
    return Exercise(lora(), cases, mistakes, errors=errors)
