"""Checks of what learners write of training: the step and the loop."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.tensors import seeded

from ._check import Exercise, exercise


class _Optimizer(torch.optim.SGD):
    """Notes when it steps."""

    def __init__(self, parameters, events):
        super().__init__(parameters, lr=0.1, momentum=0.5)
        self.events = events

    def step(self, closure=None):
        self.events.append("step")
        return super().step(closure)


def _network(seed, width):
    """A small network, with a normalisation that differs in training; its optimizer; gradients of an earlier step.

    The events, a list of words, tell when the network is called, when backward comes through it, and when it steps.
    """
    events = []
    with seeded(seed):
        model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 2)).double()
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)

    def called(module, arguments, output):
        events.append("forward")
        if output.requires_grad:
            output.register_hook(lambda gradient: events.append("backward"))

    model.register_forward_hook(called)
    return model, _Optimizer(model.parameters(), events), events


def _loss(prediction: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(prediction, target)


def _holds_graph(loss):
    return torch.is_tensor(loss) and loss.requires_grad


def _weights(model):
    return torch.cat([one.detach().flatten() for one in model.parameters()])


_ERRORS = {
    "Target size": "the loss compares the prediction, model(x), with y",
    "object has no attribute 'backward'": "backward belongs to the loss as a tensor: take its number at the end",
}


@exercise
def training_step() -> Exercise:
    """`answer(model, optimizer, loss_function, x, y)`: one step of training -> the loss before it, a number.

    The model is in training mode; loss_function(prediction, y) is a tensor without axes. Gradients of an earlier step
    may still lie about.
    """
    cases = []
    for seed, b, width in ((1, 4, 5), (2, 6, 7), (3, 9, 4)):
        with seeded(seed):
            cases.append((seed, width, torch.randn(b, 3).double(), torch.rand(b, 2).double()))

    def run(answer, seed, width, x, y):
        model, optimizer, events = _network(seed, width)
        loss = answer(model, optimizer, _loss, x, y)
        return {
            "in order": ", ".join(events),
            "the loss": loss,
            "the weights after the step": _weights(model),
            "the loss is a number that holds no graph, as loss.item() makes it": not _holds_graph(loss),
        }

    def step(order="zero forward backward step", loss=lambda f, p, y: f(p, y), sign=1, again=False, give=Tensor.item):
        def apply(model, optimizer, loss_function, x, y):
            for part in order.split():
                if part == "zero":
                    optimizer.zero_grad()
                elif part == "forward":
                    value = loss(loss_function, model(x), y)
                elif part == "backward":
                    (sign * value).backward()
                else:
                    optimizer.step()
            return give(loss(loss_function, model(x), y) if again else value)

        return apply

    def either(**other):
        """A mistake, whether the loss is returned as a number or not."""
        return [step(**other), step(**other, give=lambda loss: loss)]

    mistakes = {
        "the gradients of the step before are still there, and add up: zero_grad comes first": either(
            order="forward backward step"
        ),
        "the gradients are thrown away before the step uses them: zero_grad comes before backward": either(
            order="forward backward zero step"
        ),
        "optimizer.step() is missing: nothing is learned": either(order="zero forward backward"),
        "backward is missing: the step has no gradients to follow": either(order="zero forward step"),
        "the step comes before backward, so it follows old gradients": [
            *either(order="zero forward step backward"),
            *either(order="forward step backward zero"),
        ],
        "two steps: one is asked for": [
            *either(order="zero forward backward step step"),
            *either(order="zero forward backward step zero forward backward step"),
        ],
        "the loss after the step is returned; the one before it is asked for": either(again=True),
        "prediction and target are exchanged in the loss": either(loss=lambda f, p, y: f(y, p)),
        "uphill: the loss is turned around": either(sign=-1),
        "the loss is a tensor still, and keeps its whole graph in memory: return loss.item()": step(
            give=lambda loss: loss
        ),
        "the model is put into evaluation mode: leave it in training mode": (
            lambda model, *rest: step()(model.eval(), *rest)
        ),
    }
    errors = _ERRORS | {
        "modified by an inplace operation": "the step changes weights that backward still needs: backward comes first",
        "does not require grad": "is the network called inside no_grad, or its output cut off by detach or .item()?",
    }
    return Exercise(step(), cases, mistakes, run=run, errors=errors)


@exercise
def training_loop() -> Exercise:
    """`answer(model, optimizer, loss_function, batches)`: a step for each (x, y) -> the losses, a list of numbers.

    The model comes in evaluation mode, as after a look at its results. The numbers hold no graph: loss.item().
    """
    cases = []
    for seed, batches, b, width in ((4, 2, 4, 5), (5, 3, 6, 7), (6, 5, 7, 3)):
        with seeded(seed):
            xy = [(torch.randn(b, 3).double(), torch.rand(b, 2).double()) for _ in range(batches)]
        cases.append((seed, width, xy))

    def run(answer, seed, width, batches):
        model, optimizer, events = _network(seed, width)
        losses = answer(model.eval(), optimizer, _loss, batches)
        held = any(map(_holds_graph, losses)) if isinstance(losses, list) else False
        return {
            "in order": ", ".join(events),
            "the losses": losses,
            "the weights after the loop": _weights(model),
            "the losses are numbers that hold no graph, as loss.item() makes them": not held,
        }

    def loop(
        zero=1, train=True, rest=lambda xy: xy, end=False, give=lambda losses: losses, keep=lambda loss: loss.item()
    ):
        def apply(model, optimizer, loss_function, batches):
            losses = []
            model.train(train)
            for k, (x, y) in enumerate(rest(batches)):
                if zero and k % zero == 0:
                    optimizer.zero_grad()
                loss = loss_function(model(x), y)
                loss.backward()
                losses.append(keep(loss))
                if not end:
                    optimizer.step()
            if end:
                optimizer.step()
            return give(losses)

        return apply

    mistakes = {
        "the gradients of all steps add up: zero_grad at each of them": [loop(zero=0), loop(zero=10**9)],
        "model.train() is missing: normalisation still works as in evaluation": loop(train=False),
        "one step at the end; each batch has its own": [loop(end=True), loop(end=True, zero=10**9)],
        "only the first batch is seen: does a return stand inside the loop?": [
            loop(rest=lambda xy: xy[:1]),
            loop(rest=lambda xy: xy[:1], give=lambda losses: losses[0]),
        ],
        "the last loss alone is returned; a list of all is asked for": loop(give=lambda losses: losses[-1]),
        "their mean is returned; a list of all is asked for": loop(give=lambda losses: sum(losses) / len(losses)),
        "a loss that is kept as a tensor keeps its whole graph in memory: append loss.item()": loop(
            keep=lambda loss: loss
        ),
        "each batch is seen twice; one step for each is asked for": loop(rest=lambda xy: [*xy, *xy]),
        "the first batch is seen again and again": loop(rest=lambda xy: xy[:1] * len(xy)),
        "no loss is kept: append each of them to the list": loop(give=lambda losses: []),
    }
    return Exercise(loop(), cases, mistakes, run=run, errors=_ERRORS)
