"""Small tensor helpers: broadcasting, device choice, shape checks whose errors say what to do."""

import numbers
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minildm.optional import moved


def expand(v: Tensor, like: Tensor) -> Tensor:
    """Reshape one number per sample so that it broadcasts over `like`: (b,) -> (b, 1, 1, 1) for images.

    Raises ValueError when `v` is not one number per sample of `like`.
    """
    if v.shape != like.shape[:1]:
        raise ValueError(f"expected one number per sample, shape ({like.shape[0]},), got {tuple(v.shape)}")
    return v.reshape(-1, *[1] * (like.ndim - 1))


def best_device() -> torch.device:
    """The fastest device at hand: a CUDA GPU, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device's own instructions calculate in bfloat16; where they do not, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def in_bfloat16(device: torch.device) -> torch.autocast:
    """Autocast: inside, networks calculate in bfloat16 where that is fast; elsewhere as they always do."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device))


def check_number(value: object, holds: Callable[[float], bool], rule: str) -> None:
    """Raise ValueError, which says `rule`, unless value is a real number (no text, no bool) for which `holds`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not holds(value):
        raise ValueError(f"expected {rule}, got {value!r}")


def check_whole(value: object, holds: Callable[[int], bool], rule: str) -> int:
    """The value as an int; ValueError, which says `rule`, unless it is a whole number (no bool) for which `holds`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or not holds(operator.index(value)):
        raise ValueError(f"expected {rule}, got {value!r}")
    return operator.index(value)


def as_table(name: str, values: Sequence[float] | Tensor) -> Tensor:
    """A list of finite numbers, such as betas, as a table of its own: (n,) float64 on the CPU; else ValueError."""
    try:
        table = torch.as_tensor(values, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"expected {name} as a list of numbers, shape (steps,), got {values!r}") from None
    if table.ndim != 1 or not len(table) or not table.isfinite().all():
        raise ValueError(f"expected {name} as a list of finite numbers, shape (steps,), got shape {tuple(table.shape)}")
    return table


def stored_as(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in the dtype of its file; ValueError for a value that this dtype cannot hold, or that is not finite."""
    sizes = tensor.abs()
    if not (sizes <= torch.finfo(dtype).max).all():  # float8 turns what is too large into its largest
        found = f"values up to {sizes.max():.3g}"
        raise ValueError(f"{name} has {found}, which {dtype} cannot hold; store it as torch.float32, or retrain")
    return tensor.to(dtype)


def described(x: object) -> object:
    """What came, for an error's text: the shape of a tensor, else the name of its type."""
    return tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__


def check_images(x: Tensor, channels: int, multiple: int = 1) -> None:
    """Raise ValueError unless `x` is a floating-point batch (b, channels, h, w), h and w divisible by `multiple`."""
    if not isinstance(x, Tensor):
        raise ValueError(f"expected a tensor of images (b, {channels}, h, w), got {type(x).__name__}")
    if x.ndim != 4:
        hint = {2: "; add two axes with x[None, None]", 3: "; add a batch axis with x[None]"}.get(x.ndim, "")
        raise ValueError(f"expected images (b, {channels}, h, w), got shape {tuple(x.shape)}{hint}")
    if x.shape[1] != channels:
        raise ValueError(
            f"expected {channels} channels, got {x.shape[1]} in shape {tuple(x.shape)} (b, c, h, w); "
            f"build the network with in_channels={x.shape[1]}, or convert the images"
        )
    if not x.is_floating_point():
        raise ValueError(
            f"expected images as floating-point numbers, got {x.dtype}; minildm.images.to_model makes them of bytes, "
            "files and PIL images, in [-1, 1]"
        )
    h, w = x.shape[2:]
    if h % multiple or w % multiple or not h or not w:
        fit = tuple(-(-side // multiple) * multiple or multiple for side in (h, w))
        raise ValueError(
            f"expected height and width divisible by {multiple}, because the network halves the image "
            f"{multiple.bit_length() - 1} times; got {h}×{w}: pad or resize it to {fit[0]}×{fit[1]}, "
            "or build the network with fewer levels"
        )


def check_integers(name: str, v: Tensor, limit: int | None = None, start: int = 0) -> None:
    """Raise ValueError unless v, such as timesteps t or classes y, is (b,) integers from `start` to below `limit`.

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
        if low < start or (limit is not None and high >= limit):
            allowed = f"from {start} to {limit - 1}" if limit is not None else f"from {start}"
            raise ValueError(f"expected {name} {allowed}, got {low} to {high}")


@contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Inside, all parts of the modules are in eval mode; afterwards each part is in the mode that it was in."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def count_parameters(module: torch.nn.Module) -> int:
    """How many numbers training can change in `module`."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def peak_memory(run: Callable[..., object], *inputs: object) -> int:
    """The most bytes that tensors made by `run(*inputs)` take at the same time, on any device.

    Counts what torch's operations return, not what a kernel holds inside, nor what was there before.
    """
    with _Memory() as memory:
        run(*inputs)
    return memory.peak


class _Memory(TorchDispatchMode):
    """Sees every operation; a storage is counted from the operation that makes it until it is freed."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0  # address -> bytes

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        for storage in _storages((args, kwargs)):
            self.alive.setdefault(storage.data_ptr(), 0)  # it was there before: free of charge
        result = operation(*args, **kwargs or {})
        for storage in _storages(result):
            if storage.data_ptr() not in self.alive:
                self.alive[storage.data_ptr()] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage.data_ptr(), None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def _storages(tree):
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch draws from `seed`, as when a network is built; afterwards its global stream is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def defaults(device: str | torch.device, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside, new tensors are made on this device and in this dtype, whatever the program's own defaults are."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


__getattr__ = moved(__name__, {"to_pictures": "minildm.images.to_unit"})
