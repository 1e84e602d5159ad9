"""Weights on disk: one safetensors file holds the tensors, how to rebuild the module, and how it was made.

Nothing is unpickled. The class is looked up in a fixed table, so a file can never name code to run. Files are
written beside their final place and renamed, so a reader sees the old file or the new one and never half of one;
a checksum over names, metadata and values tells when a file was damaged later.
"""

import difflib
import importlib
import json
import os
import re
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from minildm import __version__

FOLDER = Path(__file__).with_suffix("")  # the shipped files lie in minildm/weights/
FORMAT = "1"
CLASSES = {
    "UNet": "minildm.unet",
    "Denoiser": "minildm.denoiser",
    "AutoencoderKL": "minildm.autoencoder",
    "TextEncoder": "minildm.text",
}  # class -> the module that defines it: all that a file may ask for


def save(name_or_path: str | Path, module: nn.Module, *, dtype: torch.dtype = torch.float32, **record) -> Path:
    """Write a module's weights, its configuration and a record of how it was made; returns the path.

    name_or_path: a shipped name such as "nuclei" (written to minildm/weights/), or a path ending in .safetensors.
    module: one of CLASSES, with its constructor's keyword arguments in `module.config`.
    dtype: how floating-point tensors are stored; torch.float16 halves the file and is widened again by `load`.
    record: anything JSON can hold: recipe, data, seed, steps, minutes, machine, measured figures, date.

    Raises ValueError for a class outside CLASSES, a config that does not rebuild the module, a record that JSON
    cannot hold, and a value too large for `dtype`.
    """
    path = _path(name_or_path)
    name = type(module).__name__
    if name not in CLASSES or type(module) is not _class(name):
        raise ValueError(f"expected a module of class {' or '.join(CLASSES)}, got {name}; add it to weights.CLASSES")
    if not dtype.is_floating_point:
        raise ValueError(f"expected a floating-point dtype such as torch.float16, got {dtype}")
    tensors = {}
    for key, tensor in state(module).items():
        tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if not tensors[key].isfinite().all():
            found = f"values up to {tensor.abs().max():.3g}"
            raise ValueError(f"{key} has {found}, which {dtype} cannot hold; store it as torch.float32, or retrain")
    if module.config is None:
        raise ValueError(f"this {name} was built from blocks of your own, so no configuration can rebuild it")
    config = _json(module.config, f"{name}.config")
    with torch.device("meta"):  # shapes only: costs no memory and draws no random numbers
        twin = state(_class(name)(**json.loads(config)))
    _same_tensors(twin, tensors, f"{name}(**module.config), which must rebuild the module being saved,")
    record = {"minildm": __version__, "torch": torch.__version__, **record}
    metadata = {"class": name, "config": config, "record": _json(record, "the record")}
    return write(path, tensors, {"format": f"minildm weights {FORMAT}", **metadata})


def load(name_or_path: str | Path) -> nn.Module:
    """The module with its weights, on the CPU, in eval mode and in its own precision.

    name_or_path: a shipped name (see `names`; a shipped pipeline's name stands for its U-Net), or the path of a file
        written by `save`.
    Raises FileNotFoundError for an unknown name or path, ValueError for a file that is damaged, of another format,
    or that does not fit the class.
    """
    path = _find(name_or_path)
    tensors, metadata = read(path)
    name, config = _checked(path, metadata)["class"], json.loads(metadata["config"])
    try:
        with torch.random.fork_rng(devices=[]):  # the random start is overwritten; the caller's stream stays put
            module = _class(name)(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: this minildm cannot build {name}(**{config}): {error}; update minildm") from error
    fill(state(module), tensors, path)
    return module.eval()


def record(name_or_path: str | Path) -> dict:
    """How a file was made: what `save` was told, with the versions of minildm and torch. Reads no tensor."""
    path = _find(name_or_path)
    with _open(path) as file:
        return json.loads(_checked(path, file.metadata())["record"])


def checksum(name_or_path: str | Path) -> str:
    """The file's own checksum, over names, metadata and values: it tells two weights of one name apart."""
    path = _find(name_or_path)
    with _open(path) as file:
        return _checked(path, file.metadata())["checksum"]


def names() -> list[str]:
    """The names of the weights that ship with minildm."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def state(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and persistent buffers by name: live, and a tied tensor only once."""
    first_name = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        first_name.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach() for name, tensor in first_name.values()}


def fill(target: dict[str, Tensor], tensors: dict[str, Tensor], source: str | Path) -> None:
    """Copy tensors into live ones of the same names and shapes; any difference is a ValueError that names it."""
    _same_tensors(target, tensors, f"{source}")
    for name, tensor in target.items():
        tensor.copy_(tensors[name])


def write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write one safetensors file so that a crash at any moment leaves the old file or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = to_bytes(tensors, {**metadata, "checksum": _checksum(tensors, metadata)})
    part = path.with_name(path.name + ".part")  # one fixed name: a crash leaves at most one, and the next write ends it
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # make the rename itself survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a file made by `write`; ValueError when it is damaged."""
    with _open(path) as file:
        metadata = dict(file.metadata() or {})
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise ValueError(_damaged(path, error)) from error
    if "checksum" not in metadata:
        raise ValueError(f"{path} is a safetensors file, but minildm did not write it: it carries no checksum")
    if metadata.pop("checksum") != _checksum(tensors, metadata):
        raise ValueError(_damaged(path, "its checksum does not match"))
    return tensors, metadata


def _path(name_or_path):
    """A bare word is a shipped name; anything else is a path."""
    text = str(name_or_path)
    if text.endswith(".safetensors"):
        return Path(name_or_path)
    if isinstance(name_or_path, str) and re.fullmatch(r"[A-Za-z0-9][\w-]*", text):
        return FOLDER / f"{text}.safetensors"
    raise ValueError(f"expected a name such as 'nuclei' or a path ending in .safetensors, got {text!r}")


def _find(name_or_path):
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


def _open(path):
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ValueError(_damaged(path, error)) from error


def _damaged(path, why):
    remedy = "reinstall minildm" if Path(path).parent == FOLDER else "copy it again from its source, or delete it"
    return f"{path} is damaged or incomplete ({why}); {remedy}"


def _checked(path, metadata):
    found = (metadata or {}).get("format", "none")
    if found != f"minildm weights {FORMAT}":
        raise ValueError(
            f"{path}: expected the format 'minildm weights {FORMAT}', found {found!r}; "
            "write the file with minildm.weights.save, or update minildm if the file is newer"
        )
    if metadata.get("class") not in CLASSES:
        raise ValueError(f"{path}: its class {metadata.get('class')!r} is none of {', '.join(CLASSES)}; update minildm")
    return metadata


def _class(name):
    return getattr(importlib.import_module(CLASSES[name]), name)


def _same_tensors(expected, found, source):
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unexpected {name}" for name in found if name not in expected]
    for name, tensor in expected.items():
        if name in found and found[name].shape != tensor.shape:
            wrong.append(f"{name}: expected {tuple(tensor.shape)}, found {tuple(found[name].shape)}")
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ValueError(f"{source} does not fit this module: {'; '.join(wrong[:6])}{more}")


def _json(value, what):
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must hold only what JSON can (numbers, text, lists, dicts): {error}") from error


def _checksum(tensors, metadata):
    crc = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
