"""Other optimizers than AdamW, and other forms of the learning rate."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minildm.training import Muon, learning_rate, train
from minildm.training._muon import ROUNDS, orthogonal

QUIET = dict(progress=False)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.kernel, self.head = nn.Conv2d(2, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(F.silu(self.kernel(x)).mean((2, 3)))


def batch(generator, n):
    x = torch.randn(n, 2, 6, 7, generator=generator)
    return {"x": x, "y": 5 * x.mean((2, 3)) @ torch.tensor([[1.0, 2, 3], [-1, 0, 1]])}


def loss(model, tensors):
    return (model(tensors["x"]) - tensors["y"]).square().mean()


def shared_out(parameters):
    rest = [p for name, p in parameters.items() if name != "kernel.weight"]
    return [Muon([parameters["kernel.weight"]], lr=0.02), torch.optim.AdamW(rest, 0.01, fused=True)]


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (16, 16)])
def test_orthogonal_brings_all_singular_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 30
    found = torch.linalg.svdvals(orthogonal(x))
    assert found.min() > 0.3 and found.max() < 1.4  # of (1, ..., 30 sqrt(n)), by four rounds in bfloat16
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    alike = F.cosine_similarity(orthogonal(x).flatten(), (u @ v).flatten(), dim=0)
    assert alike > 0.95


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_muon_is_pytorchs_on_matrices(shape):
    def trained(make):
        w = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        optimizer, target = make([w]), torch.ones(shape)
        for _ in range(5):
            optimizer.zero_grad()
            (w - target).square().sum().backward()
            optimizer.step()
        return w.detach()

    settings = dict(lr=0.03, momentum=0.9, weight_decay=0.1)
    theirs = trained(lambda params: torch.optim.Muon(params, ns_steps=ROUNDS, **settings))
    torch.testing.assert_close(trained(lambda params: Muon(params, **settings)), theirs, atol=2e-3, rtol=0)


def test_a_kernel_counts_as_a_matrix():
    kernel, matrix = (nn.Parameter(torch.ones(shape)) for shape in ((3, 2, 2, 2), (3, 8)))
    kernel.grad = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(2))
    matrix.grad = kernel.grad.flatten(1).clone()
    Muon([kernel, matrix], lr=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())
    assert not torch.equal(matrix.detach(), torch.ones(3, 8))


def test_each_optimizer_has_its_own_peak():
    model, seen = Small(), []

    def optimizers(parameters):
        seen.extend(shared_out(parameters))
        return seen

    rates = []

    def log(step, numbers):
        rates.append([one.param_groups[0]["lr"] for one in seen])

    some = batch(torch.Generator().manual_seed(9), 256)
    before = loss(model, some).item()
    train(model, batch, loss, steps=100, batch_size=16, lr=1.0, warmup=2, optimizers=optimizers, log=log, **QUIET)
    form = [learning_rate(step, 100, 1.0, 2) for step in range(100)]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([[0.02 * f, 0.01 * f] for f in form]))
    assert loss(model, some).item() < 0.8 * before


def test_muon_resumes_to_the_same_weights(tmp_path):
    settings = dict(steps=7, batch_size=4, optimizers=shared_out, decay=3, checkpoint_seconds=0, **QUIET)
    train(whole := Small(), batch, loss, **settings)

    def crash(generator, n, calls=[]):  # noqa: B006
        calls.append(n)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return batch(generator, n)

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(Small(), crash, loss, checkpoint=path, **settings)
    history = train(again := Small(), batch, loss, checkpoint=path, **settings)
    assert history.step == 7
    for mine, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ValueError, match="belongs to another training: decay"):
        train(Small(), batch, loss, checkpoint=path, **settings | dict(decay=2))


@pytest.mark.parametrize("chosen", [["head.weight"], ["kernel.weight", "kernel.weight"]])
def test_every_parameter_has_one_optimizer(chosen):
    def some(parameters):
        return [torch.optim.SGD([parameters[name]], 0.1) for name in chosen]

    with pytest.raises(ValueError, match="share out the 4 parameters"):
        train(Small(), batch, loss, steps=1, batch_size=2, optimizers=some, **QUIET)


def test_decay_by_hand():
    rates = [learning_rate(step, 10, 2.0, 2, decay=4) for step in range(10)]
    assert rates == pytest.approx([1, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5])
    for wrong in (0, 11, 2.5, True, math.nan):
        with pytest.raises(ValueError, match="decay"):
            train(Small(), batch, loss, steps=10, batch_size=2, decay=wrong, **QUIET)
