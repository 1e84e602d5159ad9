"""Folders in the layout of diffusers, read and written: unet/, vae/, text_encoder/, tokenizer/, scheduler/, an index.

The networks are the classes of the course; nothing here computes anything.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from minildm import storage
from minildm.pipeline import LatentDiffusion
from minildm.stable_diffusion import _configs as configs
from minildm.stable_diffusion import _hub as hub
from minildm.stable_diffusion import _to_configs as to_configs
from minildm.stable_diffusion import _weights as weights
from minildm.stable_diffusion._names import reference_name, today
from minildm.stable_diffusion._understood import complain, refuse
from minildm.text import TextEncoder, Tokenizer

GUIDANCE = 7.5  # the default of diffusers
LAYOUT = "0.36.0"  # the version of diffusers that a folder of ours says it was written for
_NOT_USED = {"safety_checker", "feature_extractor", "requires_safety_checker"}
_KINDS = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")


def load(
    folder_or_repo_id: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
) -> LatentDiffusion:
    """Stable Diffusion 1 or 2, or one for inpainting, from a folder of diffusers, or from the Hugging Face Hub.

    folder_or_repo_id: a folder with model_index.json; or "owner/name", downloaded once, where there is huggingface_hub.
    device, dtype: of the networks. Each tensor is read straight to its place, so there is never a second copy. For a
        small GPU: dtype=torch.float16 (or bfloat16) halves the weights, whatever the files hold, and `pipe.tile = 512`
        bounds what the autoencoder needs for large pictures. Attention needs no slices: its fused kernel never holds
        the map of who looks where.
    variant: which weights, where there are several: "fp16" is half as much to download. None: the plain ones, or
        "fp16" for a network that has no others. A network that lacks the variant takes the plain ones.

    The pipeline takes prediction type, betas, spacing, where DDIM ends and the scale factor from the configuration
    files; which sampler they name does not matter, since each call chooses its own.
    Raises FileNotFoundError for a missing file, and ValueError that names file and key for a configuration that is not
    supported, and file and tensor for weights that do not fit. Warns of what a file asks for, changes pictures, and is
    not imitated. Only safetensors are opened, since unpickling a .bin or .ckpt can run any program.
    """
    folder = hub.find(folder_or_repo_id, variant)
    index = _index(folder / "model_index.json")
    if variant is not None and not any(weights.find(folder / name, variant) for name in weights.STEMS):
        raise FileNotFoundError(f"{folder} has no weights of the variant {variant!r}: leave it out, or name another")
    build = dict(unet=configs.unet, vae=configs.vae, text_encoder=configs.text_encoder)
    parts = {name: _network(folder / name, build[name], variant, device, dtype) for name in build}
    h, w = configs.sample_size(*_config(folder / "unet", "config.json"))
    f = parts["vae"].multiple
    file = folder / "scheduler" / "scheduler_config.json"
    scheduler = index.get("scheduler")
    name = scheduler[-1] if isinstance(scheduler, list) and scheduler else None
    schedule, said = _build(lambda config, file: configs.schedule(config, file, name), weights.read_json(file), file)
    if said["spacing"] == "leading" and said["offset"] != 1:
        complain(f"{file}: steps_offset is {said['offset']}, diffusers takes 1 instead; so does pipe.offset = 1")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    settings = said | dict(size=(f * h, f * w), guidance=GUIDANCE, sees_padding=True)
    try:
        return LatentDiffusion(**parts, schedule=schedule, tokenizer=tokenizer, **settings)
    except ValueError as error:
        raise ValueError(f"{folder}: its parts do not fit together: {error}") from error


def save(pipe: LatentDiffusion, folder: str | Path) -> Path:
    """Write a pipeline so that diffusers opens it, as StableDiffusionPipeline or its sibling for inpainting.

    folder: a new or an empty one; returns its path. Warns where the pictures will differ: diffusers lets them see the
    padding of a prompt, and knows one offset of leading timesteps. Raises FileExistsError for a folder that is not
    empty, and ValueError for networks that diffusers has none like.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: choose a new folder")
    if not isinstance(pipe.text_encoder, TextEncoder):
        raise ValueError(f"StableDiffusionPipeline takes words through a TextEncoder, got {pipe.text_encoder!r}")
    latent = [side // pipe.vae.multiple for side in pipe.size]
    written = {  # all of it before anything is written, since it may be refused
        "unet/config.json": to_configs.unet(pipe.unet, latent),
        "vae/config.json": to_configs.vae(pipe.vae, list(pipe.size)),
        "text_encoder/config.json": to_configs.text_encoder(pipe.text_encoder, pipe.tokenizer),
        "scheduler/scheduler_config.json": to_configs.schedule(
            pipe.schedule, pipe.predicts, pipe.spacing, pipe.offset, pipe.ends_clean
        ),
    }
    if not pipe.sees_padding:
        complain("diffusers lets pictures see the padding of a prompt, this pipeline does not")
    if pipe.spacing == "leading" and pipe.offset != 1:
        complain(f"diffusers puts leading timesteps at an offset of 1, this pipeline at {pipe.offset}")
    with storage.folder(folder, "model_index.json") as part:
        pipe.tokenizer.save(part / "tokenizer")
        kind = json.loads((part / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
        written["model_index.json"] = {
            "_class_name": "StableDiffusionInpaintPipeline" if pipe.inpaints else "StableDiffusionPipeline",
            "_diffusers_version": LAYOUT,
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", kind["tokenizer_class"]],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        }
        for name, content in written.items():
            storage.write_text(part / name, json.dumps(content, indent=2) + "\n")
        for name, stem in weights.STEMS.items():
            module = getattr(pipe, name)
            prefix = "text_model." if name == "text_encoder" else ""  # as on the Hub
            tensors = {prefix + reference_name(module, key): t.contiguous() for key, t in storage.state(module).items()}
            save_file(tensors, part / name / f"{stem}.safetensors", {"format": "pt"})
    return folder


def _index(file: Path) -> dict:
    """A model_index.json, once no part of it is one that we do not have."""
    index = weights.read_json(file)
    for part, value in index.items():
        if (
            part not in _NOT_USED | set(hub.PARTS)
            and not part.startswith("_")
            and value not in (None, False, [None, None])
        ):
            refuse(file, part, value, f"{', '.join(hub.PARTS)}, and no other part")
    if (kind := index.get("_class_name", _KINDS[0])) not in _KINDS:
        complain(f"{file}: _class_name is {kind!r}; minildm takes its parts for those of {_KINDS[0]}")
    return index


def _config(folder: Path, name: str) -> tuple[dict, Path]:
    return weights.read_json(folder / name), folder / name


def _build(build: Callable[[dict, Path], object], config: dict, file: Path):
    """What a configuration describes; an error about its values names the file."""
    try:
        return build(config, file)
    except ValueError as error:
        raise error if str(file) in str(error) else ValueError(f"{file}: {error}") from error


def _network(
    folder: Path,
    build: Callable[[dict, Path], nn.Module],
    variant: str | None,
    device: str | torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """A network from its configuration, each tensor read straight into its place."""
    with torch.device("meta"):  # shapes only, so that nothing is held twice
        module = _build(build, *_config(folder, "config.json"))
    files = weights.files(folder, variant)
    return weights.fill(module, partial(reference_name, module), files, folder, device, dtype, today=today)
