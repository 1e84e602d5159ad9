"""Checks of homework: they come back from whatever is handed in, and tell nothing but what is wrong."""

import importlib.util
import time

import numpy as np
import pytest
import torch

from minildm import checks, metrics
from minildm.checks import _outcome
from minildm.checks._probe import Probe, probe


@probe(own=[metrics.dice], patience=2)
def doubled(ask: Probe) -> None:
    """`answer(x)`, (n,) -> (n,), twice as much."""
    for n in (2, 3, 5):
        x = torch.as_tensor(ask.rng.normal(size=n))
        found = ask(x)
        ask.need(found.shape == (n,), f"expected {n} numbers, got shape {found.shape}")
        ask.near(found, 2 * x, "half of it is missing")


def endless(x):
    while True:
        pass


def sleepy(x):
    while True:
        try:
            time.sleep(60)
        except Exception:
            continue


def in_place(x):
    x *= 2
    return x


def through_the_package(x):
    metrics.dice(np.ones((2, 2), bool), np.ones((2, 2), bool))
    return 2 * x


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: 2 * x,
        lambda x: (2 * x).float(),
        lambda x: x.numpy() + x.numpy(),
        lambda x: [2 * float(one) for one in x],
        lambda x: torch.einsum("n,k->nk", x, torch.full((2,), 1.0, dtype=x.dtype)).sum(1),
        lambda x: x.clone().requires_grad_() * 2,
    ],
)
def test_right_answers_of_any_kind_pass(answer, capsys):
    assert doubled(answer)
    assert capsys.readouterr().out == "✓ doubled: 6 facts in 3 calls\n"


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda x: None, "is there a return"),
        (lambda x: x, "half of it is missing"),
        (lambda x: "2", "expected numbers, got str"),
        (lambda x: {"x": 2 * x}, "expected numbers, got dict"),
        (lambda x: 2 * x / 0, "NaN or infinity"),
        (lambda x: 2 * x[None], r"expected 2 numbers, got shape \(1, 2\)"),
        (lambda x: 2 * x + torch.ones(7), "raised RuntimeError"),
        (lambda x: exit(), "raised SystemExit"),
        (lambda: 2, "keep the arguments of the stub"),
        (in_place, "changes its argument 1 in place"),
        (through_the_package, "the package's own dice"),
        (metrics.dice, "the package's own function"),
        (endless, "endless loop"),
        (sleepy, "endless loop"),
        (7, "expected your function itself, got int"),
    ],
)
def test_wrong_answers_are_refused(wrong, says):
    with pytest.raises(checks.CheckFailed, match=f"(?s)^doubled: .*{says}"):
        doubled(wrong)


def stub(x):
    raise NotImplementedError("write it here")


def test_a_stub_is_not_an_answer(capsys):
    assert not doubled(stub)
    assert capsys.readouterr().out == "– doubled: not written yet (write it here)\n"
    with pytest.raises(checks.CheckFailed, match="not written yet"):
        doubled(stub, strict=True)


def test_where_nbgrader_runs_a_notebook_checks_are_strict(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "validate")
    spec = importlib.util.spec_from_file_location("fresh", _outcome.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.strict.now and not checks.strict.now


def test_a_check_shows_its_words_and_no_traceback():
    with pytest.raises(checks.CheckFailed) as caught:
        doubled(lambda x: x)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert doubled.__name__ == "doubled" and doubled.__doc__.startswith("`answer(x)`")
