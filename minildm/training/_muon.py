"""Muon: an optimizer for matrices, whose every step turns all directions of a matrix by the same amount."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

# Coefficients of the Newton-Schulz iteration, chosen so that few rounds bring all singular values near 1.
_A, _B, _C, ROUNDS = 3.4445, -4.7750, 2.0315, 4


def inner_and_rest(
    parameters: Mapping[str, nn.Parameter], outer: tuple[str, ...]
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Parameters by name, parted: matrices and kernels within a network, for Muon, and all others, for AdamW.

    outer: how the names of layers begin that are not within: the first, the last, embeddings.
    """
    inner = {name: p for name, p in parameters.items() if p.ndim > 1 and not name.startswith(outer)}
    return inner, {name: p for name, p in parameters.items() if name not in inner}


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: the update of a matrix is its momentum with all singular values set near 1.

    A gradient is mostly along a few directions; with this the rare ones are learned as fast. Kernels (out, in, k, k)
    count as matrices (out, in k k). For vectors, embeddings and a network's first and last layer use AdamW.
    params: matrices and kernels.  lr: how far, usually 0.02.  weight_decay: as AdamW's, times lr.
    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). PyTorch's own takes no
    kernels.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step with the gradients at hand; a closure is not called."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(momentum, group["momentum"]).flatten(1))  # one step ahead: Nesterov's
                tall = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * tall)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with all its singular values brought near 1, by a few rounds of Newton and Schulz. (n, m) -> (n, m)"""
    x = matrix.bfloat16()  # precise enough, and fast
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return (x.T if tall else x).to(matrix.dtype)
