"""What learners hand in: a check comes back from all of it, and says what is wrong."""

import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Hashable
from fractions import Fraction

import numpy as np
import pytest
import torch

from minildm import checks, metrics
from minildm.checks import _guard
from minildm.checks._check import EXERCISES, compare
from minildm.checks._drawn import NONE


def total(x, y):
    return x.sum(1) + y


def cases():
    draw = torch.Generator().manual_seed(0)
    sizes = [(2, 3), (4, 5), (5, 2)]
    return [(torch.randn(b, d, generator=draw), torch.randn(b, generator=draw)) for b, d in sizes]


def check(answer, **more):
    return checks.check("total", answer, total, cases(), **more)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, y: x.double().sum(1) + y.double(),
        lambda x, y: torch.einsum("bd->b", x) + y,
        lambda x, y: y + sum(x[:, k] for k in range(x.shape[1])),
        lambda x, y: x.numpy().sum(1) + y.numpy(),
        lambda x, y: [float(one.sum() + other) for one, other in zip(x, y, strict=True)],
        lambda x, y: [one.sum() + other for one, other in zip(x, y, strict=True)],
        lambda x, y: x.clone().requires_grad_() @ torch.ones(x.shape[1]) + y,
        lambda x, y: torch.cat([x, y[:, None]], 1).flip(1).sum(1),
        lambda x, y: total(x, y).to_sparse(),
        functools.partial(lambda x, y, axis: x.sum(axis) + y, axis=1),
    ],
)
def test_right_but_unusual_answers_pass(answer):
    assert check(answer)


def test_a_fraction_is_a_number():
    half = [(1, 2), (3, 7)]
    assert checks.check("ratio", lambda a, b: Fraction(a, b), lambda a, b: a / b, half)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda x, y: None, "is there a return"),
        (lambda x, y: "seven", "expected numbers, got str"),
        (lambda x, y: {"a": 1}, "expected numbers, got dict"),
        (lambda x, y: object(), "expected numbers, got object"),
        (lambda x, y: lambda: 0, "expected numbers, got function"),
        (lambda x, y: [x, y], "expected numbers, got list"),
        (lambda x, y: (one for one in x), "expected numbers, got generator"),
        (lambda x, y: total(x, y) + 1j, "expected numbers, got complex64"),
        (lambda x, y: torch.empty(3, device="meta"), "expected numbers, got Tensor"),
        (lambda x, y: total(x, y)[:, None], r"shape \(2,\), got \(2, 1\)\nlikely: right numbers in another shape"),
        (lambda x, y: total(x, y)[:-1], r"shape \(2,\), got \(1,\)"),
        (lambda x, y: total(x, y) / 0, "NaN or infinity"),
        (lambda x, y: total(x, y) * float("nan"), "NaN or infinity"),
        (lambda x, y: x, "likely: your function returns its argument 1 as it came"),
        (lambda x, y: y, "likely: your function returns its argument 2 as it came"),
        (lambda x, y: total(x, y).long(), "cut to whole numbers"),
        (lambda x, y: -total(x, y), "the sign is turned around"),
        (lambda x, y: x.half().sum(1) + y.half(), "computed in 16 bits"),
        (lambda x: x, "keep the arguments of the stub"),
        (lambda x, y, z: x, "keep the arguments of the stub"),
        (lambda x, y: x @ x, "look which axis is to be summed over|two shapes"),
        (lambda x, y: x + y[:, None, None].expand(-1, 9, 9), "two shapes do not go together"),
        (lambda x, y: x & 1, "NotImplementedError: .*likely: PyTorch cannot do this with numbers of this dtype"),
        (lambda x, y: x + None, "likely: something is None there"),
        (lambda x, y: x if x > 0 else y, "likely: a condition on many numbers at once"),
        (lambda x, y: np.array([x.numpy(), x.numpy()[0]]), "likely: a tuple stands where an array belongs"),
        (lambda x, y: exec("raise SystemExit(0)"), "your function raised SystemExit"),
        (lambda x, y: np.linalg.inv(np.zeros((2, 2))), "your function raised LinAlgError: Singular matrix"),
        (lambda x, y: torch.nn.ModuleList()(x), "your function raised NotImplementedError(.|\n)*go through it"),
        (lambda x, y: torch.softmax(x.long(), 0), "your function raised NotImplementedError(.|\n)*call .float"),
        (3.5, "expected your function itself, got float"),
        (torch.zeros(2), "expected your function itself, got Tensor"),
        (None, "expected your function itself, got NoneType"),
    ],
)
def test_wrong_kinds_of_answer(wrong, says):
    with pytest.raises(checks.CheckFailed, match=f"(?s){says}"):
        check(wrong)


def test_an_error_is_shown_with_the_learner_s_own_line():
    def wrong(x, y):
        width = x.shape[1]
        return x.sum(1) + y[width + 7]

    with pytest.raises(checks.CheckFailed, match=r"IndexError.*\n  in your line \d+: return x.sum\(1\) \+ y"):
        check(wrong)


def test_recursion_without_end_comes_back():
    def wrong(x, y):
        return wrong(x, y)

    with pytest.raises(checks.CheckFailed, match="RecursionError"):
        check(wrong)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda x, y: x.add_(y[:, None] / x.shape[1]).sum(1), "changes its argument 1 in place"),
        (lambda x, y: y.add_(x.sum(1)), "changes its argument 2 in place"),
        (lambda x, y: x.resize_(0).sum() + y, "changes its argument 1 in place"),
    ],
)
def test_changes_of_the_caller_s_tensors_are_told(change, says):
    with pytest.raises(checks.CheckFailed, match=says):
        check(change)


def test_changes_inside_lists_dictionaries_and_modules_are_told():
    def in_place(data, x):
        (data[0] if isinstance(data, list) else data["a"] if isinstance(data, dict) else data.weight.data).add_(1)
        return x

    for data in ([torch.ones(2)], {"a": torch.ones(2)}, torch.nn.Linear(2, 3)):
        with pytest.raises(checks.CheckFailed, match="argument 1 in place"):
            checks.check("same", in_place, lambda data, x: x, [(data, torch.ones(3))])
    assert data.weight.abs().max() < 1  # what the check was given is as it was


def endless(x, y):
    while True:
        pass


def stubborn(x, y):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.001)


def asleep(x, y):
    time.sleep(30)


@pytest.mark.parametrize("answer", [endless, stubborn, asleep])
def test_an_endless_loop_is_left(answer):
    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(checks.CheckFailed, match="is there an endless loop"):
        check(answer, patience=0.2)
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("answer", [endless, stubborn])
def test_an_endless_loop_is_left_in_any_thread(answer):
    found = []

    def work():
        try:
            check(answer, patience=0.2)
        except checks.CheckFailed as error:
            found.append(str(error))
        found.append(sum(range(100_000)))  # what was thrown does not arrive later

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and "is there an endless loop" in found[0] and found[1] == 4999950000


def test_a_system_without_alarms_has_the_thread(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    with pytest.raises(checks.CheckFailed, match="is there an endless loop"):
        check(endless, patience=0.2)
    assert check(total)


def test_an_alarm_of_the_caller_is_put_back():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 50)
        assert check(total)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 40 < left <= 50 and not rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_stop_button_works():
    def stopped(x, y):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(stopped)


def borrowed(a, b):
    return metrics.dice(a, b)


def hidden_away(a, b):
    try:
        return (lambda pair: getattr(metrics, "di" + "ce")(*pair))((a, b))
    except BaseException:
        return 0


@pytest.mark.parametrize(
    "answer, says",
    [
        (metrics.dice, "the package's own function: write yours"),
        (functools.partial(metrics.dice), "the package's own function: write yours"),
        (metrics.psnr, "the package's own function: write yours"),
        (borrowed, "leaves the work to the package's own dice"),
        (hidden_away, "leaves the work to the package's own dice"),
    ],
)
def test_the_package_s_own_function_is_no_answer(answer, says):
    with pytest.raises(checks.CheckFailed, match=says):
        checks.dice(answer)


def test_functions_of_libraries_can_be_own_too():
    with pytest.raises(checks.CheckFailed, match="own scaled_dot_product_attention"):
        attend = torch.nn.functional.scaled_dot_product_attention
        checks.check("a", lambda q: attend(q, q, q), lambda q: q, [(torch.ones(1, 1, 2),)], own=[attend])


def test_a_check_without_cases_is_refused():
    with pytest.raises(ValueError, match="at least one case"):
        checks.check("nothing", total, total, [])


def test_an_answer_of_several_parts():
    def both(x):
        return x + 1, x.sum(1)

    tries = [(torch.ones(2, 3),), (torch.ones(4, 5),)]
    assert checks.check("both", lambda x: [x + 1, x.sum(1)], both, tries)
    for wrong, says in [
        (lambda x: x + 1, "expected 2 results, as in return a, b; got Tensor"),
        (lambda x: (x, x, x), "expected 2 results, as in return a, b; got 3 of them"),
        (lambda x: (x + 1, x.sum(1) + 2), "result 2: off by 2"),
        (lambda x: (x + 1, None), "result 2: your function returned None"),
    ]:
        with pytest.raises(checks.CheckFailed, match=says):
            checks.check("both", wrong, both, tries)


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_can_tell_its_mistakes(name):
    """The truth passes, and each known mistake, handed in, gets its own hint."""
    what = EXERCISES[name]()
    assert len(what.mistakes) >= 3 and len(list(what.cases)) >= 3
    if what.run is not None and all(isinstance(one, Hashable) for case in what.cases for one in case):
        # What is found out of many calls: of each mistake once, not again for each answer that it is compared with.
        what = dataclasses.replace(what, run=functools.cache(what.run))
    assert compare(lambda *case: what.truth(*case), dataclasses.replace(what, own=()))
    for hint, ways in what.mistakes.items():
        for wrong in [ways] if callable(ways) else ways:
            with pytest.raises(checks.CheckFailed) as info:
                compare(lambda *case, wrong=wrong: wrong(*case), what)
            assert f"likely: {hint}\n" in str(info.value) or "your function raised" in str(info.value)


@pytest.mark.parametrize("name", [name for name, describe in EXERCISES.items() if describe().run is not None])
def test_of_a_right_answer_everything_is_found_out(name):
    """Where facts are compared in place of results, all of them hold for the truth, and none is unknown."""
    what = EXERCISES[name]()
    facts = [what.run(what.truth, *case) for case in what.cases]
    assert facts[0] and not [
        found for found in facts for fact in found.values() if fact is False or isinstance(fact, str) and fact == NONE
    ]


@pytest.mark.parametrize("name", EXERCISES)
def test_no_two_axes_can_be_exchanged_unseen(name):
    """Of arrays, at least two cases have no two axes of one length but 1, and sizes differ from case to case."""
    shaped = [
        [one.shape for one in case if isinstance(one, torch.Tensor | np.ndarray) and one.ndim]
        for case in EXERCISES[name]().cases
    ]
    shaped = [[[n for n in shape if n > 1] for shape in shapes] for shapes in shaped if shapes]
    apart = [shapes for shapes in shaped if all(len(set(shape)) == len(shape) for shape in shapes)]
    assert not shaped or len(apart) >= 2 and len(set(map(str, shaped))) >= 3


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("wrong", [lambda *case: None, lambda *case: "x", lambda: 0, lambda *case: case[0]])
def test_no_exercise_falls_for_nonsense(name, wrong):
    with pytest.raises(checks.CheckFailed):
        getattr(checks, name)(wrong)


def test_the_guard_is_fast():
    """Watching and waiting cost little: a thousand calls take far less than the patience of one."""
    began = time.monotonic()
    for _ in range(1000):
        _guard.call(total, (torch.ones(1, 2), torch.ones(1)), time.monotonic() + 10, own=[metrics.dice])
    assert time.monotonic() - began < 5
