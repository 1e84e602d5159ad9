"""Noise schedules: how signal and noise mix at each timestep, and how a model's answer is read.

Everything follows from one line, with t = 0 the least noise, signal a and noise s:

    x_t = a_t x_0 + s_t eps                                    (Ho et al. (2020), equation 4, where a² + s² = 1)

A model answers with p x_0 + q eps, for two numbers p and q that are known at each t: eps (0, 1), x_0 (1, 0),
v (-s, a) or flow (-1, 1). Those are two equations with two unknowns, so x_t and any answer give x_0 and eps.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial, wraps

import torch
from torch import Tensor

from minildm.tensors import as_table, check_integers, check_number, check_whole, described, expand

# What a model may be trained to answer: name -> (p, q) of the answer p x_0 + q eps, given signal a and noise s.
ANSWERS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "eps": lambda a, s: (torch.zeros_like(a), torch.ones_like(a)),
    "x_0": lambda a, s: (torch.ones_like(a), torch.zeros_like(a)),
    "v": lambda a, s: (-s, a),  # Salimans and Ho, "Progressive Distillation" (2022), section 4
    "flow": lambda a, s: (-torch.ones_like(a), torch.ones_like(a)),  # Lipman et al., "Flow Matching" (2023)
}
PREDICTS = tuple(ANSWERS)


def _remembered(maker):
    """A constructor whose schedule knows how it was made: by its name and these numbers a file describes it."""

    @wraps(maker)
    def make(cls, *args, **kwargs):
        made = maker(cls, *args, **kwargs)
        given = inspect.signature(maker).bind(cls, *args, **kwargs)
        given.apply_defaults()
        made._made = {"kind": maker.__name__} | {key: value for key, value in given.arguments.items() if key != "cls"}
        return made

    return classmethod(make)


class NoiseSchedule:
    """A noise schedule of `len(schedule)` timesteps, and what a model trained with it predicts.

    signal, noise: (steps,) how much of x_0 and of eps x_t holds; from t to t the signal-to-noise ratio falls. There is
        always some noise; the last signal may be 0 (zero terminal SNR).
    predicts: what the model answers: "eps", "x_0", "v" or "flow"; see `predicting`.
    .signal, .noise, and where signal² + noise² = 1 .betas and .alphas_cumprod: (steps,) tables, computed and kept in
        float64 on the CPU, whatever the images are in.

    The methods take t: (b,) integers from 0 to steps - 1, and floating-point images of any shape (b, ...) on any
    device; they compute in float32 at least and answer in the images' own dtype.
    Two schedules are equal if their tables and their `predicts` are.
    Raises ValueError for tables out of range, and for t of the wrong shape, dtype or range.
    """

    def __init__(self, signal: Tensor | Sequence[float], noise: Tensor | Sequence[float], predicts: str = "eps"):
        check_predicts(predicts)
        self.signal, self.noise, self.predicts = as_table("signal", signal), as_table("noise", noise), predicts
        if len(self.signal) != len(self.noise):
            raise ValueError(f"expected as much signal as noise, got {len(self.signal)} and {len(self.noise)} steps")
        ratio = self.signal / self.noise
        if not (self.noise > 0).all() or not (self.signal >= 0).all() or not (ratio.diff() <= 0).all():
            raise ValueError(
                "expected noise above 0, signal from 0, and at no timestep more signal for its noise than before; "
                f"got noise from {self.noise.min():.4g}, signal from {self.signal.min():.4g}"
            )
        self._made = None
        self._on = {}  # (device, dtype) -> the two tables there

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float], predicts: str = "eps") -> "NoiseSchedule":
        """From how much noise each step adds: (steps,) above 0 and below 1; the last may be 1."""
        betas = as_table("betas", betas)
        if not (betas > 0).all() or not (betas[:-1] < 1).all() or not betas[-1] <= 1:
            raise ValueError(
                "expected every beta above 0 and below 1 (only the last may be 1), "
                f"got {betas.min():.4g} to {betas.max():.4g}"
            )
        alphas_cumprod = (1 - betas).cumprod(0)
        return cls(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt(), predicts)

    @_remembered
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> "NoiseSchedule":
        """Betas on a straight line: Ho et al., "Denoising Diffusion Probabilistic Models" (2020)."""
        return cls.from_betas(_line(beta_start, beta_end, _at_least_one(steps)))

    @_remembered
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> "NoiseSchedule":
        """Square roots of the betas on a straight line: Rombach et al. (2022); the defaults are Stable Diffusion's."""
        return cls.from_betas(_line(beta_start**0.5, beta_end**0.5, _at_least_one(steps)) ** 2)

    @_remembered
    def cosine(
        cls, steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999, shift: float = 1.0
    ) -> "NoiseSchedule":
        """alphas_cumprod along a squared cosine: Nichol and Dhariwal, "Improved DDPM" (2021), equation 17.

        shift: how many times as much noise there is for its signal; above 1 where many numbers say the same thing, and
            so show through noise. Hoogeboom et al., "Simple Diffusion" (2023), section 3.1.
        """
        _check_shift(shift)
        u = _line(0, 1, _at_least_one(steps) + 1)
        left = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
        plain = cls.from_betas((1 - left[1:] / left[:-1]).clamp(max=beta_max))
        noise = shift * plain.noise
        length = torch.hypot(plain.signal, noise)
        return cls(plain.signal / length, noise / length)

    @_remembered
    def flow(cls, steps: int = 1000, shift: float = 1.0) -> "NoiseSchedule":
        """Rectified flow: x_t on the straight line from x_0 to eps, and a model that predicts its direction eps - x_0.

        shift: above 1, more of the timesteps are noisy, as larger pictures need (Stable Diffusion 3 has 3).
        Sources: Liu et al., "Flow Straight and Fast" (2023); Esser et al. (2024), on Stable Diffusion 3, equation 23.
        """
        _check_shift(shift)
        plain = _line(1 / _at_least_one(steps), 1, steps)
        noise = shift * plain / (1 + (shift - 1) * plain)
        return cls(1 - noise, noise, "flow")

    def predicting(self, predicts: str) -> "NoiseSchedule":
        """The same schedule for a model that predicts "eps", "x_0", "v" or "flow"; a copy."""
        copy = NoiseSchedule(self.signal, self.noise, predicts)
        copy._made, copy._on = self._made, self._on  # the same tables, wherever they were moved to
        return copy

    def zero_terminal_snr(self) -> "NoiseSchedule":
        """The same schedule, stretched so that its last step is noise alone: Lin et al. (2023), algorithm 1.

        There eps says nothing about x_0, so the model must predict x_0, v or flow.
        """
        check_number(len(self), lambda n: n > 1, "at least 2 steps: the first keeps its signal, the last loses it")
        self._check_variance_preserving("zero_terminal_snr")
        first, last = self.signal[0], self.signal[-1]
        signal = (self.signal - last) * first / (first - last)
        return NoiseSchedule(signal, (1 - signal**2).sqrt(), self.predicts)

    @property
    def alphas_cumprod(self) -> Tensor:
        """signal², where signal² + noise² = 1; AttributeError elsewhere, as for flow."""
        self._check_variance_preserving("alphas_cumprod")
        return self.signal**2

    @property
    def betas(self) -> Tensor:
        """How much noise each step adds, where signal² + noise² = 1; AttributeError elsewhere, as for flow."""
        self._check_variance_preserving("betas")
        before = torch.cat([self.signal.new_ones(1), self.signal[:-1]])
        return 1 - (self.signal / before) ** 2

    @property
    def config(self) -> dict:
        """What `from_config` makes it again from, as JSON can hold it: name and numbers, or the tables themselves."""
        made = self._made or {"kind": "tables", "signal": self.signal.tolist(), "noise": self.noise.tolist()}
        return made | {"predicts": self.predicts}

    @classmethod
    def from_config(cls, config: dict) -> "NoiseSchedule":
        """The schedule that `config` describes; ValueError for any other dictionary."""
        try:
            kind, predicts = config["kind"], config["predicts"]
            rest = {key: value for key, value in config.items() if key not in ("kind", "predicts")}
            if kind not in ("linear", "scaled_linear", "cosine", "flow", "tables"):
                raise ValueError(f"there is no schedule of kind {kind!r}")
            return (cls(**rest) if kind == "tables" else getattr(cls, kind)(**rest)).predicting(predicts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected what NoiseSchedule.config writes, got {config}: {error!r}") from error

    def __len__(self) -> int:
        return len(self.signal)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoiseSchedule) or (self.predicts, len(self)) != (other.predicts, len(other)):
            return False
        pairs = (self.signal, other.signal), (self.noise, other.noise)
        return self is other or all(mine.allclose(theirs, rtol=1e-9, atol=1e-12) for mine, theirs in pairs)

    def __repr__(self) -> str:
        ends = f"signal from {self.signal[0].item():.6g} to {self.signal[-1].item():.6g}"
        return f"NoiseSchedule({self.config['kind']}, {len(self)} steps, {ends}, predicts {self.predicts})"

    def add_noise(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noise pictures x_0 to timesteps t in one jump. -> x_t, shaped like x_0"""
        a, s = self._levels(t, x_0, eps)
        return (a * x_0 + s * eps).to(x_0.dtype)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio, signal² / noise². (b,) -> (b,)"""
        signal, noise = self.levels(t)
        return (signal / noise) ** 2

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at timesteps t, on its device. (b,) -> (b,), (b,)"""
        check_integers("t", t, len(self))
        return self._tables(t, torch.float32 if t.device.type == "mps" else torch.float64)

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the model should say about x_0 noised by eps: p x_0 + q eps. -> shaped like x_0"""
        return self._answer(self.predicts, x_0, eps, t)

    def read(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What a model's prediction about x_t means. -> x0_hat, eps_hat

        Raises ValueError where it does not tell: for eps at a timestep of noise alone.
        """
        return self._read(self.predicts, prediction, x_t, t)

    def velocity(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """v = a eps - s x_0: Salimans and Ho (2022), section 4."""
        return self._answer("v", x_0, eps, t)

    def eps_to_x_0(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The clean picture behind x_t, if its noise is eps. ValueError where x_t is noise alone."""
        return self._read("eps", eps, x_t, t)[0]

    def x_0_to_eps(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """The noise in x_t, if its clean picture is x_0."""
        return self._read("x_0", x_0, x_t, t)[1]

    def v_to_x_0(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The clean picture behind x_t, if its velocity is v."""
        return self._read("v", v, x_t, t)[0]

    def v_to_eps(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The noise in x_t, if its velocity is v."""
        return self._read("v", v, x_t, t)[1]

    def x_0_to_v(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """The velocity of x_t, if its clean picture is x_0."""
        return self.velocity(x_0, self.x_0_to_eps(x_t, x_0, t), t).to(x_t.dtype)

    def eps_to_v(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The velocity of x_t, if its noise is eps. ValueError where x_t is noise alone."""
        return self.velocity(self.eps_to_x_0(x_t, eps, t), eps, t).to(x_t.dtype)

    def _answer(self, predicts, x_0, eps, t):
        p, q = ANSWERS[predicts](*self._levels(t, x_0, eps))
        if predicts in ("eps", "x_0"):  # said as it is, without a detour through numbers
            return eps if predicts == "eps" else x_0
        return (p * x_0 + q * eps).to(x_0.dtype)

    def _read(self, predicts, prediction, x_t, t):
        """Solve x_t = a x_0 + s eps, prediction = p x_0 + q eps."""
        a, s = self._levels(t, x_t, prediction)
        p, q = ANSWERS[predicts](a, s)
        determinant = a * q - s * p
        if predicts == "eps" and self.signal[-1] == 0 and not determinant.all():
            raise ValueError(
                f"at timestep {len(self) - 1} this schedule leaves noise alone (its SNR is 0), so eps does not tell "
                "x_0: use a model that predicts x_0 or v, or start at an earlier timestep"
            )
        # What the model says outright is taken as it is.
        x_0 = prediction if predicts == "x_0" else (q / determinant * x_t - s / determinant * prediction).to(x_t.dtype)
        eps = prediction if predicts == "eps" else (a / determinant * prediction - p / determinant * x_t).to(x_t.dtype)
        return x_0, eps

    def _levels(self, t, like, other):
        """How much signal and noise x_t holds, each as one number per sample that multiplies images like `like`.

        other: what goes with it, which must be of the same shape, or it would be stretched in silence.
        """
        if not isinstance(like, Tensor) or not like.is_floating_point():
            found = f"{described(like)} of {like.dtype}" if isinstance(like, Tensor) else described(like)
            raise ValueError(f"expected pictures as a floating-point tensor, from -1 to 1, got {found}; see images.py")
        if not isinstance(other, Tensor) or other.shape != like.shape:
            raise ValueError(f"expected both of one shape, {tuple(like.shape)}, got {described(other)}")
        tables = self._tables(t, torch.promote_types(like.dtype, torch.float32), like.device)
        return tuple(expand(table, like) for table in tables)

    def _tables(self, t, dtype, device=None):
        """Signal and noise at timesteps t, in this precision, on t's device or another."""
        check_integers("t", t, len(self))
        key = (t.device, dtype)
        if key not in self._on:  # moved once: not every device has float64, and a copy a step would be a wait
            self._on[key] = [table.to(dtype).to(t.device) for table in (self.signal, self.noise)]
        return [table[t].to(device or t.device) for table in self._on[key]]

    def _check_variance_preserving(self, name):
        if not (self.signal**2 + self.noise**2).allclose(self.signal.new_ones(()), rtol=0, atol=1e-9):
            raise AttributeError(f"this schedule has no {name}: its signal² + noise² is not 1; see signal and noise")


def check_predicts(predicts: str) -> None:
    """Raise ValueError unless `predicts` is one of PREDICTS."""
    if predicts not in PREDICTS:
        raise ValueError(f'expected predicts="eps", "x_0", "v" or "flow", got {predicts!r}')


def _line(start, end, steps):
    check_number(start, math.isfinite, "the start of a schedule as a real number")
    check_number(end, math.isfinite, "its end as a real number")
    return torch.linspace(start, end, steps, dtype=torch.float64, device="cpu")


_at_least_one = partial(check_whole, holds=lambda n: n >= 1, rule="a whole number of steps from 1")
_check_shift = partial(check_number, holds=lambda v: 0 < v < math.inf, rule="a shift above 0, where 1 is none")
