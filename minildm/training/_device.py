"""Where a training runs: device, processes and precision, by `accelerate`, whose global state stays as it was."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minildm.optional import require


@contextmanager
def accelerator() -> Iterator:
    """An `Accelerator` of our own. Afterwards those of others are as before, or may be made in any way.

    One that is there already decides the device, no more: its mixed precision and accumulation are for its own loop.
    """
    accelerate = require("accelerate")
    states = [accelerate.PartialState, accelerate.state.AcceleratorState, accelerate.state.GradientState]
    before = [dict(state._shared_state) for state in states]
    try:
        cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        device = accelerate.PartialState(cpu=cpu).device
        for state in states[1:]:
            state._shared_state.clear()
        yield accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision="no", gradient_accumulation_steps=1)
    finally:
        for state, values in zip(states, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)


class Objective(nn.Module):
    """Model and loss as one module: so mixed precision and gradient averaging see all that the loss does."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]):
        super().__init__()
        self.model, self.loss = model, (loss,)  # in a tuple, for a loss with weights of its own is not to be trained

    def forward(self, tensors: dict[str, Tensor]) -> Tensor:
        value = self.loss[0](self.model, tensors)
        if not isinstance(value, Tensor) or value.ndim:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"expected loss(model, tensors) to return a scalar tensor, got {found}; take the mean")
        return value


class TrainingMode:
    """`mode()` puts a model into training mode, but for the parts that are frozen and in eval mode from the start.

    So the running statistics of a frozen network stay, and its dropout stays off.
    """

    def __init__(self, model: nn.Module):
        self.parts = list(_learning(model))

    def __call__(self) -> None:
        for part in self.parts:
            part.training = True


def _learning(part):
    parameters = list(part.parameters())
    if part.training or not parameters or any(p.requires_grad for p in parameters):
        yield part
        for child in part.children():
            yield from _learning(child)


def seed_streams(device: torch.device, number: int) -> None:
    """Seed the global streams that a step draws from: dropout, and whatever else takes no generator."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def streams_kept(device: torch.device) -> AbstractContextManager:
    """Afterwards torch's global streams are as before."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def precision(device: torch.device, bfloat16: bool) -> Iterator[None]:
    """Inside, what gains from it and can bear it is calculated in bfloat16."""
    # On a CPU the fused attention's way back is slow in bfloat16: spelled out, the pocket U-Net trains 1.3× as fast.
    attention = sdpa_kernel(SDPBackend.MATH) if bfloat16 and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16), attention:
        yield


def on(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch on the device, pictures in the memory layout that convolutions are fast in."""
    moved = {}
    for name, tensor in tensors.items():
        layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
        moved[name] = tensor.to(device, non_blocking=True, memory_format=layout)
    return moved
