"""Visible checks of homework 6, the exhibits that train: 11 and 12. They are called by `homework_6`."""

import torch
import torch.nn.functional as F
from torch import nn

from ._probe import Probe, normal, probe


def _line(slope):
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(slope)
    return model


@probe()
def train_on(ask: Probe) -> None:
    """Exhibit 11: `answer(model, optimizer, batches)`, one step for several batches -> the loss of all together."""
    for parts, size, seed in ((1, 3, 0), (2, 2, 1), (4, 3, 2)):
        x, y = normal(parts * size, 1, seed=seed), normal(parts * size, 1, seed=seed + 9)
        batches = list(zip(x.split(size), y.split(size), strict=True))

        def run(answer, batches):
            model = _line(0.5)
            model.weight.grad = torch.full_like(model.weight, 100.0)  # left from an earlier step
            loss = answer(model, torch.optim.SGD(model.parameters(), lr=0.1), batches)
            return None if loss is None else [model.weight.item(), loss]

        slope, loss = ask(batches, run=run)
        whole = _line(0.5)
        F.mse_loss(whole(x), y).backward()
        ask.need(abs(slope - 0.5) > 1e-12, "the weights do not move at all")
        way = (slope - 0.5) / (-0.1 * whole.weight.grad.item())
        hint = (
            f"with {parts} batches of {size} the step is {way:.3g} times as long as that of one batch of {parts * size}"
        )
        ask.near(way, 1.0, hint)
        ask.near(loss, F.mse_loss(whole(x), y).item(), "the number returned must be the loss of all pictures together")


@probe()
def train_with_average(ask: Probe) -> None:
    """Exhibit 12: `answer(model, ema, optimizer, batches, decay)` trains both in place -> the losses."""
    x, y = normal(6, 1), normal(6, 1, seed=1)
    batches = list(zip(x.split(2), y.split(2), strict=True))

    def run(answer, batches, decay, begin=0.5):
        model, ema = _line(0.5), _line(begin)
        losses = answer(model, ema, torch.optim.SGD(model.parameters(), lr=0.2), batches, decay)
        return None if losses is None else [model.weight.item(), ema.weight.item(), len(losses)]

    for n in (1, 3):
        model, ema, losses = ask(batches[:n], 0.0, run=run)
        ask.need(losses == n, f"expected a loss for each of the {n} batches, got {losses:g}")
        ask.need(abs(model - 0.5) > 1e-12, "the model is not trained")
        ask.near(ema, model, f"with decay 0 the average must be the model itself, after {n} steps too")
    model, ema, _ = ask(batches, 1.0, run=run)
    ask.near(ema, 0.5, "with decay 1 the average must stay where it began")
    model, ema, _ = ask(batches[:1], 0.9, run=run)
    ask.near(ema, 0.5 + 0.1 * (model - 0.5), "after one step, decay 0.9 must take the average a tenth of the way")
    ends = [ask(batches, 0.5, begin, run=run)[1] for begin in (0.0, 1.0)]
    left = ends[1] - ends[0]
    hint = f"{left:.3g} of the average's first value is left after 3 steps; each should halve it: is each followed?"
    ask.near(left, 0.125, hint)
