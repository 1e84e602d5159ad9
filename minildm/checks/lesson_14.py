"""Checks of lesson 14: your own pictures, from a square to a training, and whether the results are copies."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import images
from minildm.tensors import seeded

from ._check import Exercise, exercise


@exercise
def square() -> Exercise:
    """`answer(x)`, a picture (c, h, w) in [0, 1] -> (c, side, side): all of it, in the middle of a white square.

    side is the longer of h and w. Of an odd margin, the larger part lies on the right, or at the bottom.
    """
    with seeded(14):
        cases = [(torch.rand(c, h, w),) for c, h, w in ((1, 2, 4), (3, 5, 2), (3, 4, 7), (2, 6, 3), (3, 5, 5))]

    def laid(x, ground=1.0, turned=False, corner=False, up=False):
        c, h, w = x.shape
        side = max(h, w)
        top, left = ((side - n + up) // 2 for n in (h, w))
        if turned:
            top, left = left, top
        if corner:
            top = left = 0
        out = x.new_full((c, side, side), ground)
        out[:, top : top + h, left : left + w] = x
        return out

    def cut(x):
        side = min(x.shape[1:])
        top, left = ((n - side) // 2 for n in x.shape[1:])
        return x[:, top : top + side, left : left + side]

    def stretched(mode):
        return lambda x: F.interpolate(x[None], (max(x.shape[1:]),) * 2, mode=mode)[0]

    def one_side(x):
        c, h, w = x.shape
        return torch.cat([x.new_ones(c, h, w - h), x], 2) if w > h else torch.cat([x.new_ones(c, h - w, w), x], 1)

    def margins(x, swapped=False, even=False):
        c, h, w = x.shape
        down, right = max(h, w) - h, max(h, w) - w
        if swapped:
            down, right = right, down
        behind = [n // 2 if even else n - n // 2 for n in (right, down)]
        return F.pad(x, [right // 2, behind[0], down // 2, behind[1]], value=1.0)

    mistakes = {
        "the margins of height and width are exchanged; F.pad takes left, right, top, bottom": lambda x: margins(
            x, True
        ),
        "an odd margin has one row or column more behind than before": lambda x: margins(x, even=True),
        "the margin is black: in [0, 1], white is 1": lambda x: laid(x, ground=0.0),
        "the margin is -1: these numbers go from 0 to 1, and white is 1": lambda x: laid(x, ground=-1.0),
        "the margin is 255: these numbers go from 0 to 1, and white is 1": lambda x: laid(x, ground=255.0),
        "it lies in the upper left corner: half of the margin belongs before it": lambda x: laid(x, corner=True),
        "all of the margin lies before it: half of it belongs behind": one_side,
        "an odd margin: here its larger part belongs on the right, or at the bottom": lambda x: laid(x, up=True),
        "it is cut: the side of the square is the longer of h and w": [
            cut,
            lambda x: x[:, : min(x.shape[1:]), : min(x.shape[1:])],
        ],
        "it is stretched, so that circles become ellipses: add a margin instead": [
            stretched("nearest"),
            stretched("bilinear"),
            stretched("bicubic"),
        ],
    }
    placed = (
        "the place in the square has another size than the picture: write top : top + h and left : left + w (0 : -0 is "
        "empty), and take the number of channels from x"
    )
    errors = {"expanded size": placed, "could not broadcast": placed}
    return Exercise(laid, cases, mistakes, tolerance=0, own=[images.fit], errors=errors)


@exercise
def nearest() -> Exercise:
    """`answer(drawn, known)`, pictures (n, c, h, w) and (m, c, h, w) -> the distances (n,), and which of known (n,).

    The distance of two pictures is the root of the mean squared difference of their numbers.
    """
    with seeded(15):
        cases = [
            (torch.randn(n, *shape), torch.randn(m, *shape))
            for n, m, shape in ((2, 5, (1, 4, 3)), (4, 3, (2, 6, 5)), (7, 6, (3, 4, 2)))
        ]

    def apart(drawn, known, power=2, root=True, total=False):
        d = (drawn[:, None] - known[None]).abs().pow(power).flatten(2)  # (n, m, c h w)
        d = d.sum(2) if total else d.mean(2)
        return d.sqrt() if root and power == 2 else d

    def least(how=lambda d: d.min(1), **options):
        return lambda drawn, known: tuple(how(apart(drawn, known, **options)))

    mistakes = {
        "the root is missing: the mean squared difference is its square": least(root=False),
        "the squares are added up; their mean is asked for": [least(total=True), least(total=True, root=False)],
        "divide by the root of how many numbers one picture has": [
            lambda drawn, known, n=n: tuple((apart(drawn, known, total=True) / n(drawn, known)).min(1))
            for n in (
                lambda drawn, known: drawn[0].numel(),
                lambda drawn, known: drawn.numel() ** 0.5,
                lambda drawn, known: known.numel() ** 0.5,
                lambda drawn, known: len(drawn) ** 0.5,
                lambda drawn, known: len(known) ** 0.5,
            )
        ],
        "a single nearest one for all: each drawn picture has its own": least(lambda d: (d.min(), d.argmin())),
        "this is the mean of absolute differences: square them first": [
            least(power=1),
            least(lambda d: tuple(d.sqrt().min(1)), power=1),
        ],
        "the farthest picture: the smallest distance is asked for": least(lambda d: d.max(1)),
        "for each known picture the nearest drawn one: it is asked the other way round": least(lambda d: d.min(0)),
        "the two results are exchanged: first the distances, then which": least(lambda d: tuple(d.min(1))[::-1]),
        "the mean distance to all: the smallest one is asked for": least(lambda d: (d.mean(1), d.argmin(1))),
        "the signs cancel: a mean of differences that are not squared": (
            lambda drawn, known: tuple((drawn[:, None] - known[None]).flatten(2).mean(2).abs().min(1))
        ),
    }
    errors = {
        "must match the size": "each drawn picture is compared with every known one: there are n · m distances, (n, m)",
        "same number of columns": "flatten() makes one row of all pictures; flatten(1) a row of each",
    }
    return Exercise(least(), cases, mistakes, tolerance=1e-5, errors=errors)


class _Told(nn.Module):
    """A small network that is told time and label."""

    def __init__(self, width: int):
        super().__init__()
        self.into, self.out = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 2, 3, padding=1)
        self.told = nn.Embedding(4, width)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.into(x_t) + self.told(y)[:, :, None, None] + (t[:, None, None, None] / 10).cos()
        return self.out(torch.tanh(h))


KEEP = 0.75  # of the average, at each step


@exercise
def painter_training() -> Exercise:
    """`answer(model, average, optimizer, batches, alphas_cumprod, keep)`: a step for each batch -> the losses, a list.

    A batch is (x_0, eps, t, y); the target is v = sqrt(a) eps - sqrt(1 - a) x_0, with a = alphas_cumprod[t]. After each
    step, the average's parameters become keep times themselves plus (1 - keep) times the model's.
    """
    alphas = torch.linspace(0.95, 0.05, 8).double()
    cases = []
    for seed, n, b, width in ((21, 2, 3, 4), (22, 3, 4, 6), (23, 4, 5, 3)):
        with seeded(seed):
            shape = (b, 2, 3, 4)
            batches = [
                (torch.randn(shape).double(), torch.randn(shape).double(), torch.randint(8, (b,)), torch.arange(b) % 4)
                for _ in range(n)
            ]
        cases.append((seed, width, batches))

    def run(answer, seed, width, batches):
        with seeded(seed):
            model = _Told(width).double()
        average = copy.deepcopy(model)
        for parameter in model.parameters():  # gradients of an earlier step
            parameter.grad = torch.ones_like(parameter)
        losses = answer(model, average, torch.optim.SGD(model.parameters(), 0.1), batches, alphas, KEEP)
        held = [one for one in losses if torch.is_tensor(one) and one.requires_grad] if isinstance(losses, list) else []
        return {
            "the losses": losses,
            "the model's weights": _weights(model),
            "the average's weights": _weights(average),
            "the losses are numbers that hold no graph, as loss.item() makes them": not held,
        }

    mistakes = {
        "the gradients of all steps add up: zero_grad at each of them": _training(zero=False),
        "the network is asked about the clean pictures: mix in the noise first": _training(ask=lambda x, e, a, s: x),
        "signal and noise are mixed without square roots": _training(ask=lambda x, e, a, s: a**2 * x + s**2 * e),
        "a and s are square roots: of alphas_cumprod[t], and of 1 minus it": [
            _training(lambda x, e, a, s: a**2 * x + s**2 * e, lambda x, e, a, s: a**2 * e - s**2 * x),
            _training(lambda x, e, a, s: a * x + s**2 * e, lambda x, e, a, s: a * e - s**2 * x),
        ],
        "s is the root of 1 - alphas_cumprod[t]; it is not 1 - a": _training(
            lambda x, e, a, s: a * x + (1 - a) * e, lambda x, e, a, s: a * e - (1 - a) * x
        ),
        "the coefficients of picture and noise are exchanged in x_t": _training(ask=lambda x, e, a, s: s * x + a * e),
        "the target is the noise; here it is v": _training(target=lambda x, e, a, s: e),
        "the target is the clean picture; here it is v": _training(target=lambda x, e, a, s: x),
        "the sign of v is turned around": _training(target=lambda x, e, a, s: s * x - a * e),
        "a sign in v: x_0 is subtracted": _training(target=lambda x, e, a, s: a * e + s * x),
        "the coefficients in v are exchanged": _training(target=lambda x, e, a, s: s * e - a * x),
        "the squared errors are added up; their mean is asked for": _training(error=lambda d: d.square().sum()),
        "the mean absolute error: square the differences": _training(error=lambda d: d.abs().mean()),
        "keep and 1 - keep are exchanged in the average": _training(blend=lambda old, new, k: (1 - k) * old + k * new),
        "the average stays as it was: change its numbers in place, as copy_ and lerp_ do": _training(
            blend=lambda old, new, k: old
        ),
        "the average is simply the model: keep is not used": _training(blend=lambda old, new, k: new),
        "the shares do not add up to 1: the model counts 1 - keep": _training(blend=lambda old, new, k: k * old + new),
        "the average is taken before the step, and so lags one step behind": _training(early=True),
        "the average is taken once, at the end: take it after each step": _training(late=True),
        "the average is copied into the model: it only watches the training": _training(back=True),
        "a loss that is kept as a tensor keeps its whole graph in memory: append loss.item()": _training(item=False),
        "the model learns nothing: ask the model itself, then zero_grad, backward and step, in this order": _training(
            step=False
        ),
        "model and average are exchanged: the average takes a little of the model": _training(exchanged=True),
        "it ends after the first step: the return stands inside the loop": _training(only=1),
        "a loss for each step, in a list: do not average them": lambda *case: sum(_training()(*case)) / len(case[3]),
    }
    errors = {
        "a leaf Variable that requires grad": "the average is not learned: change it inside torch.no_grad()",
        "must match the size": "a number for each picture: alphas_cumprod[t][:, None, None, None] fits (b, c, h, w)",
        "for *: 'float'": "networks do not multiply: go through the parameters of both, one pair after the other",
        "missing 1 required positional argument: 'y'": "the network is told the label, too: model(x_t, t, y=y)",
    }
    return Exercise(_training(), cases, mistakes, run=run, errors=errors)


def _training(
    ask=lambda x_0, eps, a, s: a * x_0 + s * eps,
    target=lambda x_0, eps, a, s: a * eps - s * x_0,
    error=lambda d: d.square().mean(),
    blend=lambda old, new, keep: keep * old + (1 - keep) * new,
    zero=True,
    step=True,
    early=False,
    late=False,
    back=False,
    item=True,
    exchanged=False,
    only=None,
):
    """The right loop, or one with a mistake."""

    def average_in(average, model, keep):
        if exchanged:
            average, model = model, average
        with torch.no_grad():
            for old, new in zip(average.parameters(), model.parameters(), strict=True):
                old.copy_(blend(old, new, keep))

    def loop(model, average, optimizer, batches, alphas_cumprod, keep):
        losses = []
        for x_0, eps, t, y in batches[:only]:
            share = alphas_cumprod[t][:, None, None, None]
            a, s = share.sqrt(), (1 - share).sqrt()
            loss = error(model(ask(x_0, eps, a, s), t, y=y) - target(x_0, eps, a, s))
            if zero:
                optimizer.zero_grad()
            loss.backward()
            if early:
                average_in(average, model, keep)
            if step:
                optimizer.step()
            if not (early or late):
                average_in(average, model, keep)
            if back:
                model.load_state_dict(average.state_dict())
            losses.append(loss.item() if item else loss)
        if late:
            average_in(average, model, keep)
        return losses

    return loop


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([one.detach().flatten() for one in model.parameters()])
