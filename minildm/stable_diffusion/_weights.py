"""The weights in a folder of diffusers: which files they are (whole, shards, half precision), and reading them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def read_json(path: Path) -> dict:
    """The names and values in a file. Raises FileNotFoundError, and ValueError where it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a folder in the layout of diffusers")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: expected names and values")
    return found


def patterns(part: str, variant: str | None) -> list[str]:
    """What the files of a network's weights may be called in a repository, whole or in shards; part "": all of it."""
    stem = f"{part}/{STEMS[part]}" if part else STEMS["unet"]
    return [
        f"{stem}{_dotted(variant)}.safetensors",
        f"{stem}{_dotted(variant)}-?????-of-?????.safetensors",
        f"{stem}-?????-of-?????{_dotted(variant)}.safetensors",
        f"{stem}.safetensors.index{_dotted(variant)}.json",
    ]


def find(folder: Path, variant: str | None) -> list[Path] | None:
    """The files of the weights in one network's folder, in one variant; None where there are none, even in part."""
    stem = _stem(folder)
    whole, index = folder / f"{stem}{_dotted(variant)}.safetensors", folder / f"{stem}.safetensors.index"
    index = index.with_name(f"{index.name}{_dotted(variant)}.json")
    if not index.is_file():
        return [whole] if whole.is_file() else None
    try:
        shards = [folder / Path(name).name for name in sorted(set(read_json(index)["weight_map"].values()))]
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is damaged: it has no weight_map") from error
    return [whole] if whole.is_file() and not all(shard.is_file() for shard in shards) else shards


def variants(variant: str | None) -> list[str | None]:
    """In which order to look: what was asked for, and what is taken where a network has nothing of that."""
    return [None, "fp16"] if variant is None else [variant, None]


def files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files of one network's weights. Raises FileNotFoundError, which says what there is instead."""
    found = next((found for one in variants(variant) if (found := find(folder, one))), None)
    if found is None:
        there = [path.name for path in sorted(folder.glob("*.safetensors"))]
        pickled = [
            path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".ckpt", ".pt", ".msgpack")
        ]
        hint = f"; there is {', '.join(there)}: name its variant=..." if there else ""
        if pickled:
            hint += (
                f"; {', '.join(pickled)} is not opened, since unpickling can run any program: let somebody you trust "
                "write safetensors, as save_pretrained of diffusers does"
            )
        raise FileNotFoundError(
            f"{folder / _stem(folder)}.safetensors is missing; minildm reads safetensors only{hint}"
        )
    for file in found:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; minildm reads safetensors only")
    return found


def fill(
    module: nn.Module,
    named: Callable[[str], str],
    files: Iterable[Path],
    where: Path,
    device: str | torch.device,
    dtype: torch.dtype,
    *,
    today: Callable[[str], str | None] = str,
    part: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
) -> nn.Module:
    """A module on "meta" with the tensors of files, each read straight into its place.

    named: what the files call a parameter of the module.  where: what lacks tensors, in an error.
    today: what a tensor of a file is called today; None: it does not count.
    part: of a tensor what a parameter of the module is, where several lie in one, or its shape is another.
    Raises ValueError for a tensor too many, too few, of another shape, or in a damaged file.
    """
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    names, found = {}, {}
    for name in shapes:
        names.setdefault(named(name), []).append(name)
    for path in files:
        try:
            with safe_open(path, framework="pt", device=str(device)) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    if (known := today(name)) is None:
                        continue
                    if known not in names:
                        raise ValueError(f"{path}: the tensor {name} belongs to no part of this network")
                    whole = tensors.get_tensor(name)
                    for to in names[known]:
                        tensor = part(to, whole)
                        if tensor.shape != shapes[to]:
                            expected = tuple(shapes[to])
                            raise ValueError(f"{path}: expected {name} of shape {expected}, got {tuple(tensor.shape)}")
                        found[to] = tensor.to(dtype)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    missing = [theirs for theirs, ours in names.items() if ours[0] not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"{where} lacks tensors: {', '.join(missing[:3])}{more}")
    module.load_state_dict(found, assign=True)
    return module.eval()


def _stem(folder):
    return STEMS.get(folder.name, STEMS["unet"])


def _dotted(variant):
    return "" if variant is None else f".{variant}"
