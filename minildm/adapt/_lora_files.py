"""Files of LoRA: two thin matrices for each layer, and four ways to call the layers.

| program                | a layer of the U-Net                                | its matrices                       |
|------------------------|-----------------------------------------------------|------------------------------------|
| diffusers, and minildm | unet.down_blocks.0.attentions.0...to_q              | lora_A.weight, lora_B.weight       |
| older diffusers        | the same, or unet....attn1.processor.to_q_lora      | lora.down.weight, lora.up.weight   |
| peft                   | base_model.model. and the network's own names       | lora_A.weight, lora_B.weight       |
| kohya-ss               | lora_unet_down_blocks_0_attentions_0_..._to_q       | lora_down.weight, lora_up.weight   |

So each layer of the model says what it may be called, and what a file holds is looked up among these.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from minildm import __version__, storage, weights
from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.reference_names import reference_name
from minildm.tensors import stored_as
from minildm.text import TextEncoder

FORMAT = "minildm lora 1"
SHIPPED = weights.FOLDER / "lora"  # those that ship, by their names
NAME, PEFT = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"  # in a folder of diffusers, of peft
Found = dict[str, tuple[Tensor, Tensor, float]]  # layer -> down, up, alpha

_MATRIX = re.compile(r"(.+?)[._](?:lora_linear_layer\.|lora[._])(A|B|down|up)(?:\.default)?\.weight")
_ALPHA = re.compile(r"(.+)\.alpha")
_OTHER_KINDS = {
    r"dora_scale|lora_magnitude": "DoRA",
    r"hada_w": "LoHa",
    r"lokr_": "LoKr",
    r"lora_mid": "a LoCon of three matrices",
    r"oft_": "OFT",
}


def find(path: str | Path) -> Path:
    """The file that a path means: a file, a folder, or a name that ships. FileNotFoundError, ValueError."""
    path = Path(path).expanduser()
    if not path.exists() and (shipped := SHIPPED / f"{path}.safetensors").is_file():
        return shipped
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        known = [path / name for name in (NAME, PEFT) if path / name in files]
        if not files:
            raise FileNotFoundError(
                f"{path} holds no LoRA: expected {NAME}, or another .safetensors file{_pickled(path)}"
            )
        if not known and len(files) > 1:
            raise ValueError(f"{path} holds {', '.join(file.name for file in files)}: say which file is meant")
        return (known or files)[0]
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
        what = f"a .safetensors file, a folder with one, or the name of one that ships: {names}"
        raise FileNotFoundError(f"there is no LoRA {path}: expected {what}")
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a LoRA as a .safetensors file, got {path}: minildm unpickles nothing")
    return path


def write(
    path: str | Path,
    model: nn.Module,
    branches: Mapping[str, nn.Module],
    words: Sequence[str],
    record: Mapping[str, object],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the branches of a model's layers; a path without the ending .safetensors is a folder."""
    path = Path(path)
    called, tensors = spellings(model, branches), {}
    for layer, branch in branches.items():
        name = called[layer][0]
        pair = {"A": branch.down.weight, "B": branch.up.weight * (branch.alpha / branch.rank)}
        for which, weight in pair.items():
            key = f"{name}.lora_{which}.weight"
            tensors[key] = stored_as(key, weight.detach(), dtype)
    made = {"minildm": __version__, "torch": torch.__version__, **record}
    metadata = {"format": FORMAT, "words": json.dumps(list(words)), "record": json.dumps(made)}
    storage.write(path if path.suffix == ".safetensors" else path / NAME, tensors, metadata)
    return path


def read(file: Path, model: nn.Module, layers: Mapping[str, nn.Module]) -> tuple[Found, list[str]]:
    """What a file holds for layers of the model, and its words; ValueError where any of it fits no layer."""
    tensors, metadata = storage.read(file, foreign=True)
    pairs, alphas = _pairs(file, tensors)
    meant = {name: layer for layer, names in spellings(model, layers).items() for name in names}
    said, found, wrong = _said(file, metadata), {}, []
    for name, (down, up) in pairs.items():
        layer = meant.get(name)
        if layer is None:
            wrong.append(f"it has no layer {name}")
            continue
        weight = layers[layer].weight
        expected = (weight.flatten(1).shape[1], len(weight))
        if (there := (down.flatten(1).shape[1], len(up))) != expected or len(down) != up.flatten(1).shape[1]:
            wrong.append(f"{name} takes {expected[0]} numbers to {expected[1]}, not {there[0]} to {there[1]}")
            continue
        alpha = alphas.get(name, _alpha(said, name, len(down)))
        found[layer] = (down, up, float(alpha))
    if wrong:
        more = f", and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        beside = all(name.startswith(("text_encoder.", "lora_te_")) for name in pairs if name not in meant)
        hint = ". Its other part is for a text encoder: pipe.load_lora takes both" if beside and found else ""
        raise ValueError(f"{file} is a LoRA of another model than this one: {'; '.join(wrong[:2])}{more}{hint}")
    return found, json.loads(metadata.get("words", "[]"))


def spellings(model: nn.Module, layers: Mapping[str, object]) -> dict[str, list[str]]:
    """What each layer of a model may be called in a file; the first is what we write."""
    found = {}
    for layer in layers:
        key, network, own = _network(model, layer)
        names = [own] if not key else [f"{key}.{own}"]
        bare = [own] if key != "text_encoder" or network is model else []
        if isinstance(network, Denoiser | AutoencoderKL | TextEncoder):
            theirs = reference_name(network, f"{own}.weight").removesuffix(".weight")
            text = ["text_model."] if isinstance(network, TextEncoder) else []
            bare += [before + theirs for before in ["", *text]] if bare else []
            names = [f"{key}.{before}{theirs}" for before in [*text, ""]] + names
            short = {"unet": "unet", "text_encoder": "te_text_model"}.get(key, key)
            names.append(f"lora_{short}_{theirs}".replace(".", "_"))
        found[layer] = names + bare
    return found


def _network(model: nn.Module, layer: str) -> tuple[str, nn.Module, str]:
    """The network that a layer lies in: its name in files, itself, and the layer's name inside."""
    key, network, own = "", model, layer
    if isinstance(model, nn.ModuleDict):
        key, _, own = layer.partition(".")
        network = model[key]
    if own.startswith("denoiser.") and isinstance(getattr(network, "denoiser", None), Denoiser):  # under a ControlNet
        network, own = network.denoiser, own.removeprefix("denoiser.")
    kinds = {Denoiser: "unet", TextEncoder: "text_encoder", AutoencoderKL: "vae"}
    return key or next((name for kind, name in kinds.items() if isinstance(network, kind)), ""), network, own


def _pairs(file: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
    """Both matrices of each layer, and the alphas that are tensors, by the file's names of the layers."""
    ways, alphas = {}, {}
    for name, tensor in tensors.items():
        for pattern, kind in _OTHER_KINDS.items():
            if re.search(pattern, name):
                raise ValueError(f"{file} is {kind}, another kind of adapter: minildm reads LoRA (found {name})")
        if alpha := _ALPHA.fullmatch(name):
            alphas[_today(alpha[1])] = tensor
        elif matrix := _MATRIX.fullmatch(name):
            way = "down" if matrix[2] in ("A", "down") else "up"
            ways.setdefault(_today(matrix[1]), {})[way] = tensor
        else:
            raise ValueError(f"{file} is no LoRA, or of a kind that minildm does not know: it holds {name}")
    lonely = [name for name, pair in ways.items() if len(pair) < 2]
    if lonely or not ways:
        raise ValueError(f"{file} is no whole LoRA: expected two matrices for each layer, {lonely[:3] or 'found none'}")
    return {name: [pair["down"], pair["up"]] for name, pair in ways.items()}, alphas


def _today(name: str) -> str:
    """What a layer of an older file is called today."""
    name = name.removeprefix("base_model.model.")
    if ".processor." in name:
        name = re.sub(r"to_out$", "to_out.0", name.replace(".processor.", "."))
    return name


def _said(file: Path, metadata: Mapping[str, str]) -> dict:
    """What diffusers writes into a file about its LoRA, and peft beside it; by the network's name in files."""
    beside = file.with_name("adapter_config.json")
    try:
        said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        if file.name == PEFT and beside.is_file():
            said = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: what is said about it is damaged: {error}") from error
    for key, value in said.items():
        if key.split(".")[-1] == "use_dora" and value:
            raise ValueError(f"{file} is DoRA, another kind of adapter: minildm reads LoRA")
    return said


def _alpha(said: Mapping, name: str, rank: int) -> float:
    """Alpha of a layer, as peft reads its settings; where nothing is said, the rank."""
    key = next((f"{part}." for part in ("unet", "text_encoder") if f"{part}.r" in said and name.startswith(part)), "")
    alpha = said.get(f"{key}lora_alpha", rank)
    for pattern, own in (said.get(f"{key}alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            alpha = own
            break
    return alpha * math.sqrt(rank) if said.get(f"{key}use_rslora") else alpha


def _pickled(folder: Path) -> str:
    found = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".bin", ".pt", ".ckpt")]
    return f"; {', '.join(found)} is not opened, since unpickling can run any program" if found else ""
