"""A pipeline on disk: a folder of weights files, a tokenizer and pipeline.json; or all of that in one file to share."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from minildm import __version__, storage, weights
from minildm.schedule import NoiseSchedule
from minildm.text import TextEncoder, Tokenizer

FORMAT = "minildm pipeline 2"
INDEX = "pipeline.json"
NETWORKS = ("unet", "vae", "text_encoder")
_OWN = [f"{name}.safetensors" for name in NETWORKS] + ["tokenizer.json"]  # besides INDEX, all that a folder may hold


def find(name_or_path: str | Path) -> Path:
    """The folder or file of a pipeline; a name stands for one that ships here. FileNotFoundError, ValueError."""
    if not isinstance(name_or_path, str | Path):
        raise ValueError(f"expected a name or a path, got {type(name_or_path).__name__}")
    path, shipped = Path(name_or_path), weights.FOLDER / str(name_or_path)
    path = path if path.exists() or not shipped.is_dir() else shipped
    if path.is_file() or (path / INDEX).is_file():
        return path
    if (path / "model_index.json").is_file():
        raise ValueError(f"{path} has the layout of diffusers: minildm.stable_diffusion.load({str(path)!r})")
    names = sorted(found.parent.name for found in weights.FOLDER.glob(f"*/{INDEX}"))
    raise FileNotFoundError(
        f"there is no pipeline {str(name_or_path)!r}: expected a folder with {INDEX} or a .safetensors file, as "
        f"save_pretrained writes them, or a name that ships with minildm: {', '.join(names) or 'none'}"
    )


def read(path: Path, known: tuple[str, ...]) -> tuple[dict, dict]:
    """The parts of a pipeline by name, and its settings, those of `known` names."""
    return _read_file(path, known) if path.is_file() else _read_folder(path, known)


def write(
    path: Path, parts: dict, settings: dict, dtype: torch.dtype, shipped: Mapping[str, str], record: dict
) -> Path:
    """Write all of it, atomically: a name that ends in .safetensors is one file, any other a folder."""
    if not isinstance(parts.get("text_encoder"), TextEncoder | None):
        raise ValueError(
            "this text encoder is not minildm's, so a file cannot say how to rebuild it: save a pipeline without it, "
            "LatentDiffusion(pipe.unet, pipe.vae), and hand its embeddings in: pipe(context=...)"
        )
    settings = settings | {"schedule": _without_predicts(parts["schedule"]), "predicts": parts["schedule"].predicts}
    if path.suffix == ".safetensors":
        if shipped:
            raise ValueError("one file holds all there is: leave `shipped` out, or write a folder")
        return _write_file(path, parts, settings, dtype, record)
    shipped = {name: _on_shelf(on_shelf, parts[name]) for name, on_shelf in shipped.items()}
    settings = {"format": FORMAT, "parts": _names(parts), "shipped": shipped, **settings}
    with storage.folder(path, INDEX, _OWN) as folder:
        for name in NETWORKS:
            if name in parts and name not in shipped:
                weights.save(folder / f"{name}.safetensors", parts[name], dtype=dtype, **record)
        if "tokenizer" in parts:
            parts["tokenizer"].save(folder / "tokenizer.json")
        (folder / INDEX).write_text(_json(settings) + "\n", encoding="utf-8")
    return path


def _read_folder(folder, known):
    file = folder / INDEX
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        found, names, shipped = (settings.pop(key) for key in ("format", "parts", "shipped"))
        _check_format(file, found)
        parts = _schedule(settings)
        _check_settings(settings, known)
        if not isinstance(names, list) or not set(names) <= {*NETWORKS, "tokenizer"} or "unet" not in names:
            raise ValueError(f"parts is {names!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}") from error
    for name in NETWORKS:
        if name in shipped:
            parts[name] = _from_shelf(shipped[name], folder)
        elif name in names:
            parts[name] = weights.load(folder / f"{name}.safetensors")
    if "tokenizer" in names:
        parts["tokenizer"] = Tokenizer.load(folder / "tokenizer.json")
    return parts, settings


def _write_file(path, parts, settings, dtype, record):
    tensors, metadata = {}, {"format": FORMAT, "settings": _json(settings)}
    for name in NETWORKS:
        if name in parts:
            own, about = weights.pack(parts[name], dtype)
            tensors |= {f"{name}/{key}": tensor for key, tensor in own.items()}
            metadata[name] = json.dumps(about)
    if "tokenizer" in parts:
        metadata["tokenizer"] = parts["tokenizer"].to_json()
    metadata["record"] = _json({"minildm": __version__, "torch": torch.__version__, **record})
    return storage.write(path, tensors, metadata)


def _read_file(path, known):
    tensors, metadata = storage.read(path)
    _check_format(path, metadata.get("format"))
    try:
        settings = json.loads(metadata["settings"])
        parts = _schedule(settings)
        _check_settings(settings, known)
        about = {name: json.loads(metadata[name]) for name in NETWORKS if name in metadata}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    for name in about:
        own = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
        parts[name] = weights.unpack(own, about[name], path)
    if "tokenizer" in metadata:
        parts["tokenizer"] = Tokenizer.from_json(metadata["tokenizer"])
    return parts, settings


def _schedule(settings):
    """The schedule, out of the settings. It must say what the model predicts: a guess would paint rubbish."""
    return {"schedule": NoiseSchedule.from_config(settings.pop("schedule") | {"predicts": settings.pop("predicts")})}


def _check_format(path, found):
    if found != FORMAT:
        raise ValueError(
            f"{path}: expected the format {FORMAT!r}, found {found!r}; update minildm, or if the file is older, write "
            "it again from its training"
        )


def _check_settings(settings, known):
    """All that was written, and nothing that this version would read past."""
    settings.setdefault("guidance_interval", None)  # younger than the format
    if missing := [name for name in known if name not in settings]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if unknown := sorted(settings.keys() - set(known)):
        raise ValueError(f"it holds {', '.join(unknown)}, which this minildm does not know")
    for name, value in settings.items():
        finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        sides = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
        if (name == "guidance" and not finite) or (name == "size" and not sides):
            raise ValueError(f"{name} is {value!r}")


def _without_predicts(schedule):
    return {key: value for key, value in schedule.config.items() if key != "predicts"}


def _names(parts):
    return [name for name in (*NETWORKS, "tokenizer") if name in parts]


def _json(value):
    return json.dumps(value, ensure_ascii=False)


def _on_shelf(name: str, part: nn.Module) -> dict[str, str]:
    """How pipeline.json names shipped weights, which must be the part's own."""
    theirs, mine = storage.state(weights.load(name)), storage.state(part)
    if theirs.keys() != mine.keys() or not all(torch.equal(theirs[key], mine[key].cpu()) for key in mine):
        raise ValueError(f"the pipeline's weights are not those that ship as {name!r}: leave it out of `shipped`")
    return {"weights": name, "checksum": weights.checksum(name)}


def _from_shelf(entry: dict[str, str], folder: Path) -> nn.Module:
    name = entry["weights"]
    if weights.checksum(name) != entry["checksum"]:
        raise ValueError(f"{folder} was trained with other weights than the installed {name!r}: train it again")
    return weights.load(name)
