"""The small painters of lesson 13: a diffusion model, its twin by flow matching, a transformer, a flow made straight.

Their world is so small that the truth is known: one of four glyphs of 5×5 pixels at one of 16 places of a picture of
8×8. Nothing else is right, so quality can be measured exactly, without a judge. Data, batch and noise are the same for
all, and so are the first weights and the steps of both U-Nets. Each is trained with three seeds. A quarter of an hour
on one idle core; each finished training and measurement is kept, so a run that was stopped goes on.
"""

from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm import samplers, weights
from minildm.denoiser import Denoiser
from minildm.dit import DiT
from minildm.losses import denoising_loss, draw_noise
from minildm.recipes import RUNS, Job, measured_once
from minildm.schedule import NoiseSchedule
from minildm.tensors import seeded
from minildm.training import History, train

STEPS, BATCH, LR, EMA = 600, 64, 5e-3, 0.99
DIT_STEPS, DIT_LR = 5_000, 6e-3  # of the transformer: its steps are three times as fast, and it learns slowly
SIZE, ROOM = 8, 4  # of a picture, in pixels; and in how many rows, and columns, a glyph can stand
PAIRS, PAIR_CALLS, REFLOW_STEPS = 4_000, 15, 300
CALLS = (1, 2, 4, 8, 25)
SAMPLES = 192  # for each measurement, from the same noise for all
GLYPHS = {
    "heart": ".#.#. ##### ##### .###. ..#..",
    "house": "..#.. .###. ##### #.#.# #.###",
    "cross": "..#.. ..#.. ##### ..#.. ..#..",
    "face": "##### #.#.# ##### #...# #####",
}
SEEDS = 3  # trainings of each; the files hold the weights of the first
ARMS = ("diffusion", "flow", "reflow", "dit")
DTYPE = torch.float8_e4m3fn  # of the files; what is measured is what they hold


def schedule(arm: str) -> NoiseSchedule:
    """The noise schedule of an arm: a cosine, to predict v, or the straight path of flow matching."""
    return NoiseSchedule.cosine().predicting("v") if arm == "diffusion" else NoiseSchedule.flow()


def network(arm: str, seed: int = 0) -> Denoiser | DiT:
    """The untrained network: a U-Net, or for "dit" a transformer of as many parameters, within 7 %."""
    with seeded(seed):
        if arm == "dit":
            return DiT(1, 1, dim=44, depth=3, heads=11, patch=4, schedule=schedule(arm))
        return Denoiser(1, 1, channels=(16, 24), attention=(1,), groups=8, schedule=schedule(arm))


@cache
def world() -> Tensor:
    """All pictures that are right, by glyph, row and column: 1 is ink. (64, 1, 8, 8) of -1 and 1"""
    rows = [[[float(pixel == "#") for pixel in row] for row in glyph.split()] for glyph in GLYPHS.values()]
    ink = torch.tensor(rows)  # (4, 5, 5)
    pictures = [
        F.pad(ink, (x, ROOM - 1 - x, y, ROOM - 1 - y))  # (4, 8, 8)
        for y in range(ROOM)
        for x in range(ROOM)
    ]
    return 2 * torch.stack(pictures, dim=1).flatten(0, 1)[:, None] - 1


def fit(model: nn.Module, steps: int, seed: int = 0, **options: Any) -> History:
    """Train `model` on the world, by its own schedule; further options go to `minildm.training.train`."""
    x, noise = world(), model.schedule

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return draw_noise(x[torch.randint(len(x), (n,), generator=generator)], noise, generator)

    return train(model, batch, denoising_loss, **_settings(steps, seed) | options)


def pairs(model: nn.Module, n: int, seed: int = 0, calls: int = PAIR_CALLS) -> dict[str, Tensor]:
    """Noises, and what the flow `model` makes of them: {"eps": (n, 1, 8, 8), "x_0": alike}"""
    eps = torch.randn(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1_000 + seed))
    return {"eps": eps, "x_0": torch.cat([draw(model, part, "heun", calls) for part in eps.split(250)])}


def straighten(model: nn.Module, known: dict[str, Tensor], steps: int, seed: int = 0, **options: Any) -> History:
    """Reflow: train the flow `model` on, as `fit` does, but each picture with the noise that it came from.

    known: as from `pairs`.  Source: Liu et al., "Flow Straight and Fast" (2023), section 2.2.
    """
    noise = model.schedule

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        at = torch.randint(len(known["x_0"]), (n,), generator=generator)
        return draw_noise(known["x_0"][at], noise, generator) | {"eps": known["eps"][at]}  # not fresh noise

    return train(model, batch, denoising_loss, **_settings(steps, seed) | options)


def _settings(steps: int, seed: int) -> dict[str, Any]:
    return dict(steps=steps, batch_size=BATCH, lr=LR, ema=EMA, seed=seed)


def start(n: int, seed: int = 0) -> Tensor:
    """The noise that all arms start from. (n, 1, 8, 8)"""
    return torch.randn(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2_000 + seed))


@torch.no_grad()
def draw(model: nn.Module, x_T: Tensor, solver: str, calls: int) -> Tensor:
    """What a painter makes of noise by a number of model calls. (b, 1, 8, 8) -> (b, 1, 8, 8)

    solver: "ddim" and "dpm_solver_2m", of `samplers`, on even timesteps; "ddim on flow's levels", of a diffusion
    model; or of a flow model "euler", which is "ddim" there, and "heun", which takes an odd number of calls.
    """
    if solver == "heun":
        return list(heun(model, x_T, (calls + 1) // 2))[-1]
    if solver == "ddim on flow's levels":
        return list(samplers.ddim(model, model.schedule, x_T, timesteps=flow_levels(model.schedule, calls)))[-1].x_t
    return list(samplers.SAMPLERS[solver](model, model.schedule, x_T, calls))[-1].x_t


def heun(model: nn.Module, x_T: Tensor, steps: int) -> Iterator[Tensor]:
    """Heun's method in the time of a flow model, from noise to picture: all states; 2 · steps - 1 calls.

    `samplers.heun` is the same method in sigma, the noise per signal, which has no bounds where a flow starts.
    """

    def velocity(x, t):
        return model(x, torch.full((len(x),), round(1000 * t) - 1))

    x = x_T
    yield x
    for now, then in pairwise(torch.linspace(1, 0, steps + 1).tolist()):
        v = velocity(x, now)
        ahead = x + (then - now) * v
        x = ahead if then == 0 else x + (then - now) * (v + velocity(ahead, then)) / 2
        yield x


def flow_levels(noise: NoiseSchedule, calls: int) -> list[int]:
    """The timesteps of a schedule that come nearest to even ones of flow matching, by noise per signal."""
    flow = NoiseSchedule.flow()
    wanted = (flow.signal / flow.noise).log()[samplers.timesteps(flow, calls)]
    known = (noise.signal / noise.noise).log()
    return [int((known - max(one, known[-1])).abs().argmin()) for one in wanted]  # a flow starts without any signal


@cache
def tolerance() -> float:
    """How far a picture may be from a right one: half of what the two closest right pictures differ by (RMS)."""
    flat = world().flatten(1)
    return float((torch.cdist(flat, flat) + 1e9 * torch.eye(len(flat))).min() / flat.shape[1] ** 0.5 / 2)


def look(x: Tensor) -> dict[str, Any]:
    """How good samples (n, 1, 8, 8) are.

    right: the share that is nearer than `tolerance` to a right picture.  hits: these one by one, as "1" and "0".
    away: root mean square distance to the nearest right picture, the mean of all.
    different: how many different pictures the right ones show.
    """
    made, real = x.clamp(-1, 1).flatten(1), world().flatten(1)
    nearest = torch.cdist(made, real).min(1)
    away = nearest.values / made.shape[1] ** 0.5
    hits = away < tolerance()
    found = {"right": hits.float().mean().item(), "away": away.mean().item()}
    return found | {"different": len(nearest.indices[hits].unique()), "hits": "".join(str(int(hit)) for hit in hits)}


# Who draws how in the table: (arm, solver, calls).
CELLS = [
    *(("diffusion", "ddim", calls) for calls in CALLS),
    *(("diffusion", "dpm_solver_2m", calls) for calls in CALLS),
    *(("diffusion", "ddim on flow's levels", calls) for calls in CALLS),
    *(("flow", "euler", calls) for calls in CALLS),
    *(("flow", "heun", calls) for calls in (1, 3, 7, 25)),
    *(("dit", "euler", calls) for calls in CALLS),
    *(("reflow", "euler", calls) for calls in CALLS),
]


def trained(job: Job, seed: int, steps: int) -> dict[str, tuple[nn.Module, History]]:
    """All four painters of one seed, as their files hold them, each with the history of its training."""
    found, x_T = {}, start(SAMPLES)
    more, long = max(1, steps * REFLOW_STEPS // STEPS), steps * DIT_STEPS // STEPS

    def glance(model):
        seen = look(draw(model, x_T, "ddim", 8))
        return {name: seen[name] for name in ("right", "away")}

    for arm in ARMS:
        net = network(arm, seed)
        options = dict(checkpoint=job.checkpoint(f"-{arm}-{seed}"), progress=False)
        if arm == "reflow":
            flow, _ = found["flow"]
            net.load_state_dict(flow.state_dict())
            history = straighten(net, pairs(flow, PAIRS, seed), more, seed + 1, **options)
        elif arm == "dit":
            options |= dict(lr=DIT_LR, validate=glance, validate_every=max(1, long // 10))
            history = fit(net, long, seed, **options)
        else:
            history = fit(net, steps, seed, validate=glance, validate_every=max(1, steps // 5), **options)
        found[arm] = weights.unpack(*weights.pack(net, DTYPE)), history
        print(f"{arm}, seed {seed}: {history.step} steps, {history.seconds:.0f} s", flush=True)
    return found


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train all four, SEEDS times each, measure them, and write those of the first seed; returns the last path.

    The record of each holds the table and the curve of all seeds.
    out: a folder for the four files, instead of the shipped place.
    """
    steps, x_T = steps or STEPS, start(SAMPLES)
    job, folder = Job("beyond", None, seed, resume, runs), Path(runs) / "beyond"
    painters = {each: trained(job, each, steps) for each in range(seed, seed + SEEDS)}

    def cell(each, arm, solver, calls):
        seen = look(draw(painters[each][arm][0], x_T, solver, calls))
        return {"arm": arm, "solver": solver, "calls": calls, "seed": each} | seen

    table = [
        measured_once(
            folder / f"{arm}-{solver}-{calls}-{each}-{steps}.json", partial(cell, each, arm, solver, calls), resume
        )
        for each in painters
        for arm, solver, calls in CELLS
    ]
    for arm in ARMS:
        net, history = painters[seed][arm]
        record = dict(data=f"{len(world())} pictures of {', '.join(GLYPHS)}, 8×8", batch=BATCH, seeds=list(painters))
        record |= dict(table=[row for row in table if row["arm"] == arm])
        record |= dict(curves={str(each): found[arm][1].validation for each, found in painters.items()})
        name = f"beyond-{arm}" if out is None else Path(out) / f"beyond-{arm}.safetensors"
        path = weights.save(name, net, dtype=DTYPE, **job.record(history), **record)
    job.end()
    return path
