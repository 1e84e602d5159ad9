"""A pipeline's folder: its networks as weights files, the tokenizer, and pipeline.json with all the rest."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from minildm import storage, weights
from minildm.schedule import NoiseSchedule
from minildm.text import Tokenizer

FORMAT = "minildm pipeline 1"
NETWORKS = ("unet", "vae", "text_encoder")


def find(name_or_folder: str | Path) -> Path:
    """The folder of a pipeline; a name stands for one that ships with minildm. FileNotFoundError, ValueError."""
    folder, shipped = Path(name_or_folder), weights.FOLDER / str(name_or_folder)
    folder = folder if folder.is_dir() or not shipped.is_dir() else shipped
    if (folder / "pipeline.json").is_file():
        return folder
    if (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} has the layout of diffusers: minildm.stable_diffusion.load({str(folder)!r})")
    names = sorted(path.parent.name for path in weights.FOLDER.glob("*/pipeline.json"))
    raise FileNotFoundError(
        f"there is no pipeline {str(name_or_folder)!r}: expected a folder with pipeline.json, as save_pretrained "
        f"writes it, or a name that ships with minildm: {', '.join(names) or 'none'}"
    )


def read(folder: Path) -> tuple[dict, dict]:
    """The parts of a pipeline by name, and its settings."""
    file = folder / "pipeline.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        found, names, shipped = settings.pop("format"), settings.pop("parts"), settings.pop("shipped", {})
        parts = {"schedule": NoiseSchedule(settings.pop("betas"))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}") from error
    if found != FORMAT:
        raise ValueError(f"{file}: expected the format {FORMAT!r}, found {found!r}; update minildm")
    for name in NETWORKS:
        if name in shipped:
            parts[name] = _from_shelf(shipped[name], folder)
        elif name in names:
            parts[name] = weights.load(folder / f"{name}.safetensors")
    if "tokenizer" in names:
        parts["tokenizer"] = Tokenizer.load(folder / "tokenizer.json")
    return parts, settings


def write(
    folder: Path, parts: dict, settings: dict, dtype: torch.dtype, shipped: Mapping[str, str], record: dict
) -> Path:
    """Write all of it beside its final place, then rename: the old folder stays until the new one is whole."""
    shipped = {name: _on_shelf(on_shelf, parts[name]) for name, on_shelf in shipped.items()}
    if folder.exists() and not (folder / "pipeline.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and is no pipeline: choose another folder, or empty it")
    part, old = (folder.with_name(f"{folder.name}.{ending}") for ending in ("part", "old"))
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name in NETWORKS:
            if name in parts and name not in shipped:
                weights.save(part / f"{name}.safetensors", parts[name], dtype=dtype, **record)
        if "tokenizer" in parts:
            parts["tokenizer"].save(part / "tokenizer.json")
        settings = {"format": FORMAT, "parts": list(parts), "shipped": shipped, **settings}
        (part / "pipeline.json").write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder


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
