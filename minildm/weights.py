"""Weights on disk: one safetensors file holds the tensors, how to rebuild the module, and how it was made.

Nothing is unpickled. The class is looked up in a fixed table, so a file can never name code to run. How a file is
written and read is `storage`'s: a reader sees the old file or the new one, and a checksum tells damage.
"""

import difflib
import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minildm import __version__, storage
from minildm.optional import moved
from minildm.schedule import NoiseSchedule
from minildm.tensors import defaults, stored_as

FOLDER = Path(__file__).with_suffix("")  # the shipped files lie in minildm/weights/
FORMAT = "1"
CLASSES = {
    "UNet": "minildm.unet",
    "Denoiser": "minildm.denoiser",
    "AutoencoderKL": "minildm.autoencoder",
    "TextEncoder": "minildm.text",
    "ControlNet": "minildm.adapt.controlnet",
    "Controlled": "minildm.adapt.controlnet",
    "DiT": "minildm.dit",
}  # class -> the module that defines it: all that a file may ask for

# The other files of this package -> what opens them.
_OPENED_BY = {
    "minildm pipeline": "minildm.LatentDiffusion.from_pretrained opens it",
    "minildm training": "minildm.training.restore fills a module from it",
    "minildm word": "pipe.load_word opens it",
    "minildm lora": "pipe.load_lora, or minildm.adapt.LoRA.load, opens it",
}
# What was put into a module from outside, told by the names of its tensors -> how to take it out again.
_ADDED = {
    r"\.lora_\w+\.(down|up)\.": "a LoRA beside its layers: lora.save writes that alone; lora.merge() and then "
    "lora.remove() keep it in the weights; lora.remove() alone takes it away",
    r"(^|\.)tokens\.vector$": "a new word that is being learned: end that with its keep()",
    r"\.lora_|\.base_layer\.|\.modules_to_save\.": "adapters of PEFT: write them with peft.get_peft_model_state_dict, "
    "and merge or unload them before the module itself is saved",
    r"(^|\.)parametrizations\.": "parametrizations: make them permanent with "
    "torch.nn.utils.parametrize.remove_parametrizations",
    r"(weight|bias)_mask$": "pruning: make it permanent with torch.nn.utils.prune.remove",
    r"weight_g$|weight_v$|weight_u$": "weight or spectral normalisation: make it permanent with "
    "torch.nn.utils.remove_weight_norm or remove_spectral_norm",
    r"^module\.": "a wrapper for several devices: save its `.module`",
}


def save(name_or_path: str | Path, module: nn.Module, *, dtype: torch.dtype = torch.float32, **record: object) -> Path:
    """Write a module's weights, its configuration and a record of how it was made; returns the path.

    name_or_path: a shipped name such as "nuclei" (written to minildm/weights/), or a path ending in .safetensors.
    module, dtype: as in `pack`.
    record: anything JSON can hold: recipe, data, seed, steps, minutes, machine, measured figures, date.

    Raises ValueError as `pack` does, and for a record that JSON cannot hold; OSError as `storage.file` does.
    """
    path = _path(name_or_path)
    tensors, metadata = pack(module, dtype)
    record = {"minildm": __version__, "torch": torch.__version__, **record}
    metadata = {"format": f"minildm weights {FORMAT}", **metadata, "record": _json(record, "the record")}
    return storage.write(path, tensors, metadata)


def load(name_or_path: str | Path) -> nn.Module:
    """The module with its weights, on the CPU, in eval mode and in its own precision.

    name_or_path: a shipped name (see `names`; a shipped pipeline's name stands for its U-Net), or the path of a file
        written by `save`.
    Raises FileNotFoundError for an unknown name or path, ValueError for a file that is damaged, of another format,
    or that does not fit the class.
    """
    path = _find(name_or_path)
    with _remedy(path):
        tensors, metadata = storage.read(path)
    return unpack(tensors, _checked(path, metadata), path)


def pack(module: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A module as tensors and texts, from which `unpack` rebuilds it: for a file that holds several modules.

    module: one of CLASSES, also compiled, with its constructor's keyword arguments in `module.config`.
    dtype: how floating-point tensors are stored; torch.float16 halves them and is widened again by `unpack`. With a
        dtype of one byte, such as torch.float8_e4m3fn, vectors are stored in half precision: they are few, and a
        whole channel hangs on each of their numbers.
    -> the tensors, on their device, and {"class": name, "config": JSON}, with "schedule" where the module has one

    Raises ValueError for a class outside CLASSES, a config that does not rebuild the module, what was put into it from
    outside (adapters, parametrizations), and a value that is not finite or too large for `dtype`.
    """
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    name = type(module).__name__
    if name not in CLASSES or type(module) is not _class(name):
        register = f"; add it to weights.CLASSES, with the module that defines it ({type(module).__module__})"
        hint = next((f"; it has {what}" for what in _added(module)), register)
        raise ValueError(f"expected a module of class {' or '.join(CLASSES)}, got {name}{hint}")
    if not dtype.is_floating_point:
        raise ValueError(f"expected a floating-point dtype such as torch.float16, got {dtype}")
    check_nothing_added(module)
    if getattr(module, "config", None) is None:
        raise ValueError(f"this {name} was built from blocks of your own, so no configuration can rebuild it")
    tensors = {}
    for key, tensor in storage.state(module).items():
        if tensor.is_meta:
            raise ValueError(f"{key} is on the meta device, which holds no values: fill the {name} before saving it")
        tensors[key] = tensor
        if tensor.is_floating_point():
            half = dtype.itemsize == 1 and tensor.ndim < 2
            tensors[key] = stored_as(key, tensor, torch.float16 if half else dtype)
    config = _json(module.config, f"{name}.config")
    with defaults("meta"):  # shapes only: costs no memory and draws no random numbers
        twin = storage.state(_class(name)(**json.loads(config)))
    storage.check_same(twin, tensors, f"{name}(**module.config), which must rebuild the module being saved,")
    metadata = {"class": name, "config": config}
    if (schedule := getattr(module, "schedule", None)) is not None:
        metadata["schedule"] = _json(schedule.config, f"{name}.schedule")
    return tensors, metadata


def check_nothing_added(module: nn.Module) -> None:
    """Raise ValueError where something was put into a module from outside, such as a LoRA: its file would not open."""
    for what in _added(module):
        raise ValueError(f"this {type(module).__name__} has {what}")


def unpack(tensors: dict[str, Tensor], metadata: dict[str, str], source: str | Path = "the file") -> nn.Module:
    """The module that `pack` took apart, on the CPU, in eval mode and in float32.

    source: where both come from, for the errors. Raises ValueError where they do not fit, or are of no known class.
    """
    name = metadata.get("class")
    if name not in CLASSES:
        raise ValueError(
            f"{source}: its class {name!r} is none of {', '.join(CLASSES)}: add the module that defines it to "
            "weights.CLASSES, or update minildm"
        )
    try:
        config, schedule = (json.loads(metadata.get(key, "null")) for key in ("config", "schedule"))
    except ValueError as error:
        raise ValueError(f"{source} is damaged: it describes its {name} by what is no JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{source} is damaged: expected the arguments of its {name}, found {config!r}")
    try:
        with torch.random.fork_rng(devices=[]), defaults("cpu"):  # the random start is overwritten
            module = _class(name)(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: this minildm cannot build {name}(**{config}): {error}; update minildm") from error
    storage.fill(storage.state(module), tensors, source)
    if schedule is not None:
        with defaults("cpu"):
            schedule = NoiseSchedule.from_config(schedule)
        if getattr(module, "schedule", None) != schedule:  # one that wraps another may know it already
            module.schedule = schedule
    return module.eval()


def record(name_or_path: str | Path) -> dict:
    """How a file was made: what `save` was told, with the versions of minildm and torch. Reads no tensor."""
    return json.loads(_metadata(name_or_path).get("record", "{}"))


def checksum(name_or_path: str | Path) -> str:
    """The file's own checksum, over names, metadata and values: it tells two weights of one name apart."""
    return _metadata(name_or_path)["checksum"]


def names() -> list[str]:
    """The names of the weights that ship with minildm."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def _path(name_or_path: str | Path) -> Path:
    """A bare word is a shipped name; anything else is a path."""
    text = str(name_or_path)
    if text.endswith(".safetensors"):
        return Path(name_or_path)
    if isinstance(name_or_path, str) and re.fullmatch(r"[A-Za-z0-9][\w-]*", text):
        return FOLDER / f"{text}.safetensors"
    raise ValueError(f"expected a name such as 'nuclei' or a path ending in .safetensors, got {text!r}")


def _find(name_or_path: str | Path) -> Path:
    path = _path(name_or_path)
    if path.is_file():
        return path
    pipeline = path.with_suffix("") / "unet.safetensors"
    if path.parent == FOLDER and pipeline.is_file():
        return pipeline
    if path.parent != FOLDER:
        raise FileNotFoundError(f"there is no weights file {path}; shipped names: {', '.join(names()) or 'none'}")
    close = difflib.get_close_matches(path.stem, names(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise FileNotFoundError(f"no weights are called {path.stem!r}; {hint}Shipped names: {', '.join(names()) or 'none'}")


def _metadata(name_or_path: str | Path) -> dict[str, str]:
    path = _find(name_or_path)
    with _remedy(path):
        return _checked(path, storage.read_metadata(path))


@contextmanager
def _remedy(path: Path) -> Iterator[None]:
    """Inside, an error about a shipped file says where to get it again."""
    try:
        yield
    except ValueError as error:
        if not path.is_relative_to(FOLDER):
            raise
        raise ValueError(f"{error}; it ships with minildm: reinstall minildm") from error


def _checked(path: Path, metadata: dict[str, str]) -> dict[str, str]:
    found = metadata.get("format", "none")
    if found != f"minildm weights {FORMAT}":
        kind = " ".join(found.split()[:2])
        remedy = _OPENED_BY.get(
            kind, "write the file with minildm.weights.save, or update minildm if the file is newer"
        )
        raise ValueError(f"{path}: expected the format 'minildm weights {FORMAT}', found {found!r}; {remedy}")
    return metadata


def _class(name: str) -> type[nn.Module]:
    return getattr(importlib.import_module(CLASSES[name]), name)


def _added(module: nn.Module) -> Iterator[str]:
    """What was put into a module from outside, in words."""
    names = list(storage.state(module)) if isinstance(module, nn.Module) else []
    for pattern, what in _ADDED.items():
        if found := next((name for name in names if re.search(pattern, name)), None):
            yield f"{what} (found {found})"


def _plain(value: object) -> object:
    """A number of numpy's as one of Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _json(value: object, what: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must hold only what JSON can (numbers, text, lists, dicts): {error}") from error


__getattr__ = moved(__name__, {name: f"minildm.storage.{name}" for name in ("state", "fill", "write", "read")})
