"""Checks of what learners write of attention: over places, and over words."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import Attention
from minildm.tensors import seeded

from ._check import Exercise, exercise


def _attend(q: Tensor, k: Tensor, v: Tensor, scale=lambda d: d**-0.5, axis=-1, weigh=torch.softmax) -> Tensor:
    return weigh(q @ k.mT * scale(q.shape[-1]), axis) @ v


_UNROOTED = "the scores are not divided by the root of d"
_NOT_ONE = "the weights do not add up to 1: divide the exponentials by their sum"
_SLIPS = {  # of attention: {hint: what differs in `_attend`}
    _UNROOTED: {"scale": lambda d: 1.0},
    "divided by d itself: take its root": {"scale": lambda d: 1 / d},
    "multiplied by the root of d instead of divided": {"scale": lambda d: d**0.5},
    "the softmax runs over the wrong axis: for each query the weights of all keys add up to 1": {"axis": -2},
    "the scores are used without a softmax": {"weigh": lambda scores, axis: scores},
    "exponentials are missing: the softmax is more than a division by the sum": {
        "weigh": lambda scores, axis: scores / scores.sum(axis, keepdim=True)
    },
    _NOT_ONE: {"weigh": lambda scores, axis: scores.exp()},
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

    def less(what, scale=lambda d: d**-0.5):  # exponentials of the scores less something, divided by their sum
        def weigh(scores, axis):
            weights = (scores - what(scores)).exp()
            return weights / weights.sum(axis, keepdim=True)

        return lambda q, k, v: _attend(q, k, v, scale, weigh=weigh)

    def of(weights):  # from the exponentials e of the scores less their maxima
        def weigh(scores, axis):
            return weights((scores - scores.amax(axis, keepdim=True)).exp(), scores)

        return lambda q, k, v: _attend(q, k, v, weigh=weigh)

    mistakes = {hint: [lambda q, k, v, slip=slip: _attend(q, k, v, **slip)] for hint, slip in _SLIPS.items()}
    mistakes[_UNROOTED].append(less(lambda scores: 0, lambda d: 1.0))
    mistakes[_NOT_ONE].append(of(lambda e, scores: e))
    mistakes |= {
        "divided by one sum for all queries: each row of weights adds up to 1": of(lambda e, scores: e / e.sum()),
        "divided by the sum of the scores: it is the exponentials that must add up to 1": [
            of(lambda e, scores: e / scores.sum(-1, keepdim=True)),
            of(lambda e, scores: scores.exp() / scores.sum(-1, keepdim=True)),
            of(lambda e, scores: e / (scores - scores.amax(-1, keepdim=True)).sum(-1, keepdim=True)),
        ],
        "the root of d divides the scores, before the exponentials": lambda q, k, v: (
            _attend(q, k, v, lambda d: 1.0) / q.shape[-1] ** 0.5
        ),
        "these are the weights: mix the values with them": lambda q, k, v: (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1),
        "the maximum is subtracted from the scores; they are not divided by it": lambda q, k, v: _attend(
            q, k, v, weigh=lambda scores, axis: (scores / scores.amax(axis, keepdim=True)).softmax(axis)
        ),
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
            "in a @ b, the last axis of a is as long as the last but one of b; of k only its last two axes are to be "
            "exchanged: k.mT, or k.transpose(-1, -2)"
        ),
        "return_types": "max over an axis gives two things: take its .values, or use amax",
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
