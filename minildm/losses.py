"""What a denoiser is trained on: the draws of noise and timestep, its error, and how much each noise level counts."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from minildm.denoiser import schedule_of
from minildm.schedule import ANSWERS, NoiseSchedule
from minildm.tensors import check_number

DRAWN = ("x_0", "eps", "t")  # of a batch; whatever else it holds is a condition, which the model gets by its name


def draw_noise(x_0: Tensor, schedule: NoiseSchedule, generator: torch.Generator) -> dict[str, Tensor]:
    """All the randomness of a training step: a timestep and noise for each picture. -> {"x_0", "eps", "t"}"""
    if not isinstance(x_0, Tensor) or not x_0.is_floating_point():
        found = x_0.dtype if isinstance(x_0, Tensor) else type(x_0).__name__
        raise ValueError(f"expected pictures x_0 as a tensor of floating-point numbers, from -1 to 1, got {found}")
    if not isinstance(schedule, NoiseSchedule) or not isinstance(generator, torch.Generator):
        raise ValueError(f"expected a NoiseSchedule and a torch.Generator, got {schedule!r} and {generator!r}")
    draw = dict(generator=generator, device=generator.device)
    t = torch.randint(len(schedule), x_0.shape[:1], **draw).to(x_0.device)
    return {"x_0": x_0, "eps": torch.randn(x_0.shape, dtype=x_0.dtype, **draw).to(x_0.device), "t": t}


def spread_timesteps(n: int, schedule: NoiseSchedule, generator: torch.Generator) -> Tensor:
    """n timesteps spread evenly over the schedule, in random order: a steadier gradient than independent ones. (n,)

    Source: Kingma et al., "Variational Diffusion Models" (2021), appendix I.1.
    """
    draw = dict(generator=generator, device=generator.device)
    places = torch.randperm(n, **draw) + torch.rand(n, dtype=torch.float64, **draw)
    return (places / n * len(schedule)).long()


def denoising_error(
    model: Callable[..., Tensor],
    batch: Mapping[str, Tensor],
    schedule: NoiseSchedule | None = None,
    predicts: str | None = None,
) -> Tensor:
    """Squared error of the model's prediction, for each sample. -> (b,) float32

    batch: x_0, eps and t as from `draw_noise`. All else in it reaches the model by name: model(x_t, t, y=..., ...).
    schedule: None is the model's own, `model.schedule`.  predicts: None is what the schedule says.
    Raises ValueError for a schedule that is not the model's, for conditions that the model cannot take, for classes
    that the batch forgets, and when the model's output is not shaped like x_0.
    """
    schedule = schedule_of(model, schedule, predicts)
    if not isinstance(batch, Mapping):
        raise ValueError(f"expected a batch as a dict of tensors, as draw_noise makes it, got {type(batch).__name__}")
    if missing := [name for name in DRAWN if name not in batch]:
        raise ValueError(f"expected x_0, eps and t in the batch, as draw_noise makes them; {missing[0]} is missing")
    x_0, eps, t = (batch[name] for name in DRAWN)
    conditions = {name: value for name, value in batch.items() if name not in DRAWN}
    known = getattr(model, "conditions", None)
    if known is not None and (unknown := conditions.keys() - known):
        raise ValueError(
            f"this model can be conditioned on {', '.join(sorted(known)) or 'nothing'}, but the batch also holds "
            f"{', '.join(sorted(map(str, unknown)))}: drop it, or build the model for it"
        )
    if known is not None and "y" in known and conditions.get("y") is None:
        raise ValueError(
            "this model knows classes, but the batch holds no y; where none is meant, y is model.null_class"
        )
    prediction = model(schedule.add_noise(x_0, eps, t), t, **conditions)
    if prediction.shape != x_0.shape:
        raise ValueError(f"expected a prediction shaped like x_0, {tuple(x_0.shape)}, got {tuple(prediction.shape)}")
    target = schedule.target(x_0, eps, t)
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def denoising_loss(
    model: Callable[..., Tensor],
    batch: Mapping[str, Tensor],
    schedule: NoiseSchedule | None = None,
    predicts: str | None = None,
    *,
    min_snr: float | None = None,
) -> Tensor:
    """The training loss: `denoising_error`, averaged over the batch. -> scalar

    A pure function, as `training.train` wants it.  batch, schedule, predicts: as in `denoising_error`.
    min_snr: gamma of `min_snr_weight`, usually 5; None: all errors count alike.
    Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), equation 14.
    """
    schedule = schedule_of(model, schedule, predicts)
    error = denoising_error(model, batch, schedule)
    if min_snr is not None:
        weight = min_snr_weight(schedule, batch["t"], min_snr)
        error = error * weight.to(error.device, error.dtype)
    return error.mean()


def min_snr_weight(schedule: NoiseSchedule, t: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR weights: how much the squared error of a prediction counts, so that x_0's counts min(snr, gamma).

    Where the SNR is 0 it counts 1: a weight of 0 would never train the timestep that sampling starts from.
    t: (b,) int64 -> (b,)
    Source: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy" (2023).
    """
    check_number(gamma, lambda v: 0 < v < math.inf, "min_snr, the gamma of the weighting, above 0 (usually 5)")
    snr = schedule.snr(t)
    a, s = schedule.levels(t)
    p, q = ANSWERS[schedule.predicts](a, s)
    # From a a_error + s eps_error = 0: an error of x_0 moves the prediction p x_0 + q eps by this many times as much.
    moves = (p - q * a / s).to(snr)
    return torch.where(snr == 0, 1.0, snr.clamp(max=gamma) / torch.where(snr == 0, 1.0, moves**2))
