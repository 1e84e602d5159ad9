"""Checks of what learners write of a network: the U's forward pass, the time, a low-rank addition."""

import math

import torch
import torch.nn.functional as F
from torch import nn

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
            "a block is handed another number of channels than it takes: the way down begins with net.first; on the "
            "way up the lists run backwards, the bottom is no skip, and each skip is joined along dim=1, not added"
        ),
    }
    return Exercise(forward(), cases, mistakes, errors=errors)


@exercise
def time_embedding() -> Exercise:
    """`answer(t, dim)`: timesteps t (b,) as waves, (b, dim): first dim / 2 cosines, then as many sines.

    The k-th of each, k from 0, is of t times 10,000 to the power of -k / (dim / 2).
    """
    cases = [(torch.tensor([3]), 4), (torch.tensor([0, 999, 17]), 8), (torch.tensor([250, 1, 40, 7, 600]), 12)]

    def waves(
        sign=-1,
        over=lambda half: half,
        order=lambda c, s: torch.cat([c, s], 1),
        period=10_000.0,
        times=1.0,
        k=torch.arange,
    ):
        def apply(t, dim):
            half = dim // 2
            powers = sign * k(half).double() / over(half)
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
        "k counts from 0, so that the first hand turns by 1 radian a step": waves(
            k=lambda half: torch.arange(half) + 1
        ),
        "twice as many hands as there are: k runs from 0 to dim / 2 - 1": waves(k=lambda half: torch.arange(2 * half)),
        "cosines and sines are joined along the wrong axis: each timestep has its own row": waves(
            order=lambda c, s: torch.cat([c, s], 0)
        ),
    }
    errors = {
        "negative integer powers": "a bracket is missing: all of -k / (dim / 2) is the exponent",
        "Dimension out of range": "t is (b,): give it the shape (b, 1), so that each timestep meets each speed",
        "must match the size": "t is (b,): give it the shape (b, 1), so that each timestep meets each speed",
    }
    return Exercise(waves(), cases, mistakes, tolerance=1e-3, own=[timestep_embedding], errors=errors)


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

    def lora(scale=lambda alpha, r: alpha / r, base=1.0, offset=1.0, both=False, rank=lambda down, up: len(down)):
        def apply(x, weight, bias, down, up, alpha):
            frozen, factor = base * x @ weight.T + offset * bias, scale(alpha, rank(down, up))
            return factor * (frozen + x @ down.T @ up.T) if both else frozen + factor * (x @ down.T @ up.T)

        return apply

    mistakes = {
        "the addition does not count alpha / r, but once": lora(lambda alpha, r: 1.0),
        "alpha is not divided by the rank r, the rows of down": lora(lambda alpha, r: alpha),
        "alpha is missing: the addition counts alpha / r": lora(lambda alpha, r: 1 / r),
        "divided by the wrong axis: the rank r is the rows of down, the columns of up": [
            lora(rank=lambda down, up: down.shape[1]),
            lora(rank=lambda down, up: len(up)),
        ],
        "multiplied by r instead of divided": lora(lambda alpha, r: alpha * r),
        "upside down: alpha / r, not r / alpha": lora(lambda alpha, r: r / alpha),
        "divided by the root of r; that is another paper's": lora(lambda alpha, r: alpha / math.sqrt(r)),
        "the frozen layer is missing: the addition is added to it": lora(base=0.0, offset=0.0),
        "the bias of the frozen layer is missing": lora(offset=0.0),
        "the frozen layer counts once, whatever alpha is": lora(both=True),
        "the addition is missing: that is the frozen layer alone": lora(lambda alpha, r: 0.0),
        "the addition is subtracted": lora(lambda alpha, r: -alpha / r),
    }
    shapes = "a weight is (out, in), so x @ weight.T; down comes first, i to r, then up, r to o"
    errors = {"cannot be multiplied": shapes, "must match the size": f"the answer is (b, o), a row a sample: {shapes}"}
    errors |= {"name 'r' is not defined": "the rank r is not handed in: it is the rows of down, len(down)"}
    return Exercise(lora(), cases, mistakes, errors=errors)
