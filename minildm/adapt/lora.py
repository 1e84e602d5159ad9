"""LoRA: a frozen model learns something new through thin layers beside its own.

A frozen layer answers W x. Beside it stands a branch of two layers: `down` makes a few numbers of x, the rank, and `up`
makes the layer's output of these. The branch's answer is added:

    W x + alpha / rank * up(down(x))

Only the branches are trained. `up` starts at zero, so at first nothing changes. Up times down is a matrix shaped like
W: a trained branch can be merged into the weight, and then costs no time.
Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from minildm.adapt import _lora_files as files
from minildm.tensors import check_number

ATTENTION = ("to_q", "to_k", "to_v", "to_out")  # the layers that are usually adapted, by the end of their names
SHIPPED = files.SHIPPED  # where those lie that ship with minildm
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    """The low-rank branch of a linear layer or a convolution: x -> what is added to the layer's output.

    rank: how many numbers it squeezes x into, for a convolution at each place.  alpha: see above; None: the rank.
    `scale` is how much of it is added, 1 as it was trained; in a `merged` branch it is part of the weight already.
    Raises ValueError for another kind of layer, and for a rank that is not a whole number from 1.
    """

    def __init__(self, layer: nn.Module, rank: int, alpha: float | None = None):
        super().__init__()
        check_number(rank, lambda v: v >= 1 and v == int(v), "a rank as a whole number from 1")
        like = dict(bias=False, device=layer.weight.device, dtype=layer.weight.dtype)
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank, **like)
            self.up = nn.Linear(rank, layer.out_features, **like)
        elif isinstance(layer, CONVOLUTIONS) and layer.groups == 1:
            conv = next(kind for kind in CONVOLUTIONS if isinstance(layer, kind))
            shape = dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
            shape["padding_mode"] = layer.padding_mode
            self.down = conv(layer.in_channels, rank, layer.kernel_size, **shape, **like)
            self.up = conv(rank, layer.out_channels, 1, **like)
        else:
            raise ValueError(f"expected a linear layer or a convolution without groups, got {layer}")
        nn.init.zeros_(self.up.weight)
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.scale, self.merged = 1.0, False

    @property
    def factor(self) -> float:
        """What up(down(x)) counts."""
        return self.scale * self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.up(self.down(x))

    def beside(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """The layer's output with the branch's added: a forward hook, which torch calls after the layer."""
        return output if self.merged else output + self(*inputs)

    def matrix(self) -> Tensor:
        """Up times down, as it counts, in the shape of a weight: (o, i), or (o, i, k, k) of a convolution."""
        up, down = self.up.weight.flatten(1), self.down.weight.flatten(1)  # (o, r), (r, i k k)
        return (self.factor * up @ down).reshape(len(up), *self.down.weight.shape[1:])


class LoRA:
    """Low-rank adaptation: branches beside the layers of a model, which is frozen. Nothing else in the model changes.

        lora = LoRA(unet, rank=4)
        training.train(unet, batch, denoising_loss, steps=500)      # trains the branches alone
        lora.save("cats.safetensors")                               # LoRA.load("cats.safetensors", unet)

    model: any module. Several networks are one as `nn.ModuleDict({"unet": ..., "text_encoder": ...})`.
    rank, alpha: of all branches, as in `LowRank`.
    layers: which linear layers and convolutions: by the ends of their names; or a function (name, layer) -> bool.
    name: of this LoRA, one of several in the same model, whose additions add up.
    words: that pictures were trained with and the model may not know, kept in its file.

    The branches lie in the layers, as `layer.lora_NAME`, and move with them to a device. `branches` holds them by the
    layers' names. Layers that share one weight share one branch.
    Raises ValueError where no layer is meant, or where the model has a LoRA of this name.
    """

    def __init__(
        self,
        model: nn.Module,
        rank: int = 4,
        alpha: float | None = None,
        layers: Sequence[str] | Callable[[str, nn.Module], bool] = ATTENTION,
        name: str = "default",
        words: Sequence[str] = (),
    ):
        wanted = layers if callable(layers) else lambda layer_name, _: layer_name.split(".")[-1] in layers
        found = {each: layer for each, layer in adaptable(model).items() if wanted(each, layer)}
        if not found:
            ends = sorted({each.split(".")[-1] for each in adaptable(model)})
            raise ValueError(f"no layer is called {layers!r}; names of layers end in {', '.join(ends) or 'nothing'}")
        self._attach(model, {each: LowRank(layer, rank, alpha) for each, layer in found.items()}, name, words)

    def _attach(self, model: nn.Module, branches: dict[str, LowRank], name: str, words: Sequence[str] = ()) -> None:
        layers = adaptable(model)
        if not name.isidentifier() or any(hasattr(layer, f"lora_{name}") for layer in layers.values()):
            there = ", ".join(names(model)) or "none"
            raise ValueError(f"expected a name of letters that no LoRA of this model has ({there}), got {name!r}")
        model.requires_grad_(False)
        self.model, self.branches, self.name, self.words = model, branches, name, list(words)
        self._layers = {each: layers[each] for each in branches}
        self._hooks = []
        for each, layer in self._layers.items():
            layer.add_module(f"lora_{name}", branches[each].train(layer.training))
            self._hooks.append(layer.register_forward_hook(branches[each].beside))

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that is trained."""
        return (parameter for branch in self.branches.values() for parameter in branch.parameters())

    @property
    def scale(self) -> float:
        """How much of it is added: 1 as it was trained, 0 nothing. It can be set at any time but while merged."""
        return next(iter(self.branches.values())).scale

    @scale.setter
    def scale(self, value: float) -> None:
        if self.merged:
            raise ValueError("this LoRA is merged into the weights: call unmerge() before its scale is changed")
        for branch in self.branches.values():
            branch.scale = float(value)

    @property
    def merged(self) -> bool:
        """Whether it is part of the weights now."""
        return next(iter(self.branches.values())).merged

    def merge(self) -> None:
        """Add it to the weights of the layers, at its scale: the model computes the same, without the branches."""
        self._add(1, merged=True)

    def unmerge(self) -> None:
        """Take it out of the weights again. They are as before, up to rounding."""
        self._add(-1, merged=False)

    @torch.no_grad()
    def _add(self, sign: int, merged: bool) -> None:
        for each, branch in self.branches.items():
            if branch.merged != merged:
                weight = self._layers[each].weight
                weight += sign * branch.matrix().to(weight)
                branch.merged = merged

    def remove(self) -> None:
        """Take the branches away. What is merged stays in the weights; else the model is what it was before."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers.values():
            layer._modules.pop(f"lora_{self.name}", None)

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float32, **record: object) -> Path:
        """Write it, so that diffusers opens it too; returns the path.

        path: a .safetensors file, or a folder, which gets a `pytorch_lora_weights.safetensors`.
        dtype: how its numbers are stored; torch.float16 halves the file, and a picture hardly changes.
        record: how it was made, anything that JSON can hold.
        Layers are called as diffusers calls them, where it has such a network. Alpha goes into the numbers of `up`,
        since not every program reads it.
        Raises ValueError for numbers that dtype cannot hold, and OSError as `storage.file` does.
        """
        return files.write(path, self.model, self.branches, self.words, record, dtype)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module, scale: float = 1.0, name: str | None = None) -> "LoRA":
        """Put the LoRA of a file beside the layers of a model.

        path: a file, or a folder with one, of `save`, diffusers, peft or kohya-ss.  model, name: as of `LoRA`.
        scale: how much of it is added.
        Raises FileNotFoundError; and ValueError, before anything has changed, for a file that is damaged, of another
        model, or of another kind of adapter. A .bin or .pt is not opened, since unpickling can run any program.
        """
        check_number(scale, lambda v: v == v and abs(v) != float("inf"), "a scale as a finite number, 1 as trained")
        layers, branches = adaptable(model), {}
        found, words = files.read(files.find(path), model, layers)
        for each, (down, up, alpha) in found.items():
            branch = branches[each] = LowRank(layers[each], len(down), alpha)
            branch.down.weight.data.copy_(down.reshape(branch.down.weight.shape))
            branch.up.weight.data.copy_(up.reshape(branch.up.weight.shape))
        lora = cls.__new__(cls)
        lora._attach(model, branches, name or _free(model), words)
        lora.scale = scale
        return lora


def adaptable(model: nn.Module) -> dict[str, nn.Module]:
    """All linear layers and convolutions of a model that can have a branch, by name; those inside branches left out."""
    found = {}
    for name, layer in model.named_modules():
        fits = isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)
        if fits and not any(part.startswith("lora_") for part in name.split(".")):
            found[name] = layer
    return found


def names(model: nn.Module) -> list[str]:
    """The names of the LoRAs in a model."""
    parts = (part for name, module in model.named_modules() if isinstance(module, LowRank) for part in name.split("."))
    return list(dict.fromkeys(part.removeprefix("lora_") for part in parts if part.startswith("lora_")))


def _free(model: nn.Module) -> str:
    taken, number = names(model), 1
    while f"loaded_{number}" in taken:
        number += 1
    return f"loaded_{number}"
