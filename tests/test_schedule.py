"""Schedules against hand-computed values and the tables of diffusers; conversions against their definitions."""

import copy
import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from minildm.schedule import PREDICTS, NoiseSchedule
from minildm.tensors import check_integers

BY_HAND = NoiseSchedule.from_betas([0.1, 0.2, 0.5])  # alphas_cumprod 0.9, 0.72, 0.36
SCHEDULES = {
    "linear": NoiseSchedule.linear(),
    "scaled_linear": NoiseSchedule.scaled_linear(),
    "squaredcos_cap_v2": NoiseSchedule.cosine(),
}


def pictures(seed, dtype=torch.float64, b=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, 2, 3, 5, generator=generator, dtype=dtype) for _ in range(2)]


def test_tables_by_hand():
    assert len(BY_HAND) == 3
    torch.testing.assert_close(BY_HAND.betas, torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64))
    torch.testing.assert_close(BY_HAND.alphas_cumprod, torch.tensor([0.9, 0.72, 0.36], dtype=torch.float64))
    torch.testing.assert_close(BY_HAND.snr(torch.tensor([2, 0])), torch.tensor([0.5625, 9.0], dtype=torch.float64))


def test_noising_by_hand():
    x_0, eps = torch.tensor([[2.0], [10.0]]), torch.tensor([[-1.0], [1.0]])
    x_t = BY_HAND.add_noise(x_0, eps, torch.tensor([2, 0]))
    torch.testing.assert_close(x_t, torch.tensor([[0.6 * 2 - 0.8], [math.sqrt(0.9) * 10 + math.sqrt(0.1)]]))
    v = BY_HAND.velocity(x_0, eps, torch.tensor([2, 0]))
    torch.testing.assert_close(v, torch.tensor([[-0.6 - 0.8 * 2], [math.sqrt(0.9) - math.sqrt(0.1) * 10]]))


def test_the_betas_of_each_schedule_by_hand():
    linear = NoiseSchedule.linear(3, beta_start=0.1, beta_end=0.3).betas
    torch.testing.assert_close(linear, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    scaled = NoiseSchedule.scaled_linear(3, beta_start=0.01, beta_end=0.25).betas
    torch.testing.assert_close(scaled, torch.tensor([0.01, 0.09, 0.25], dtype=torch.float64))
    cosine = NoiseSchedule.cosine(2, offset=0.0, beta_max=0.9)  # cos² of 0, 45 and 90 degrees: 1, 1/2 and 0
    torch.testing.assert_close(cosine.betas, torch.tensor([0.5, 0.9], dtype=torch.float64))


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_equal_the_reference(name, zero_snr):
    ours = SCHEDULES[name].zero_terminal_snr() if zero_snr else SCHEDULES[name]
    betas = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {}
    theirs = DDIMScheduler(beta_schedule=name, rescale_betas_zero_snr=zero_snr, **betas)
    assert ours.betas.dtype == ours.alphas_cumprod.dtype == torch.float64
    # The reference computes in float32, where 1 - beta and a product of a thousand factors lose digits.
    torch.testing.assert_close(ours.betas, theirs.betas.double(), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod.double(), atol=1e-6, rtol=0)
    if not zero_snr:
        torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod.double(), atol=0, rtol=1e-4)


def test_noising_equals_the_reference():
    x_0, eps = pictures(0, torch.float32)
    t = torch.tensor([0, 10, 500, 999])
    theirs = DDIMScheduler()
    ours = SCHEDULES["linear"]
    assert (ours.add_noise(x_0, eps, t) - theirs.add_noise(x_0, eps, t)).abs().max() <= 1e-5
    assert (ours.velocity(x_0, eps, t) - theirs.get_velocity(x_0, eps, t)).abs().max() <= 1e-5


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), BY_HAND], ids=repr)
def test_the_jump_equals_the_chain_in_distribution(schedule):
    kept, variance = 1.0, 0.0  # of x_t given x_0, one step at a time
    for beta, alpha_cumprod in zip(schedule.betas.tolist(), schedule.alphas_cumprod.tolist(), strict=True):
        kept, variance = kept * math.sqrt(1 - beta), (1 - beta) * variance + beta
        assert math.isclose(kept**2, alpha_cumprod, rel_tol=1e-9)
        assert math.isclose(variance, 1 - alpha_cumprod, rel_tol=1e-9)


@given(t=st.lists(st.integers(0, 999), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_conversions_agree_with_the_definitions(t, seed):
    schedule, t = SCHEDULES["scaled_linear"], torch.tensor(t)
    x_0, eps = pictures(seed, b=len(t))
    x_t, v = schedule.add_noise(x_0, eps, t), schedule.velocity(x_0, eps, t)
    for found, expected in [
        (schedule.eps_to_x_0(x_t, eps, t), x_0),
        (schedule.v_to_x_0(x_t, v, t), x_0),
        (schedule.x_0_to_eps(x_t, x_0, t), eps),
        (schedule.v_to_eps(x_t, v, t), eps),
        (schedule.x_0_to_v(x_t, x_0, t), v),
        (schedule.eps_to_v(x_t, eps, t), v),
    ]:
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("a", "b"), [("eps", "x_0"), ("eps", "v"), ("x_0", "v")])
def test_each_pair_undoes_itself(a, b):
    schedule, t = SCHEDULES["linear"], torch.tensor([0, 17, 400, 999])
    x_t, said = pictures(5)  # any prediction at all, not only a right one
    there, back = getattr(schedule, f"{a}_to_{b}"), getattr(schedule, f"{b}_to_{a}")
    torch.testing.assert_close(back(x_t, there(x_t, said, t), t), said, atol=1e-9, rtol=0)
    torch.testing.assert_close(there(x_t, back(x_t, said, t), t), said, atol=1e-9, rtol=0)


@pytest.mark.parametrize("predicts", PREDICTS)
def test_reading_the_target_gives_picture_and_noise(predicts):
    schedule, t = SCHEDULES["squaredcos_cap_v2"], torch.tensor([3, 250, 600, 900])
    x_0, eps = pictures(7)
    x_t = schedule.add_noise(x_0, eps, t)
    schedule = schedule.predicting(predicts)
    found = schedule.read(schedule.target(x_0, eps, t), x_t, t)
    torch.testing.assert_close(found, (x_0, eps), atol=1e-9, rtol=0)


def test_zero_terminal_snr():
    schedule = SCHEDULES["scaled_linear"].zero_terminal_snr()
    assert schedule.alphas_cumprod[-1] == 0 and schedule.betas[-1] == 1
    assert schedule.alphas_cumprod[0] == pytest.approx(SCHEDULES["scaled_linear"].alphas_cumprod[0].item(), abs=1e-12)
    assert (schedule.alphas_cumprod.diff() < 0).all()
    assert schedule.snr(torch.tensor([999])) == 0

    x_0, eps = pictures(9)
    last = torch.tensor([999] * 4)
    x_t, v = schedule.add_noise(x_0, eps, last), schedule.velocity(x_0, eps, last)
    torch.testing.assert_close(x_t, eps)
    torch.testing.assert_close(v, -x_0)
    torch.testing.assert_close(schedule.v_to_x_0(x_t, v, last), x_0)
    torch.testing.assert_close(schedule.v_to_eps(x_t, v, last), eps)
    torch.testing.assert_close(schedule.x_0_to_v(x_t, x_0, last), v)
    torch.testing.assert_close(schedule.x_0_to_eps(x_t, x_0, last), eps)
    for undefined in (schedule.eps_to_x_0, schedule.eps_to_v):
        with pytest.raises(ValueError, match=r"timestep 999 .* predicts x_0 or v"):
            undefined(x_t, eps, torch.tensor([5, 7, 999, 3]))
        assert undefined(x_t, eps, last - 1).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_pictures_stays_and_precision_is_kept(dtype):
    x_0, eps = pictures(1, dtype)
    t = torch.tensor([0, 300, 700, 999])
    exact = SCHEDULES["linear"].add_noise(x_0.double(), eps.double(), t)
    found = SCHEDULES["linear"].add_noise(x_0, eps, t)
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() <= 2 * torch.finfo(dtype).eps * exact.abs().max()


def test_the_tables_are_the_schedules_own():
    betas = torch.tensor([0.1, 0.2])
    schedule = NoiseSchedule.from_betas(betas)
    betas += 1
    assert schedule.betas.tolist() == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule.from_betas([]), "betas as a list"),
        (lambda: NoiseSchedule.from_betas([[0.1]]), r"shape \(1, 1\)"),
        (lambda: NoiseSchedule.from_betas([0.1, 0.0]), "above 0 and below 1"),
        (lambda: NoiseSchedule.from_betas([1.0, 0.5]), "only the last"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.1]), "0.1 to 1.1"),
        (lambda: NoiseSchedule.from_betas([0.1, float("nan")]), "finite"),
        (lambda: NoiseSchedule.linear(0), "whole number of steps from 1, got 0"),
        (lambda: NoiseSchedule.cosine(10.5), "got 10.5"),
        (lambda: NoiseSchedule.scaled_linear(True), "got True"),
        (lambda: NoiseSchedule.from_betas([0.5]).zero_terminal_snr(), "at least 2 steps"),
        (lambda: BY_HAND.predicting("noise"), "got 'noise'"),
        (lambda: NoiseSchedule([0.9, 0.5], [0.1, 0.5], "z"), "got 'z'"),
        (lambda: NoiseSchedule([0.9, 0.5], [0.1]), "got 2 and 1 steps"),
        (lambda: NoiseSchedule([0.9, 0.5], [0.5, 0.1]), "at no timestep more signal"),
        (lambda: NoiseSchedule([0.9, -0.1], [0.5, 0.9]), "signal from -0.1"),
        (lambda: NoiseSchedule([1.0, 0.5], [0.0, 0.9]), "noise from 0"),
        (lambda: NoiseSchedule([0.9, 0.5], [0.1, float("inf")]), "finite"),
        (lambda: NoiseSchedule.flow(shift=0), "shift above 0"),
        (lambda: NoiseSchedule.flow(0), "whole number of steps from 1, got 0"),
        (lambda: NoiseSchedule.from_config({"kind": "karras", "predicts": "v"}), "no schedule of kind 'karras'"),
        (lambda: NoiseSchedule.from_config({"kind": "cosine"}), "what NoiseSchedule.config writes"),
        (lambda: NoiseSchedule.from_config({"kind": "cosine", "predicts": "v", "x": 1}), "what NoiseSchedule.config"),
        (lambda: NoiseSchedule.from_config([1]), "what NoiseSchedule.config writes"),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (7, r"tensor \(b,\) of int64, got int"),
        (torch.tensor(1), r"got shape \(\) of torch.int64"),
        (torch.tensor([[1]] * 4), r"shape \(4, 1\)"),
        (torch.tensor([0.5] * 4), r"float32; .*t\.long\(\)"),
        (torch.tensor([True] * 4), "bool"),
        (torch.tensor([0, 1, 2, 3]), "from 0 to 2, got 0 to 3"),
        (torch.tensor([0, 1, 2, -1]), "from 0 to 2, got -1 to 2"),
        (torch.tensor([0, 1]), r"one number per sample, shape \(4,\)"),
    ],
)
def test_bad_timesteps(t, message):
    with pytest.raises(ValueError, match=message):
        BY_HAND.add_noise(*pictures(0), t)


def test_integers_are_checked_by_name():
    check_integers("y", torch.tensor([0, 6], dtype=torch.int32), 7)
    with pytest.raises(ValueError, match="expected y from 0 to 6, got 2 to 7"):
        check_integers("y", torch.tensor([7, 2]), 7)


FLOW = NoiseSchedule.flow(4)


def test_flow_by_hand():
    torch.testing.assert_close(FLOW.noise, torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(FLOW.signal + FLOW.noise, torch.ones(4, dtype=torch.float64))
    assert FLOW.predicts == "flow" and FLOW.signal[-1] == 0
    x_0, eps, t = torch.tensor([[2.0]]), torch.tensor([[-6.0]]), torch.tensor([1])
    torch.testing.assert_close(FLOW.add_noise(x_0, eps, t), torch.tensor([[-2.0]]))
    torch.testing.assert_close(FLOW.target(x_0, eps, t), torch.tensor([[-8.0]]))
    shifted = NoiseSchedule.flow(4, shift=3.0).noise  # 3 s / (1 + 2 s)
    torch.testing.assert_close(shifted, torch.tensor([0.5, 0.75, 0.9, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_equals_the_reference(shift):
    theirs = FlowMatchEulerDiscreteScheduler(1000, shift=shift).sigmas
    torch.testing.assert_close(NoiseSchedule.flow(1000, shift).noise.flip(0).float(), theirs, atol=1e-6, rtol=0)


def test_betas_only_where_variance_is_preserved():
    for name in ("betas", "alphas_cumprod"):
        with pytest.raises(AttributeError, match=f"no {name}: its signal² \\+ noise² is not 1"):
            getattr(FLOW, name)
    with pytest.raises(AttributeError, match="zero_terminal_snr"):
        FLOW.zero_terminal_snr()


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), BY_HAND, NoiseSchedule.flow(50, 2.0)], ids=repr)
@pytest.mark.parametrize("predicts", PREDICTS)
def test_every_answer_is_read_on_every_schedule(schedule, predicts):
    """The answer from its definition, solved back; and the two definitions of a state agree."""
    t = torch.tensor([0, 1, len(schedule) // 2, len(schedule) - 2])
    x_0, eps = pictures(11)
    a, s = (table[t].reshape(4, 1, 1, 1) for table in (schedule.signal, schedule.noise))
    said = {"eps": eps, "x_0": x_0, "v": a * eps - s * x_0, "flow": eps - x_0}[predicts]
    schedule = schedule.predicting(predicts)
    torch.testing.assert_close(schedule.target(x_0, eps, t), said)
    found = schedule.read(said, a * x_0 + s * eps, t)
    torch.testing.assert_close(found, (x_0, eps), atol=1e-7, rtol=1e-7)


def test_what_a_model_predicts_is_a_property_of_the_schedule():
    v = NoiseSchedule.cosine().predicting("v")
    assert (v.predicts, NoiseSchedule.cosine().predicts) == ("v", "eps")
    assert v == NoiseSchedule.cosine().predicting("v") and v != NoiseSchedule.cosine() and v != "v"
    assert v != NoiseSchedule.linear().predicting("v") and v != NoiseSchedule.cosine(999).predicting("v")
    assert v.zero_terminal_snr().predicts == "v"


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule.linear(7, beta_end=0.3),
        NoiseSchedule.scaled_linear().predicting("v"),
        NoiseSchedule.cosine(20, beta_max=0.9).predicting("x_0"),
        NoiseSchedule.flow(9, 2.0),
        BY_HAND.predicting("v"),
        NoiseSchedule.scaled_linear(30).zero_terminal_snr(),
    ],
    ids=repr,
)
def test_a_description_makes_it_again(schedule):
    again = NoiseSchedule.from_config(json.loads(json.dumps(schedule.config)))
    assert again == schedule and again.config == schedule.config
    assert torch.equal(again.signal, schedule.signal) and torch.equal(again.noise, schedule.noise)
    for twin in (copy.deepcopy(schedule), copy.copy(schedule)):
        assert twin == schedule


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_no_pictures(dtype):
    x, t = torch.ones(1, 1, 1, 3, dtype=dtype), torch.tensor([1])
    for call in (BY_HAND.add_noise, BY_HAND.velocity, BY_HAND.x_0_to_eps, BY_HAND.v_to_x_0):
        with pytest.raises(ValueError, match=r"floating-point tensor, from -1 to 1, got .*torch\."):
            call(*((x, x, t) if call in (BY_HAND.add_noise, BY_HAND.velocity) else (x, x.float(), t)))
    with pytest.raises(ValueError, match="got list"):
        BY_HAND.add_noise([1.0], x, t)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_default_dtype_changes_nothing(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for kind in ("linear", "scaled_linear", "cosine", "flow"):
            made = getattr(NoiseSchedule, kind)(30)
            assert made.signal.dtype == torch.float64 and made.snr(torch.tensor([3])).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert made == NoiseSchedule.flow(30)


@pytest.mark.parametrize("shape", [(4, 1, 3, 5), (3, 5), (1, 2, 3, 5), (4, 2, 3, 6)])
def test_shapes_are_not_stretched_in_silence(shape):
    x, other, t = pictures(0)[0], torch.zeros(shape, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    v = BY_HAND.predicting("v")
    for call in (v.add_noise, v.target, v.velocity, v.x_0_to_eps):
        with pytest.raises(ValueError, match=r"both of one shape, \(4, 2, 3, 5\), got"):
            call(x, other, t)
    with pytest.raises(ValueError, match="both of one shape"):
        v.read(other, x, t)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoiseSchedule(None, None),
        lambda: NoiseSchedule("linear", "linear"),
        lambda: NoiseSchedule.from_betas(None),
        lambda: NoiseSchedule.scaled_linear(10, -1),
        lambda: NoiseSchedule.linear(10, "1e-4"),
        lambda: NoiseSchedule.flow(10, "3"),
        lambda: NoiseSchedule.flow(10, torch.tensor(3.0)),
        lambda: NoiseSchedule.linear().snr(3),
    ],
)
def test_other_things_than_numbers_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_a_shifted_cosine_holds_as_many_times_the_noise_for_its_signal():
    plain, shifted = NoiseSchedule.cosine(50), NoiseSchedule.cosine(50, shift=3)
    ratio = (shifted.noise / shifted.signal) / (plain.noise / plain.signal)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 3.0), rtol=1e-9, atol=0)
    torch.testing.assert_close(shifted.signal**2 + shifted.noise**2, torch.ones(50, dtype=torch.float64))
    assert NoiseSchedule.from_config(shifted.config) == shifted != plain
    assert NoiseSchedule.cosine(50, shift=1) == plain
    with pytest.raises(ValueError, match="a shift above 0"):
        NoiseSchedule.cosine(50, shift=0)
