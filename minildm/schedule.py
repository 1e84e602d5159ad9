"""Noise schedules: how much of a picture is left at each timestep, and how eps, x_0 and v turn into one another.

Everything follows from one line, Ho et al. (2020), equation 4, with t = 0 the least noise:

    x_t = sqrt(alphas_cumprod[t]) x_0 + sqrt(1 - alphas_cumprod[t]) eps
"""

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from minildm.tensors import expand

PREDICTS = ("eps", "x_0", "v")  # what a model may be trained to say


class NoiseSchedule:
    """A noise schedule of `len(schedule)` timesteps.

    betas: (steps,) how much noise each step adds, above 0 and below 1; the last may be 1 (zero terminal SNR).
    .betas, .alphas_cumprod: (steps,) tables, computed and kept in float64 on the CPU, whatever the images are in.

    The methods take t: (b,) integers from 0 to steps - 1, and images of any shape (b, ...) on any device; they
    compute in float32 at least and answer in the images' own dtype.
    Raises ValueError for betas out of range, and for t of the wrong shape, dtype or range.
    """

    def __init__(self, betas: Tensor | Sequence[float]):
        self.betas = torch.as_tensor(betas, dtype=torch.float64).detach().cpu().clone()
        if self.betas.ndim != 1 or not len(self.betas):
            raise ValueError(f"expected a list of betas, shape (steps,), got shape {tuple(self.betas.shape)}")
        if not (self.betas > 0).all() or not (self.betas[:-1] < 1).all() or not self.betas[-1] <= 1:
            raise ValueError(
                "expected every beta above 0 and below 1 (only the last may be 1), "
                f"got {self.betas.min():.4g} to {self.betas.max():.4g}"
            )
        self.alphas_cumprod = (1 - self.betas).cumprod(0)
        self._signal = self.alphas_cumprod.sqrt()
        self._noise = (1 - self.alphas_cumprod).sqrt()

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> "NoiseSchedule":
        """Betas on a straight line: Ho et al., "Denoising Diffusion Probabilistic Models" (2020)."""
        return cls(torch.linspace(beta_start, beta_end, _at_least_one(steps), dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> "NoiseSchedule":
        """Square roots of the betas on a straight line: Rombach et al. (2022); the defaults are Stable Diffusion's."""
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, _at_least_one(steps), dtype=torch.float64)
        return cls(roots**2)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> "NoiseSchedule":
        """alphas_cumprod along a squared cosine: Nichol and Dhariwal, "Improved DDPM" (2021), equation 17."""
        u = torch.linspace(0, 1, _at_least_one(steps) + 1, dtype=torch.float64)
        left = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls((1 - left[1:] / left[:-1]).clamp(max=beta_max))

    def zero_terminal_snr(self) -> "NoiseSchedule":
        """The same schedule, stretched so that its last step is noise alone: Lin et al. (2023), algorithm 1.

        There eps says nothing about x_0, so the model must predict x_0 or v.
        """
        if len(self) < 2:
            raise ValueError("expected a schedule of at least 2 steps: its first keeps its signal, its last loses it")
        first, last = self._signal[0], self._signal[-1]
        alphas_cumprod = ((self._signal - last) * first / (first - last)) ** 2
        alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
        return NoiseSchedule(1 - alphas)

    def __len__(self) -> int:
        return len(self.betas)

    def __repr__(self) -> str:
        first, last = self.alphas_cumprod[0].item(), self.alphas_cumprod[-1].item()
        return f"NoiseSchedule({len(self)} steps, alphas_cumprod from {first:.6g} to {last:.6g})"

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noise pictures x_0 to timesteps t in one jump. -> x_t, shaped like x_0"""
        a, s = self._levels(t, x_0)
        return (a * x_0 + s * eps).to(x_0.dtype)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio, alphas_cumprod / (1 - alphas_cumprod). (b,) -> (b,)"""
        at = self._index(t)
        ratio = self.alphas_cumprod[at] / (1 - self.alphas_cumprod[at])
        return ratio.float().to(t.device) if t.device.type == "mps" else ratio.to(t.device)

    def eps_to_x_0(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The clean picture behind x_t, if its noise is eps. ValueError where x_t is noise alone."""
        a, s = self._levels(t, x_t, signal_for="x_0")
        return ((x_t - s * eps) / a).to(x_t.dtype)

    def x_0_to_eps(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """The noise in x_t, if its clean picture is x_0."""
        a, s = self._levels(t, x_t)
        return ((x_t - a * x_0) / s).to(x_t.dtype)

    def v_to_x_0(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The clean picture behind x_t, if its velocity is v."""
        a, s = self._levels(t, x_t)
        return (a * x_t - s * v).to(x_t.dtype)

    def x_0_to_v(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """The velocity of x_t, if its clean picture is x_0."""
        a, s = self._levels(t, x_t)
        return ((a * x_t - x_0) / s).to(x_t.dtype)

    def v_to_eps(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The noise in x_t, if its velocity is v."""
        a, s = self._levels(t, x_t)
        return (s * x_t + a * v).to(x_t.dtype)

    def eps_to_v(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The velocity of x_t, if its noise is eps. ValueError where x_t is noise alone."""
        a, s = self._levels(t, x_t, signal_for="v")
        return ((eps - s * x_t) / a).to(x_t.dtype)

    def velocity(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """v = sqrt(alphas_cumprod) eps - sqrt(1 - alphas_cumprod) x_0: Salimans and Ho (2022), section 4."""
        a, s = self._levels(t, x_0)
        return (a * eps - s * x_0).to(x_0.dtype)

    def target(self, predicts: str, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What a model that predicts "eps", "x_0" or "v" should say about x_0 noised by eps."""
        check_predicts(predicts)
        return {"eps": eps, "x_0": x_0}[predicts] if predicts != "v" else self.velocity(x_0, eps, t)

    def read(self, predicts: str, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What a model's prediction about x_t means. -> x0_hat, eps_hat

        Raises ValueError for predicts="eps" where x_t is noise alone.
        """
        check_predicts(predicts)
        if predicts == "eps":
            return self.eps_to_x_0(x_t, prediction, t), prediction
        if predicts == "x_0":
            return prediction, self.x_0_to_eps(x_t, prediction, t)
        return self.v_to_x_0(x_t, prediction, t), self.v_to_eps(x_t, prediction, t)

    def _levels(self, t, like, signal_for=None):
        """How much signal and noise x_t holds, each as one number per sample that multiplies images like `like`."""
        at = self._index(t)
        if signal_for and not self._signal[at].all():
            raise ValueError(
                f"at timestep {len(self) - 1} this schedule leaves noise alone (its SNR is 0), so eps does not tell "
                f"{signal_for}: use a model that predicts x_0 or v, or start at an earlier timestep"
            )
        dtype = torch.promote_types(like.dtype, torch.float32)
        return tuple(expand(table[at].to(dtype).to(like.device), like) for table in (self._signal, self._noise))

    def _index(self, t):
        """t on the CPU, where the tables are: not every device has float64."""
        t = t.cpu() if isinstance(t, Tensor) else t
        check_integers("t", t, len(self))
        return t


def check_integers(name: str, v: Tensor, limit: int | None = None) -> None:
    """Raise ValueError unless v, such as timesteps t or classes y, is (b,) integers from 0 to below `limit`.

    The range is looked at on the CPU only: on a GPU that would wait for all that is under way there.
    """
    if not isinstance(v, Tensor):
        raise ValueError(f"expected {name} as a tensor (b,) of int64, got {type(v).__name__}: torch.full((b,), {name})")
    if v.ndim != 1 or v.is_floating_point() or v.is_complex() or v.dtype == torch.bool:
        raise ValueError(
            f"expected {name}: (b,) int64, one per sample, got shape {tuple(v.shape)} of {v.dtype}; "
            f"use torch.full((b,), {name}), or {name}.long() for whole numbers kept as floats"
        )
    if v.numel() and v.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (bound.item() for bound in v.aminmax())
        if low < 0 or (limit is not None and high >= limit):
            allowed = f"from 0 to {limit - 1}" if limit is not None else "from 0"
            raise ValueError(f"expected {name} {allowed}, got {low} to {high}")


def check_predicts(predicts: str) -> None:
    """Raise ValueError unless `predicts` is one of PREDICTS."""
    if predicts not in PREDICTS:
        raise ValueError(f'expected predicts="eps", "x_0" or "v", got {predicts!r}')


def _at_least_one(steps):
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or operator.index(steps) < 1:
        raise ValueError(f"expected a whole number of steps from 1, got {steps!r}")
    return operator.index(steps)
