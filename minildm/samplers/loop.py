"""The one loop of all samplers: the places on the way, the model read at each, and an update rule between them."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minildm.denoiser import schedule_of
from minildm.schedule import NoiseSchedule
from minildm.tensors import check_number, check_whole, described

CLEAN = -1  # the timestep after 0, where signal is 1 and noise 0
SPACINGS = ("leading", "linspace", "trailing", "karras")
SIGMA_MAX, RHO = 80.0, 7  # of "karras": Karras et al. (2022), table 1


class Step(NamedTuple):
    """One state on the way: the start comes first, the finished sample, at t = -1, last.

    At each, x_t = signal x0_hat + noise eps_hat, with the schedule's signal and noise at t. At t = -1 they are 1 and 0:
    there the schedule's tables must not be read, where -1 would be the noisiest timestep.
    """

    t: int
    x_t: Tensor
    x0_hat: Tensor
    eps_hat: Tensor


class Level(NamedTuple):
    """A place on the way: timestep t, where x_t holds signal a and noise s."""

    t: int
    a: float
    s: float

    @property
    def log_ratio(self) -> float:
        """log(a / s), half the logarithm of the signal-to-noise ratio; infinite without noise or without signal."""
        return math.log(self.a / self.s) if self.a and self.s else math.copysign(math.inf, self.a - self.s)


class Tools(NamedTuple):
    """What an update rule may ask for: the model at another place, and fresh noise."""

    evaluate: Callable[[Tensor, Level], tuple[Tensor, Tensor]]  # (x_t, level) -> x0_hat, eps_hat
    noise: Callable[[Tensor], Tensor]  # standard normal, shaped like its argument


Update = Callable[[Tensor, Tensor, Tensor, Level, Level, Tools], Tensor]  # x_t, x0_hat, eps_hat, now, next -> x_next
Sampler = Callable[..., Iterator[Step]]
SAMPLERS: dict[str, Sampler] = {}


def sampler(rule: Callable[..., Update]) -> Sampler:
    """Make a sampler of an update rule: `rule(**options)` checks its own options and returns the update of one step.

    The sampler takes the shared arguments, then the rule's options, and stands in SAMPLERS by the rule's name.
    """

    @wraps(rule)
    def sample(
        denoise,
        schedule,
        x_T,
        steps=50,
        *,
        timesteps=None,
        spacing="trailing",
        predicts=None,
        generator=None,
        clip=None,
        **options,
    ):
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(f"expected a NoiseSchedule, such as the model's own `.schedule`, got {schedule!r}")
        schedule = schedule_of(denoise, schedule, predicts)
        update = rule(**options)
        check_clip(clip)
        if not callable(denoise):
            raise ValueError(f"expected a denoiser, callable as (x_t, t) -> prediction, got {type(denoise).__name__}")
        way = levels(schedule, _path(schedule, x_T, steps, timesteps, spacing), options.get("ends_clean", True))
        return _walk(update, denoise, schedule, x_T, way, generator, clip)

    shared = [p for p in inspect.signature(sample, follow_wrapped=False).parameters.values() if p.name != "options"]
    own = inspect.signature(rule).parameters.values()
    sample.__signature__ = inspect.Signature([*shared, *own], return_annotation=Iterator[Step])
    SAMPLERS[rule.__name__] = sample
    return sample


def check_clip(clip: float | None) -> None:
    """Raise ValueError for a bound of x0_hat that is not above 0, or None."""
    if clip is not None:
        check_number(clip, lambda v: v > 0, "clip above 0, or None")


def check_spacing(spacing: str, offset: int) -> None:
    """Raise ValueError for a way to lay out timesteps that `timesteps` does not know."""
    if spacing not in SPACINGS:
        raise ValueError(f'expected spacing="leading", "linspace", "trailing" or "karras", got {spacing!r}')
    check_number(offset, lambda v: v >= 0 and v == int(v), "an offset of leading timesteps as a whole number from 0")


def timesteps(schedule: NoiseSchedule, steps: int, spacing: str = "trailing", offset: int = 0) -> list[int]:
    """Lay out `steps` timesteps over a schedule, in descending order, as `diffusers` does under the same names.

    spacing: "trailing" counts down from the end and always includes it; "leading" counts up from 0, and leaves the
        end out; "linspace" includes both. "karras" is dense where there is little noise: the noise-to-signal ratios,
        from the last up to 80 down to the first, are evenly spaced in their seventh root, and of each the nearest
        timestep is taken, once. So there may be fewer than `steps`.
    offset: added to "leading"; Stable Diffusion's own configuration has 1.
    Raises ValueError for a number of steps that the schedule does not have.
    Sources: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2023), table 2; on "karras",
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022), equation 5.
    """
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(f"expected a NoiseSchedule first, then how many steps; got {schedule!r}")
    total = len(schedule)
    check_whole(steps, lambda n: 1 <= n <= total, f"steps as a whole number from 1 to {total}, the schedule's length")
    check_spacing(spacing, offset)
    if spacing == "karras":
        return _karras(schedule, steps)
    if spacing == "trailing":
        found = np.arange(total, 0, -total / steps).round()[:steps] - 1
    elif spacing == "leading":
        found = np.arange(steps)[::-1] * (total // steps) + offset
        if found[0] >= total:
            raise ValueError(f"an offset of {offset} leads past timestep {total - 1}, the last of the schedule")
    else:
        if steps == 1:
            raise ValueError('spacing="linspace" includes both ends, so it needs at least 2 steps; use "trailing"')
        found = np.linspace(0, total - 1, steps).round()[::-1]
    return [int(t) for t in found]


def _karras(schedule, steps):
    sigma = schedule.noise / schedule.signal
    sigma = sigma[sigma <= SIGMA_MAX]
    if not len(sigma):
        raise ValueError(f'spacing="karras" needs a noise-to-signal ratio up to {SIGMA_MAX:g}, {schedule} has none')
    roots = torch.linspace(sigma[-1].item() ** (1 / RHO), sigma[0].item() ** (1 / RHO), steps, dtype=sigma.dtype)
    return sorted({int((sigma - wanted).abs().argmin()) for wanted in roots**RHO}, reverse=True)


@torch.no_grad()  # as a decorator: a `with` inside a generator would hold between its steps, in the caller's code
def _walk(update, denoise, schedule, x_T, levels, generator, clip):
    tools = Tools(
        evaluate=lambda x_t, level: _read(denoise, schedule, x_t, level.t, clip, x_T.dtype),
        noise=lambda like: _noise(like, generator),
    )
    x_t = x_T.to(torch.promote_types(x_T.dtype, torch.float32))
    for now, then in pairwise(levels):
        x0_hat, eps_hat = tools.evaluate(x_t, now)
        yield Step(now.t, *(part.to(x_T.dtype) for part in (x_t, x0_hat, eps_hat)))
        x_t = update(x_t, x0_hat, eps_hat, now, then, tools)
    yield Step(CLEAN, *(part.to(x_T.dtype) for part in (x_t, x_t, eps_hat)))


def levels(schedule: NoiseSchedule, path: Sequence[int], ends_clean: bool = True) -> list[Level]:
    """The places on the way through some timesteps, with the end."""
    found = [Level(t, schedule.signal[t].item(), schedule.noise[t].item()) for t in path]
    if ends_clean:
        return [*found, Level(CLEAN, 1.0, 0.0)]
    before = found[:-1] if path[-1] == 0 and len(path) > 1 else found
    return [*before, Level(CLEAN, schedule.signal[0].item(), schedule.noise[0].item())]


def _read(denoise, schedule, x_t, t, clip, dtype):
    """What the model sees in x_t: x0_hat, eps_hat, in the precision of x_t. The model gets it in its own dtype."""
    times = torch.full((len(x_t),), t, dtype=torch.int64, device="cpu")
    prediction = denoise(x_t.to(dtype), times.to(x_t.device))
    if not isinstance(prediction, Tensor) or prediction.shape != x_t.shape:
        found = described(prediction)
        raise ValueError(f"expected a prediction shaped like x_t, {tuple(x_t.shape)}, from the model, got {found}")
    if prediction.device.type == "cpu" and not prediction.isfinite().all():  # on a GPU it would wait at each step
        raise ValueError(f"expected finite predictions, got NaN or infinity from the model at timestep {t}")
    x0_hat, eps_hat = schedule.read(prediction.to(x_t.dtype), x_t, times)
    if clip is not None:
        x0_hat = x0_hat.clamp(-clip, clip)
        eps_hat = schedule.x_0_to_eps(x_t, x0_hat, times)
    return x0_hat, eps_hat


def _path(schedule, x_T, steps, given, spacing):
    """The timesteps to go through, once all is known to be in order."""
    if not isinstance(x_T, Tensor) or not x_T.ndim or not x_T.is_floating_point():
        raise ValueError("expected x_T as a floating-point tensor (b, ...), such as torch.randn(b, c, h, w)")
    if not x_T.isfinite().all():
        raise ValueError("expected a finite x_T, got NaN or infinity in it")
    return timesteps(schedule, steps, spacing) if given is None else check_timesteps(schedule, given)


def check_timesteps(schedule: NoiseSchedule, given: Iterable[int]) -> list[int]:
    """Timesteps as a list of integers; ValueError unless they are the schedule's own, in descending order."""
    try:
        path = [t.item() if isinstance(t, Tensor | np.generic) else t for t in given]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"expected timesteps as a list of integers, got {given!r}") from None
    if not path or any(isinstance(t, bool) or not isinstance(t, int) for t in path):
        raise ValueError(f"expected timesteps as a list of integers, got {path}")
    if any(t <= t_next for t, t_next in pairwise(path)):
        raise ValueError(f"expected timesteps in descending order, from noise to picture, got {_short(path)}")
    if path[-1] < 0 or path[0] >= len(schedule):
        raise ValueError(
            f"expected timesteps from {len(schedule) - 1} down to 0, those of this schedule of {len(schedule)} steps, "
            f"got {_short(path)}"
        )
    return path


def _short(path):
    return f"{path[0]}, {path[1]}, ..., {path[-1]}" if len(path) > 3 else ", ".join(map(str, path))


def _noise(x, generator):
    if isinstance(generator, list | tuple):
        return torch.cat([_noise(one, own) for one, own in zip(x.split(1), generator, strict=True)])
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
