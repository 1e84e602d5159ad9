"""What a training step draws and compares, found out from many calls: of a step with dice no two results are alike."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minildm.tensors import seeded

NONE = "something else"
ROUNDS, BATCH = 40, 6  # how often a step is called, and with how many pictures
ALPHAS = torch.tensor([0.97, 0.8, 0.55, 0.3, 0.08], dtype=torch.float64)  # alphas_cumprod
SHARE = 0.3  # of x_t, that the network answers
Levels = Callable[[Tensor], tuple[Tensor, Tensor]]  # t (n,) -> signal and noise, (n,) each


class Spy(nn.Module):
    """Stands in for a network: remembers what it was asked, and answers a share of x_t."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(SHARE, dtype=torch.float64))
        self.asked = []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x_t.detach(), t))
        return self.weight.to(x_t.dtype) * x_t


@dataclass(frozen=True)
class Record:
    """Many calls of a training step: n pictures, in batches one after the other.

    x_t: (n, c, h, w) and t: (n,), as the network was asked.  bases: what may have been noised, by name, (n, c, h, w).
    losses: (batches,).
    """

    x_t: Tensor
    t: Tensor
    bases: Mapping[str, Tensor]
    losses: Tensor

    def base(self, levels: Levels) -> str:
        """Which of the bases was noised: the one that leaves least, once its share of x_t is taken out."""
        signal = spread(levels(self.t)[0], self.x_t)
        rest = {name: float((self.x_t - signal * one).square().mean()) for name, one in self.bases.items()}
        return min(rest, key=rest.get)

    def noise(self, name: str, levels: Levels) -> Tensor:
        """The noise in x_t, (n, c, h, w); 0 where there is none."""
        signal, noise = (spread(level, self.x_t) for level in levels(self.t))
        return torch.where(noise > 1e-4, (self.x_t - signal * self.bases[name]) / noise.clamp_min(1e-4), 0)

    def mixture(self, name: str, ways: Mapping[str, Levels]) -> str:
        """Which of several ways to mix it is: what is left is noise of spread 1, where it is weak and where strong."""

        def off(levels):
            eps, x_0, level = self.noise(name, levels), self.bases[name], levels(self.t)[1]
            parts = [(eps[part], x_0[part]) for part in (level.gt(0.02) & level.le(0.6), level > 0.6) if part.any()]
            share = [abs(float((e * x).mean() / x.square().mean())) for e, x in parts]
            strength = [abs(float(e.square().mean().sqrt()) - 1) for e, _ in parts]
            return max(share + strength, default=math.inf)  # no level is one of noise

        found = {way: off(levels) for way, levels in ways.items()}
        best = min(found, key=found.get)
        return best if found[best] < 0.15 else NONE

    def shared(self, name: str, levels: Levels) -> bool:
        """Whether the pictures of a batch have the same noise."""
        first, second = self._batches(self.noise(name, levels))[:, :2].flatten(2).unbind(1)
        return float(torch.cosine_similarity(first, second, dim=1).abs().mean()) > 0.9

    def loss(self, name: str, levels: Levels) -> str:
        """In words, what the loss compares the network's answer with, and how."""
        x_0, eps = self.bases[name], self.noise(name, levels)
        signal, noise = (spread(level, self.x_t) for level in levels(self.t))
        targets = {
            "eps": eps,
            "x_0": x_0,
            "x_t": self.x_t,
            "x_t - x_0": self.x_t - x_0,
            "eps - x_0": eps - x_0,
            "x_0 - eps": x_0 - eps,
            "v": signal * eps - noise * x_0,
            "v with its sign turned around": noise * x_0 - signal * eps,
            "v with its roots exchanged": noise * eps - signal * x_0,
            "v with what is noised and the noise exchanged": signal * x_0 - noise * eps,
            "a sum instead of v": signal * eps + noise * x_0,
            "v without square roots": signal.square() * eps - noise.square() * x_0,
        }
        kinds = {
            "mean squared error": lambda d: d.square().mean(1),
            "sum of squared errors": lambda d: d.square().sum(1),
            "mean absolute error": lambda d: d.abs().mean(1),
            "mean error with its sign": lambda d: d.mean(1),
            "root of the mean squared error": lambda d: d.square().mean(1).sqrt(),
        }
        for how, kind in kinds.items():
            for what, target in targets.items():
                if torch.allclose(self.losses, kind(self._batches(SHARE * self.x_t - target).flatten(1)), 1e-3, 1e-6):
                    return f"{how} to {what}"
        return NONE

    def _batches(self, x):
        return x.unflatten(0, (len(self.losses), -1))


def spread(level: Tensor, x: Tensor) -> Tensor:
    """A number for each picture, (n,) -> (n, 1, 1, 1)."""
    return level.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def roots(alphas_cumprod: Tensor) -> dict[str, Levels]:
    """How signal and noise may be mixed at a timestep: the right way, and others, by name."""

    def at(signal, noise, shift=0):
        def levels(t):
            left = alphas_cumprod[(t.long() + shift).clamp(0, len(alphas_cumprod) - 1)]
            return signal(left), noise(left)

        return levels

    def left(a):
        return 1 - a

    return {
        "as sqrt(a) x_0 + sqrt(1 - a) eps, with a = alphas_cumprod[t]": at(torch.sqrt, lambda a: (1 - a).sqrt()),
        "without square roots": at(lambda a: a, left),
        "signal and noise exchanged": at(lambda a: (1 - a).sqrt(), torch.sqrt),
        "at the timestep after t": at(torch.sqrt, lambda a: (1 - a).sqrt(), 1),
        "at the timestep before t": at(torch.sqrt, lambda a: (1 - a).sqrt(), -1),
    }


def _facts(record, ways, straight=False):
    """What is found out of many calls, by name, in the order in which it matters."""
    right = next(iter(ways))
    t, name = record.t.double().view(ROUNDS, BATCH), record.base(ways[right])
    facts = {"each picture has its own t": bool((t.amax(1) > t.amin(1)).double().mean() > 0.5)}
    if not facts["each picture has its own t"]:
        pass  # too few were drawn to say more of them
    elif straight:
        facts["t lies evenly between 0 and 1"] = bool(
            0 <= t.min() < 0.1 and 0.9 < t.max() <= 1 and abs(t.mean() - 0.5) < 0.07 and abs(t.std() - 12**-0.5) < 0.05
        )
    else:
        counts = torch.bincount(record.t.long().clamp(-1, len(ALPHAS)) + 1, minlength=len(ALPHAS) + 2)
        facts["t is a whole number"] = not record.t.is_floating_point()
        facts["t is from 0 to the number of steps less 1"] = bool(counts[0] == counts[-1] == 0)
        facts["t = 0, the first step, is drawn"] = bool(counts[1])
        facts["the last step is drawn"] = bool(counts[-2])
        facts["all steps are drawn alike"] = bool(counts[1:-1].min() > len(record.t) / len(ALPHAS) / 2)
    facts["what is noised"] = name
    facts["how signal and noise are mixed"] = found = record.mixture(name, ways)
    facts["each picture has its own noise"] = not record.shared(name, ways[right])
    facts["the loss"] = record.loss(name, ways.get(found, ways[right]))
    return facts


def watch(
    seed: int,
    shape: tuple[int, ...],
    ask: Callable[[nn.Module, Tensor], Any],
    bases: Callable[[Tensor], Mapping[str, Tensor]],
    ways: Mapping[str, Levels],
    straight: bool = False,
) -> dict[str, Any]:
    """Call a step many times, and find out what it does.

    ask: (model, x_0) -> the loss.  bases: (x_0) -> what may have been noised, by name.  ways: how signal and noise may
    be mixed, by name, the right one first.  straight: t goes evenly from 0 to 1; else it counts timesteps.
    """
    kept, facts = [], {}
    with seeded(seed):
        for _ in range(ROUNDS):
            model, x_0 = Spy(), torch.randn(BATCH, *shape, dtype=torch.float64)
            loss = ask(model, x_0)
            facts["the loss is a tensor without axes"] = torch.is_tensor(loss) and not loss.ndim
            facts["model evaluations"] = len(model.asked)
            x_t, t = model.asked[0] if model.asked else (None, None)
            facts["t has one number for each picture"] = torch.is_tensor(t) and t.shape == (BATCH,)
            found = bases(x_0)
            facts["x_t has the shape of what is noised"] = all(
                torch.is_tensor(x_t) and one.shape == x_t.shape for one in found.values()
            )
            if not all(facts.values()):
                return facts
            facts["a gradient reaches the model"] = loss.requires_grad
            kept.append((x_t.double(), t, loss.detach().double(), found))
    x_t, t, losses, found = zip(*kept, strict=True)
    joined = {name: torch.cat([one[name].double() for one in found]) for name in found[0]}
    return facts | _facts(Record(torch.cat(x_t), torch.cat(t), joined, torch.stack(losses)), ways, straight)
