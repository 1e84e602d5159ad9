"""Homework 3: right but unusual answers pass, wrong ones are caught with a hint that fits."""

import math

import numpy as np
import pytest
import torch
from homework import Assignment

from minildm import NoiseSchedule, samplers

BOOK = Assignment("3_samplers")


def stepping(r=lambda h, before: h / before / 2, first=1.0):
    def answer(z, eps_now, eps_before, before, now, then):
        h = then - now
        if eps_before is None:
            return z + first * h * eps_now
        return z + h * torch.lerp(eps_before, eps_now, 1 + r(h, now - before))

    return answer


def in_place(z, eps_now, eps_before, before, now, then):
    z += stepping()(z, eps_now, eps_before, before, now, then) - z
    return z


def by_the_package(z, eps_now, *rest):
    list(samplers.ddim(lambda x, t: eps_now, NoiseSchedule.cosine(), z, 2))
    return stepping()(z, eps_now, *rest)


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("steps before and after differ", stepping(lambda h, b: 0.5)),
        ("straight line in sigma", stepping(lambda h, b: 0.0)),
        ("straight line in sigma", stepping(lambda h, b: -0.5)),
        ("straight line in sigma", stepping(lambda h, b: b / h / 2 if h else 0.0)),
        ("straight line in sigma", stepping(lambda h, b: h / b)),
        ("straight line in sigma", stepping(lambda h, b: -h / b / 2)),
        ("step of Euler", stepping(first=0.0)),
        ("step of Euler", stepping(first=0.5)),
        ("in place", in_place),
        ("package's own", by_the_package),
        ("something is None", lambda z, a, b, before, now, then: z + (then - now) * (1.5 * a - 0.5 * b)),
        (
            "ask `is None`",
            lambda z, a, b, *levels: stepping()(z, a, b, *levels) if b else stepping()(z, a, None, *levels),
        ),
        ("straight line in sigma", stepping(lambda h, b: b / h / 2)),
        ("shaped like z", lambda *arguments: stepping()(*arguments).flatten()),
    ],
)
def test_wrong_steps_are_caught(hint, answer):
    BOOK.refuses("two-step", hint, two_step=answer)


def by_integral(z, eps_now, eps_before, before, now, then):
    """In NumPy: the line through both answers, integrated."""
    z, a = z.numpy(), eps_now.numpy()
    if eps_before is None:
        return z + (then - now) * a
    slope = (a - eps_before.numpy()) / (now - before)
    return z + (a - slope * now) * (then - now) + slope * (then**2 - now**2) / 2


@pytest.mark.parametrize("answer", [stepping(), by_integral, lambda z, *rest: stepping()(z.float(), *rest)])
def test_right_steps_pass(answer):
    BOOK.accepts("two-step", two_step=answer)


def solving(begin=None, keep=True, level=0, calls=1, last=None, euler=False):
    def answer(eps, z, sigmas):
        history = []
        sigmas = sigmas[:last]
        for k in range(len(sigmas) - 1):
            for _ in range(calls):
                e = eps(z, max(sigmas[k + level], 1e-6))
            if history and not euler:
                z = stepping()(z, e, *history[-1 if keep else 0], sigmas[k], sigmas[k + 1])
            elif not history and begin is not None:
                z = stepping()(z, e, begin * e, 2 * sigmas[0], sigmas[0], sigmas[1])
            else:
                z = z + (sigmas[k + 1] - sigmas[k]) * e
            history.append((e, sigmas[k]))
        return z

    return answer


def euler_at_0(eps, z, sigmas):
    """The last step as in lesson 04, where the step to the clean picture is DDIM's for all samplers."""
    if sigmas[-1] > 0:
        return solving()(eps, z, sigmas)
    z = solving()(eps, z, sigmas[:-1])
    return z - sigmas[-2] * eps(z, sigmas[-2])


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("each step is exact|first step each is exact|divide the error by 2", solving(euler=True)),
        ("divide the error by 2", solving(keep=False)),
        ("where it begins", solving(level=1)),
        ("asks once", solving(calls=2)),
        ("asks once", solving(last=-1)),
        ("first step each is exact", solving(begin=0.0)),
        ("to level 0", euler_at_0),
        ("at the last level alone", lambda eps, z, sigmas: torch.stack([solving()(eps, z, sigmas)] * len(sigmas))),
        ("returned None", lambda eps, z, sigmas: None),
        ("stays as it is|asks once|asks 0", lambda eps, z, sigmas: 0 * z),
    ],
)
def test_wrong_solvers_are_caught(hint, answer):
    BOOK.refuses("solve", hint, solve=answer)


def test_right_solvers_pass():
    BOOK.accepts("solve", solve=solving())
    BOOK.accepts(
        "solve", solve=lambda eps, z, sigmas: solving()(lambda x, s: eps(x, s).clone(), z.clone(), tuple(sigmas))
    )


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("have the order p", lambda n, e: np.polyfit(np.log(n), np.log(e), 1)[0]),
        ("have the order p", lambda n, e: -np.polyfit(n, np.log(e), 1)[0]),
        ("have the order p", lambda n, e: -np.polyfit(np.log(n), e, 1)[0]),
        ("have the order p", lambda n, e: -np.polyfit(np.log(n), np.log2(e), 1)[0]),
        ("nor the ends alone", lambda n, e: -math.log(e[-1] / e[0]) / math.log(n[-1] / n[0])),
        ("best through", lambda n, e: -math.log(e[-1] / e[-2]) / math.log(n[-1] / n[-2])),
        ("slopes between neighbours", lambda n, e: -np.mean(np.diff(np.log(e)) / np.diff(np.log(n)))),
        ("order below 0", lambda n, e: abs(np.polyfit(np.log(n), np.log(e), 1)[0])),
        ("one number", lambda n, e: -np.polyfit(np.log(n), np.log(e), 1)),
    ],
)
def test_a_wrong_order_is_caught(hint, answer):
    BOOK.refuses("measured-order", hint, measured_order=answer)


def order_by_covariance(n, e):
    x, y = torch.tensor(n, dtype=torch.float64).log10(), torch.tensor(e, dtype=torch.float64).log10()
    c = torch.cov(torch.stack([x, y]))
    return (-c[0, 1] / c[0, 0]).item()


def test_a_right_order_passes():
    BOOK.accepts("measured-order", measured_order=order_by_covariance)


def going_up(level=1, moving=False, sign=1, more=0, fixed=None, begin=1.0):
    def answer(eps, z, sigmas, rounds):
        for k in range(len(sigmas) - 1):
            h, guess = sigmas[k + 1] - sigmas[k], begin * z
            for _ in range((fixed or rounds) + more):
                guess = (guess if moving else z) + sign * h * eps(guess, sigmas[k + level])
            z = guess
        return z

    return answer


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("where the step .ends", going_up(level=0)),
        ("grows as much as sigma", going_up(moving=True)),
        ("grows as much as sigma", going_up(sign=-1)),
        ("rounds ask", going_up(more=1)),
        ("rounds ask", going_up(fixed=4)),
        ("first guess is z itself", going_up(begin=0.0)),
        ("at the last level alone", lambda eps, z, s, r: [going_up()(eps, z, s, r)] * len(s)),
        ("changes its argument|in place", lambda eps, z, s, r: z.add_(going_up()(eps, z, s, r) - z)),
    ],
)
def test_wrong_inversions_are_caught(hint, answer):
    BOOK.refuses("invert", hint, invert=answer)


def recursive(eps, z, sigmas, rounds):
    if len(sigmas) == 1:
        return z

    def guess(left):
        return torch.add(z, eps(guess(left - 1), sigmas[1]), alpha=sigmas[1] - sigmas[0]) if left else z

    return recursive(eps, guess(rounds), sigmas[1:], rounds)


@pytest.mark.parametrize("answer", [going_up(), recursive])
def test_right_inversions_pass(answer):
    BOOK.accepts("invert", invert=answer)


def turning(angle=lambda u, w: (u * w).sum(-1) / u.norm(dim=-1) / w.norm(dim=-1), unit=False, swap=False):
    def answer(one, other, share):
        u, w, f = one.flatten(1), other.flatten(1), 1 - share if swap else share
        theta = angle(u, w).clamp(-1, 1).acos().clamp(min=1e-6).reshape(-1, 1)
        mixed = (((1 - f) * theta).sin() * u + (f * theta).sin() * w) / theta.sin()
        return (mixed / mixed.norm(dim=1, keepdim=True) if unit else mixed).reshape(one.shape)

    return answer


def straight(u, w, f):
    return (1 - f) * u + f * w


def bare(one, other, share, divided=True, safe=False):
    """Without care for angles of 0, or with care for those alone that are 0 without rounding."""
    u, w = one.flatten(1), other.flatten(1)
    lengths = u.norm(dim=1) * w.norm(dim=1) if divided else 1
    theta = torch.acos((u * w).sum(1) / lengths)[:, None]
    mixed = (((1 - share) * theta).sin() * u + (share * theta).sin() * w) / theta.sin()
    return (torch.where(theta == 0, u, mixed) if safe else mixed).reshape(one.shape)


def by_columns(one, other, share):
    """Angles over axis 1 alone, whatever comes after it."""
    theta = torch.acos(torch.cosine_similarity(one, other, dim=1).clamp(-1, 1))[:, None].clamp(min=1e-6)
    return (((1 - share) * theta).sin() * one + (share * theta).sin() * other) / theta.sin()


@pytest.mark.parametrize(
    "hint, answer",
    [
        ("noise of that length", straight),
        ("noise of that length|third of the angle", lambda u, w, f: (1 - f) ** 0.5 * u + f**0.5 * w),
        ("sample of the batch has an angle of its own", turning(lambda u, w: (u * w).sum() / u.norm() / w.norm())),
        ("in the same directions", turning(lambda u, w: torch.tanh((u * w).sum(-1)))),
        ("between whole samples", by_columns),
        ("at share 0 it is the first", turning(swap=True)),
        ("at share 0 it is the first", turning(unit=True)),
        ("noise of that length|share", turning(lambda u, w: (u * w).sum(-1) * 0)),
        ("between two that are equal: sin", lambda u, w, f: bare(u, w, f)),
        ("rounding can make a cosine exceed 1", lambda u, w, f: bare(u, w, f, safe=True)),
        ("divided by .both. lengths", lambda u, w, f: bare(9 * u, 9 * w, f, divided=False) / 9),
        ("of shape", lambda u, w, f: turning()(u, w, f).flatten(1)[..., None]),
    ],
)
def test_wrong_arcs_are_caught(hint, answer):
    BOOK.refuses("slerp", hint, slerp=answer)


def by_rotation(one, other, share):
    """In the plane of both: the first, and what of the second is at right angles to it."""
    u, w = one.double().flatten(1), other.double().flatten(1)
    length = torch.linalg.norm(u, dim=1, keepdim=True)
    cosine = torch.einsum("bd,bd->b", u, w)[:, None] / length / torch.linalg.norm(w, dim=1, keepdim=True)
    theta = torch.acos(cosine.clamp(-1, 1))
    weights = torch.cat([torch.sin((1 - share) * theta), torch.sin(share * theta)], 1) / torch.sin(theta)
    weights = torch.where(torch.sin(theta) > 1e-5, weights, torch.tensor([[1 - share, share]], dtype=torch.float64))
    return torch.einsum("bk,kbd->bd", weights, torch.stack([u, w])).view(one.shape)


def by_sinc(one, other, share):
    """By chords in place of a cosine, and sinc(θ) in place of sin(θ), so that no angle is an exception."""
    u, w = (torch.nn.functional.normalize(x.double().flatten(1)) for x in (one, other))
    theta = 2 * torch.atan2((u - w).norm(dim=1), (u + w).norm(dim=1)).view(-1, *[1] * (one.ndim - 1)) / math.pi
    first = (1 - share) * torch.sinc((1 - share) * theta) * one
    return (first + share * torch.sinc(share * theta) * other) / torch.sinc(theta)


def one_by_one(one, other, share):
    return torch.stack([turning()(u[None], w[None], share)[0] for u, w in zip(one, other, strict=True)])


@pytest.mark.parametrize("answer", [turning(), by_rotation, by_sinc, one_by_one])
def test_right_arcs_pass(answer):
    BOOK.accepts("slerp", slerp=answer)


def worked(up):
    """Levels and a denoiser that is known in closed form, in place of the network's; and the right results."""
    draw = torch.Generator().manual_seed(0)
    pair = torch.rand(2, 3, 32, 32, generator=draw) * 2 - 1
    names = {"network": lambda z, sigma: z * sigma / (0.4 + sigma**2), "pair": pair, "up": up}
    names["down"] = names["up"][::-1]
    eps, down = names["network"], names["down"]
    tops = {rounds: going_up()(eps, pair, up, rounds) for rounds in (1, 4)}
    rms = {
        rounds: (solving(euler=True)(eps, top, down) - pair).square().mean().sqrt().item()
        for rounds, top in tops.items()
    }
    between = torch.cat([turning()(tops[4][:1], tops[4][1:], k / 4) for k in range(5)])
    return names | {"back": rms, "morph": solving(euler=True)(eps, between, down)}


@pytest.fixture(scope="module")
def experiment():
    return worked([0.0, 0.1, 0.3, 0.6, 1.2])


def test_a_right_experiment_passes(experiment):
    BOOK.accepts("experiment", **experiment)


def test_a_right_experiment_passes_where_four_rounds_do_not_lead_back():
    """Steps so long that the drawings come back as others: some names may choose drawings like that."""
    far = worked([0.0, 1.5, 6.0])
    assert far["back"][4] > 0.1
    BOOK.accepts("experiment", **far)


@pytest.mark.parametrize(
    "hint, change",
    [
        ("keys 1 and 4", lambda n: {"back": {1: 0.1}}),
        ("comes out here", lambda n: {"back": n["back"] | {4: 0.001}}),
        ("comes out here", lambda n: {"back": {1: n["back"][4], 4: n["back"][1]}}),
        ("five pictures", lambda n: {"morph": n["morph"][:3]}),
        ("five pictures", lambda n: {"morph": None}),
        ("five pictures .* got list", lambda n: {"morph": list(n["morph"])}),
        ("range", lambda n: {"morph": 127.5 * (n["morph"] + 1)}),
        ("two numbers", lambda n: {"back": {rounds: torch.tensor([rms, rms]) for rounds, rms in n["back"].items()}}),
        ("not written yet .nothing in back", lambda n: {"back": {}, "morph": None}),
        ("where your drawing lands again", lambda n: {"morph": n["morph"].flip(0)}),
        (
            "cross-fade",
            lambda n: {"morph": torch.stack([(1 - k / 4) * n["pair"][0] + k / 4 * n["pair"][1] for k in range(5)])},
        ),
        ("half-way between", lambda n: {"morph": n["morph"][[0, 1, 3, 3, 4]]}),
    ],
)
def test_a_wrong_experiment_is_caught(hint, change, experiment):
    BOOK.refuses("experiment", hint, **experiment | change(experiment))


@pytest.mark.parametrize("solved", [[], ["solve", "slerp"]])
def test_what_is_handed_out_runs_to_its_end(solved, tmp_path):
    """Cells after a part that is not written say so, and do not stop the notebook: six checks, two cells between.

    A solver whose step is not written is not written yet, either.
    """
    done = {part for part in solved if part != "solve"}
    said = BOOK.handed_out(tmp_path, solved)
    assert said.count("– ") == 6 - len(done) and said.count("✓ ") == len(done)
    assert said.count("this needs is not written yet") == 2
