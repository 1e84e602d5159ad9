"""Folders in the layout of diffusers, read and written: unet/, vae/, text_encoder/, tokenizer/, scheduler/, an index.

The networks are the classes of the course; nothing here computes anything.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from minildm.pipeline import LatentDiffusion
from minildm.stable_diffusion import _configs as configs
from minildm.stable_diffusion import _to_configs as to_configs
from minildm.stable_diffusion._names import reference_name, today
from minildm.text import TextEncoder, Tokenizer

GUIDANCE = 7.5  # the default of diffusers
LAYOUT = "0.36.0"  # the version of diffusers that a folder of ours says it was written for
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_NOT_USED = {"safety_checker", "feature_extractor", "requires_safety_checker"}
_NO_WEIGHT = "embeddings.position_ids"  # the numbers 0, 1, 2, ..., which older files of the text tower hold


def load(
    folder_or_repo_id: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LatentDiffusion:
    """Stable Diffusion 1 or 2, or one for inpainting, from a folder of diffusers, or from the Hugging Face Hub.

    folder_or_repo_id: a folder with model_index.json; or "owner/name", downloaded once, where there is huggingface_hub.
    device, dtype: of the networks. Each tensor is read straight to its place, so there is never a second copy. For a
        small GPU: dtype=torch.float16 (or bfloat16) halves the weights, whatever the files hold, and `pipe.tile = 512`
        bounds what the autoencoder needs for large pictures. Attention needs no slices: its fused kernel never holds
        the map of who looks where.

    The pipeline takes prediction type, betas, spacing, where DDIM ends and the scale factor from the configuration
    files; which sampler they name does not matter, since each call chooses its own.
    Raises FileNotFoundError for a missing file, and ValueError that names file and key for a configuration that is not
    supported, and file and tensor for weights that do not fit.
    """
    folder = _find(folder_or_repo_id)
    index = _json(folder / "model_index.json")
    for part, value in index.items():
        if part not in _NOT_USED | set(PARTS) and not part.startswith("_") and value not in (None, False, [None, None]):
            configs.refuse(folder / "model_index.json", part, value, f"{', '.join(PARTS)}, and no other part")
    build = dict(unet=configs.unet, vae=configs.vae, text_encoder=configs.text_encoder)
    parts = {name: _network(folder / name, _WEIGHTS[name], build[name], device, dtype) for name in build}
    h, w = configs.latent_size(*_config(folder / "unet", "config.json"))
    f = parts["vae"].multiple
    schedule, said = _build(configs.schedule, *_config(folder / "scheduler", "scheduler_config.json"))
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
        warnings.warn("diffusers lets pictures see the padding of a prompt, this pipeline does not", stacklevel=2)
    if pipe.spacing == "leading" and pipe.offset != 1:
        warnings.warn(
            f"diffusers puts leading timesteps at an offset of 1, this pipeline at {pipe.offset}", stacklevel=2
        )
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
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
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for name, stem in _WEIGHTS.items():
            module = getattr(pipe, name)
            prefix = "text_model." if name == "text_encoder" else ""  # as on the Hub
            tensors = {prefix + reference_name(module, key): t.contiguous() for key, t in module.state_dict().items()}
            save_file(tensors, part / name / f"{stem}.safetensors", {"format": "pt"})
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _find(folder_or_repo_id):
    folder = Path(folder_or_repo_id)
    if folder.is_dir():
        return folder
    if not isinstance(folder_or_repo_id, str) or not re.fullmatch(r"[\w-]+/[\w.-]+", folder_or_repo_id):
        raise FileNotFoundError(f"there is no folder {str(folder_or_repo_id)!r}, and it is no name like 'owner/name'")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f"there is no folder {folder_or_repo_id!r}; to download it: pip install huggingface_hub"
        ) from None
    wanted = [f"{part}/*.{ending}" for part in PARTS for ending in ("json", "txt", "safetensors")]
    try:
        return Path(
            snapshot_download(
                folder_or_repo_id,
                allow_patterns=["model_index.json", *wanted],
                ignore_patterns=["*.fp16.*", "*.non_ema.*"],
            )
        )
    except Exception as error:  # of many kinds, from the network and from the library
        raise FileNotFoundError(
            f"there is no folder {folder_or_repo_id!r}, and it could not be downloaded: are you online, and is it the "
            f"name of a model that you may read? ({error})"
        ) from error


def _json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a folder in the layout of diffusers")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: expected names and values")
    return found


def _config(folder: Path, name: str) -> tuple[dict, Path]:
    return _json(folder / name), folder / name


def _build(build: Callable[[dict, Path], object], config: dict, file: Path):
    """What a configuration describes; an error about its values names the file."""
    try:
        return build(config, file)
    except ValueError as error:
        raise error if str(file) in str(error) else ValueError(f"{file}: {error}") from error


def _files(folder: Path, stem: str) -> list[Path]:
    """The weights of one network: one file, or shards and an index; in half precision where there is nothing else."""
    for variant in ("", ".fp16"):
        index, whole = folder / f"{stem}.safetensors.index{variant}.json", folder / f"{stem}{variant}.safetensors"
        if index.is_file():
            try:
                files = [folder / name for name in sorted(set(_json(index)["weight_map"].values()))]
            except (KeyError, AttributeError, TypeError) as error:
                raise ValueError(f"{index} is damaged: it has no weight_map") from error
            break
        if whole.is_file():
            files = [whole]
            break
    else:
        files = [folder / f"{stem}.safetensors"]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; minildm reads safetensors only")
    return files


def _network(
    folder: Path, stem: str, build: Callable[[dict, Path], nn.Module], device: str | torch.device, dtype: torch.dtype
) -> nn.Module:
    """A network from its configuration, each tensor read straight into its place."""
    with torch.device("meta"):  # shapes only, so that nothing is held twice
        module = _build(build, *_config(folder, "config.json"))
    ours = {reference_name(module, name): name for name in module.state_dict()}
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    found = {}
    for path in _files(folder, stem):
        try:
            with safe_open(path, framework="pt", device=str(device)) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    if today(name) == _NO_WEIGHT:
                        continue
                    if today(name) not in ours:
                        raise ValueError(f"{path}: the tensor {name} belongs to no part of this network")
                    to, tensor = ours[today(name)], tensors.get_tensor(name)
                    if tensor.shape != shapes[to]:
                        expected = tuple(shapes[to])
                        raise ValueError(f"{path}: expected {name} of shape {expected}, got {tuple(tensor.shape)}")
                    found[to] = tensor.to(dtype)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    missing = [theirs for theirs, name in ours.items() if name not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"{folder} lacks tensors: {', '.join(missing[:3])}{more}")
    module.load_state_dict(found, assign=True)
    return module.eval()
