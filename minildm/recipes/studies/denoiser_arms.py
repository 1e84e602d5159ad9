"""Small denoisers that differ in one thing: skips, what is predicted, whether they are told the time, where they begin.

Each arm is trained with three seeds on the drawings of `openmoji_32`, shrunk to 16×16. Arms with the same seed see the
same pictures, times and noise. The table is minildm/weights/denoiser-arms.json, which the evidence of lesson 03 reads.
About 25 minutes on one idle core; what is finished is kept, so a run that was stopped goes on with the next training.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from minildm import images, samplers, weights
from minildm.denoiser import Denoiser
from minildm.losses import denoising_error, denoising_loss, draw_noise
from minildm.recipes import RUNS, measured_once, openmoji_32, provenance, read_table, write_table
from minildm.schedule import NoiseSchedule
from minildm.tensors import count_parameters, seeded
from minildm.training import train

PLACE = weights.FOLDER / "denoiser-arms.json"
STEPS, BATCH, LR = 1_000, 12, 2e-3
SIZE, SEEDS = 16, 3
EVERY = 50  # steps from exam to exam
LEVELS = (10, 100, 200, 350, 500, 650, 800, 950)  # timesteps of the exam
SAMPLES, SHOWN = 32, 14  # drawn from each network, and kept of the first seed
JUDGE = "scenes-judge"  # the segmenter whose weights some arms begin with
LIES = {"told t + 150": lambda t: (t + 150).clamp(max=999), "always told 500": lambda t: torch.full_like(t, 500)}


class Arm(NamedTuple):
    """What a network is and how it begins; the defaults are the base network."""

    skip: bool = True
    predicts: str = "v"
    told: bool = True  # the time; else it hears 0 always
    start: str = "fresh"  # or "judge", or "shuffled": the judge's weights in random places of their layers


ARMS = {
    "base": Arm(),
    "no skips": Arm(skip=False),
    "no skips, x_0": Arm(skip=False, predicts="x_0"),
    "untold": Arm(told=False),
    "judge": Arm(start="judge"),
    "shuffled": Arm(start="shuffled"),
}


class Untold(Denoiser):
    """A denoiser that hears t = 0 always, in training and after it."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return super().forward(x_t, torch.zeros_like(t))


def schedule() -> NoiseSchedule:
    """The noise schedule of all arms, and that v is predicted."""
    return NoiseSchedule.cosine().predicting("v")


@cache
def drawings(split: str = "train") -> Tensor:
    """The drawings of `openmoji_32`, shrunk. (n, 3, 16, 16) in [-1, 1]"""
    return F.avg_pool2d(openmoji_32.pictures(split), openmoji_32.SIZE // SIZE)


def network(arm: str = "base", seed: int = 0) -> Denoiser:
    """The untrained network of one of ARMS: four levels, no attention. Only what the arm changes is another one."""
    how = ARMS[arm]
    kind, noise = Denoiser if how.told else Untold, schedule().predicting(how.predicts)
    with seeded(seed):
        net = kind(3, 3, channels=(16, 32, 64, 128), middle_attention=False, skip=how.skip, schedule=noise)
    if how.start != "fresh":
        carry_over(net, shuffled=how.start == "shuffled")
    return net


def carry_over(net: nn.Module, shuffled: bool = False) -> list[str]:
    """Put the judge's weights into all parts of `net` that are named and shaped alike; returns their names.

    All of a U are, but its head.  shuffled: within each tensor, so that their sizes stay and their order goes.
    """
    generator = torch.Generator().manual_seed(0)
    mine, theirs = net.state_dict(), weights.load(JUDGE).state_dict()
    fits = {name: w for name, w in theirs.items() if name in mine and mine[name].shape == w.shape}
    if shuffled:
        for name, w in fits.items():
            fits[name] = w.flatten()[torch.randperm(w.numel(), generator=generator)].view_as(w)
    net.load_state_dict(mine | fits)
    return sorted(fits)


def exam(x_0: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Pictures (n, c, h, w), each with noise of its own at each of LEVELS, as `draw_noise` gives them: 8 n in all."""
    x_0 = x_0.repeat(len(LEVELS), 1, 1, 1)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    return {"x_0": x_0, "eps": eps, "t": torch.tensor(LEVELS).repeat_interleave(len(x_0) // len(LEVELS))}


@cache
def unseen() -> dict[str, Tensor]:
    """The `exam` of all arms: 16 held-out drawings."""
    return exam(drawings("heldout")[::10][:16])


@torch.no_grad()
def errors(
    model: Callable[[Tensor, Tensor], Tensor], paper: Mapping[str, Tensor], predicts: str | None = None
) -> list[float]:
    """The mean squared error of a model in an `exam`, at each of LEVELS. paper: what `exam` returns.

    predicts: what it answers with, and what is compared; None: it is a network that carries its schedule, and whatever
    it predicts is read as v, so that all can be compared. (Always 0 has an error of about 1.)
    """
    noise = schedule()

    def as_v(x_t: Tensor, t: Tensor) -> Tensor:
        return noise.velocity(*model.schedule.read(model(x_t, t), x_t, t), t)

    said = (as_v, paper, noise) if predicts is None else (model, paper, noise, predicts)
    return denoising_error(*said).view(len(LEVELS), -1).mean(1).tolist()


def lied_to(model: Denoiser, lie: str, paper: Mapping[str, Tensor]) -> list[float]:
    """The errors of v of a network that is told one of LIES instead of t, at each of LEVELS."""
    return errors(lambda x_t, t: model(x_t, LIES[lie](t)), paper, "v")


def start() -> Tensor:
    """The noise that all samples start from. (32, 3, 16, 16)"""
    return torch.randn(SAMPLES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def draw(model: Denoiser, steps: int = 20) -> Tensor:
    """Samples from `start` by DDIM, (32, 3, 16, 16)."""
    return list(samplers.ddim(model, model.schedule, start(), steps, clip=1))[-1].x_t


def spectrum(x: Tensor) -> list[float]:
    """The mean power of pictures (n, c, h, h) by how many waves cross the picture: 1, 2, ... h / 2. White noise: 1."""
    power = torch.fft.fft2(x, norm="ortho").abs().square().mean((0, 1))  # (h, h)
    f = torch.fft.fftfreq(x.shape[-1], 1 / x.shape[-1])
    radius = (f[:, None] ** 2 + f**2).sqrt().round()
    return [power[radius == k].mean().item() for k in range(1, x.shape[-1] // 2 + 1)]


def left(x: Tensor) -> float:
    """How much of the fine noise of `start` is still in samples x: 1 all of it, 0 none.

    Fine is what remains when the mean of each 2×2 pixels is taken away.
    """
    fine, noise = (y - F.interpolate(F.avg_pool2d(y, 2), scale_factor=2) for y in (x, start()[: len(x)]))
    return ((fine * noise).sum() / noise.square().sum()).item()


def fit(model: Denoiser, steps: int = STEPS, seed: int = 0) -> list[list[float]]:
    """Train `model`; returns its exams: [steps done, error at each of LEVELS], the first one before any step.

    The running average of the weights sits them, every EVERY steps and at the end.
    """
    x = drawings()

    def batch(generator: torch.Generator, n: int) -> dict[str, Tensor]:
        return draw_noise(x[torch.randint(len(x), (n,), generator=generator)], model.schedule, generator)

    def sit(model: Denoiser) -> dict[str, float]:
        return dict(zip(map(str, LEVELS), errors(model, unseen()), strict=True))

    settings = dict(steps=steps, batch_size=BATCH, lr=LR, ema=0.99, seed=seed, validate_every=EVERY, progress=False)
    sat = [(0, sit(model)), *train(model, batch, denoising_loss, validate=sit, **settings).validation]
    return [[step, *found.values()] for step, found in sat]


def row(arm: str, seed: int = 0, steps: int | None = None, resume: bool = True, runs: Path = RUNS) -> dict[str, Any]:
    """What one training gives, measured once (see `recipes.measured_once`).

    exams: as `fit` returns them.  spectrum, left: of its samples, as the functions of these names measure them.
    pictures: 14 of these, which `pictures` opens.  lies: of the base network alone, the errors under each of LIES.
    """
    steps = steps or STEPS

    def measure():
        model = network(arm, seed)
        found = {"arm": arm, "seed": seed, "steps": steps, "parameters": count_parameters(model)}
        found["exams"] = fit(model, steps, seed)
        if arm == "base":
            found["lies"] = {lie: lied_to(model, lie, unseen()) for lie in LIES}
        drawn = draw(model)
        return found | {"spectrum": spectrum(drawn), "left": left(drawn), "pictures": _packed(drawn[:SHOWN])}

    return measured_once(Path(runs) / "denoiser-arms" / f"{arm}-{seed}-{steps}.json", measure, resume)


def record(path: Path = PLACE) -> dict[str, Any]:
    """The table that the last run wrote: "rows", the settings, the checksum of the "judge", provenance."""
    return read_table(path)


def trainings(rows: Sequence[Mapping[str, Any]], arm: str) -> list[Mapping[str, Any]]:
    """The rows of an arm, one for each seed."""
    return [row for row in rows if row["arm"] == arm]


def pictures(row: Mapping[str, Any]) -> Tensor:
    """The samples that the record keeps of a training. (14, 3, 16, 16) in [-1, 1]"""
    with Image.open(io.BytesIO(base64.b64decode(row["pictures"]))) as strip:
        return torch.stack(images.to_model(strip)[0].split(SIZE, dim=2))


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train all arms with the seeds from `seed` on, and write the table; returns its path.

    Only the rows of the first seed keep their pictures.
    """
    rows = [row(arm, seed + k, steps, resume, runs) for k in range(SEEDS) for arm in ARMS]
    for one in rows[len(ARMS) :]:
        one.pop("pictures", None)
    how = dict(recipe="denoiser-arms", batch=BATCH, lr=LR, levels=LEVELS, judge=weights.checksum(JUDGE))
    return write_table(out or PLACE, how | provenance() | {"rows": rows})


def _packed(x: Tensor) -> str:
    """Pictures (n, 3, h, w) in [-1, 1] side by side, as a PNG in letters."""
    (strip,) = images.to_pil((torch.cat(list(x), dim=2)[None] + 1) / 2)
    file = io.BytesIO()
    strip.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
