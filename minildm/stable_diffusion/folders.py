"""Folders in the layout of diffusers, read and written: unet/, vae/, text_encoder/, tokenizer/, scheduler/, an index.

The networks are the classes of the course; nothing here computes anything.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from minildm import storage
from minildm.guidance import check_interval, check_scale
from minildm.pipeline import LatentDiffusion
from minildm.reference_names import reference_name, today
from minildm.stable_diffusion import _configs as configs
from minildm.stable_diffusion import _hub as hub
from minildm.stable_diffusion import _to_configs as to_configs
from minildm.stable_diffusion import _weights as weights
from minildm.stable_diffusion._time import told_later
from minildm.stable_diffusion._understood import complain, refuse
from minildm.text import TextEncoder, Tokenizer
from minildm.weights import check_nothing_added

GUIDANCE = 7.5  # the default of diffusers
LAYOUT = "0.36.0"  # the version of diffusers that a folder of ours says it was written for
INDEX = "model_index.json"
PIXELS, LATENTS = ("unet",), ("unet", "vae", "text_encoder")  # the networks of a pipeline
_OWN = "_minildm"  # the key of what diffusers does not ask for: it reads past such names
_NOT_USED = {"safety_checker", "feature_extractor", "requires_safety_checker"}
_KINDS = {
    PIXELS: ("DDIMPipeline", "DDPMPipeline"),
    LATENTS: ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
}


def load(
    folder_or_repo_id: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
) -> LatentDiffusion:
    """A pipeline of diffusers, from a folder, or from the Hugging Face Hub.

    That is Stable Diffusion 1 or 2, or one for inpainting; or a DDPMPipeline or DDIMPipeline, which works in pixels.

    folder_or_repo_id: a folder with model_index.json; or "owner/name", downloaded once, where there is huggingface_hub.
    device, dtype: of the networks. Each tensor is read straight to its place, so there is never a second copy. For a
        small GPU: dtype=torch.float16 (or bfloat16) halves the weights, whatever the files hold, and `pipe.tile = 512`
        bounds what the autoencoder needs for large pictures. Attention needs no slices: its fused kernel never holds
        the map of who looks where.
    variant: which weights, where there are several: "fp16" is half as much to download. None: the plain ones, or
        "fp16" for a network that has no others. A network that lacks the variant takes the plain ones.

    The pipeline takes prediction type, betas, spacing, where DDIM ends, clipping and the scale factor from the
    configuration files; which sampler they name does not matter, since each call chooses its own.
    Raises FileNotFoundError for a missing file, and ValueError that names file and key for a configuration that is not
    supported, and file and tensor for weights that do not fit. Warns of what a file asks for, changes pictures, and is
    not imitated. Only safetensors are opened, since unpickling a .bin or .ckpt can run any program.
    """
    folder = hub.find(folder_or_repo_id, variant)
    index, names = _index(folder / INDEX)
    if variant is not None and not any(weights.find(folder / name, variant) for name in names):
        raise FileNotFoundError(f"{folder} has no weights of the variant {variant!r}: leave it out, or name another")
    schedule, settings = _scheduler(folder, index)
    later = int(schedule.predicts == "flow")
    parts = {name: _network(folder / name, variant, device, dtype, later) for name in names}
    f = parts["vae"].multiple if "vae" in parts else 1
    h, w = configs.sample_size(*_config(folder / "unet"))
    parts["unet"].schedule = schedule
    settings |= dict(size=(f * h, f * w), guidance=1.0 if names == PIXELS else GUIDANCE, sees_padding=True)
    if names != PIXELS:
        del settings["clip"]
    if "text_encoder" in parts:
        parts["tokenizer"] = Tokenizer.load(folder / "tokenizer")
    try:
        return LatentDiffusion(**parts, **settings | _own(folder / INDEX, index))
    except ValueError as error:
        raise ValueError(f"{folder}: its parts do not fit together: {error}") from error


def save(pipe: LatentDiffusion, folder: str | Path) -> Path:
    """Write a pipeline so that diffusers opens it; returns the folder, which is a new or an empty one.

    - Words and an autoencoder: StableDiffusionPipeline, or its sibling for inpainting.
    - The same without a text encoder, or one of your own (leave it out: LatentDiffusion(pipe.unet, pipe.vae)):
      diffusers opens it with from_pretrained(folder, text_encoder=None, tokenizer=None) and takes prompt_embeds=...
    - Pixels, without words: DDIMPipeline. It is like ours with use_clipped_model_output=True. A flow becomes a
      DDPMPipeline whose scheduler is like our "euler". Diffusers has no pipeline that tells a U-Net classes; there,
      call pipe.unet(x_t, t, class_labels=y), where the last y is "no label".

    Diffusers knows one number of groups for all normalisations of a network, and without words one number of channels
    to a head. So choose before you train: Denoiser(..., groups=8) or another number that divides all widths, and heads
    in proportion to the widths, such as heads=(2, 4, 8) for channels=(32, 64, 128). The error says which numbers fit.

    Warns where the pictures will differ. Raises FileExistsError for a folder that is not empty, and ValueError for
    what diffusers has no class for, and for networks with a LoRA or other things put into them from outside.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: choose a new folder")
    _check_kind(pipe)
    for name in LATENTS:
        if isinstance(network := getattr(pipe, name), nn.Module):
            check_nothing_added(network)
    f = 1 if pipe.vae is None else pipe.vae.multiple
    written = {  # all of it before anything is written, since it may be refused
        "unet/config.json": to_configs.unet(pipe.unet, [side // f for side in pipe.size]),
        "scheduler/scheduler_config.json": to_configs.schedule(pipe),
    }
    if pipe.vae is not None:
        written["vae/config.json"] = to_configs.vae(pipe.vae, list(pipe.size))
    if pipe.text_encoder is not None:
        written["text_encoder/config.json"] = to_configs.text_encoder(pipe.text_encoder, pipe.tokenizer)
    _warn(pipe)
    with storage.folder(folder, INDEX) as part:
        written[INDEX] = _written_index(pipe, written, part)
        for name, content in written.items():
            storage.write_text(part / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        for name, stem in weights.STEMS.items():
            if (module := getattr(pipe, name)) is None:
                continue
            state = storage.state(module)
            if name == "unet" and pipe.predicts == "flow":
                state["time.0.weight"] = told_later(state["time.0.weight"], -1)
            prefix = "text_model." if name == "text_encoder" else ""  # as on the Hub
            tensors = {prefix + reference_name(module, key): t.contiguous() for key, t in state.items()}
            save_file(tensors, part / name / f"{stem}.safetensors", {"format": "pt"})
    return folder


def _check_kind(pipe):
    """ValueError unless diffusers has a pipeline of such parts."""
    if pipe.vae is None and pipe.unet.context_dim is not None:
        raise ValueError("diffusers has no pipeline for words in pixels: save_pretrained writes it for minildm")
    if pipe.vae is not None and pipe.unet.context_dim is None:
        raise ValueError("diffusers has no pipeline for latents without words: save_pretrained writes it for minildm")
    if pipe.vae is None and pipe.inpaints:
        raise ValueError("diffusers has no pipeline for inpainting in pixels: save_pretrained writes it for minildm")
    if not isinstance(pipe.text_encoder, TextEncoder | None):
        raise ValueError(
            f"StableDiffusionPipeline takes words through a TextEncoder, got {pipe.text_encoder!r}: save the rest, "
            "LatentDiffusion(pipe.unet, pipe.vae), and hand in its embeddings, pipe(context=...) or prompt_embeds=..."
        )


def _warn(pipe):
    """What will differ between the pictures of diffusers and ours."""
    if pipe.text_encoder is not None and not pipe.sees_padding:
        complain("diffusers lets pictures see the padding of a prompt, this pipeline does not")
    if pipe.vae is not None and pipe.guidance_interval is not None:
        complain("diffusers guides at all timesteps, this pipeline at those of its guidance_interval")
    if pipe.vae is not None and pipe.spacing == "leading" and pipe.offset != 1:
        complain(f"diffusers puts leading timesteps at an offset of 1, this pipeline at {pipe.offset}")
    if pipe.predicts == "flow":
        if pipe.spacing != "linspace" or pipe.clip is None or math.isfinite(pipe.clip):
            complain('diffusers lays the steps of a flow out as spacing="linspace", and does not clip: clip=math.inf')
    elif pipe.spacing == "karras":
        complain('diffusers\' DDIM has no Karras steps, so the folder says "trailing"')
    elif pipe.spacing == "linspace":
        complain("diffusers' DDIM does not lead from one timestep of linspace to the next, this pipeline does")
    if pipe.vae is not None and pipe.clip is not None and math.isfinite(pipe.clip):
        complain(f"diffusers does not clip latents, this pipeline to {pipe.clip}")
    if pipe.vae is None and pipe.unet.null_class is not None:
        complain("diffusers' pipeline tells its U-Net no class: pipe.unet(x_t, t, class_labels=y) does")


def _written_index(pipe: LatentDiffusion, written: dict, part: Path) -> dict:
    """model_index.json; the tokenizer, on which it depends, is written on the way."""
    scheduler = written["scheduler/scheduler_config.json"]["_class_name"]
    kind = "DDIMPipeline" if scheduler == "DDIMScheduler" else "DDPMPipeline"  # the first would replace the scheduler
    index = {"_class_name": kind, "_diffusers_version": LAYOUT}
    index[_OWN] = {name: getattr(pipe, name) for name in ("guidance", "guidance_interval", "labels")}
    index["unet"] = ["diffusers", written["unet/config.json"]["_class_name"]]
    index["scheduler"] = ["diffusers", scheduler]
    if pipe.vae is None:
        return index
    tokenizer = None
    if pipe.text_encoder is not None:
        pipe.tokenizer.save(part / "tokenizer")
        tokenizer = json.loads((part / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    return index | {
        "_class_name": "StableDiffusionInpaintPipeline" if pipe.inpaints else "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"] if tokenizer else [None, None],
        "tokenizer": ["transformers", tokenizer["tokenizer_class"]] if tokenizer else [None, None],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }


def _index(file: Path) -> tuple[dict, tuple[str, ...]]:
    """A model_index.json and the networks it names, once no part of it is one that we do not have."""
    index = weights.read_json(file)
    there = {part: value for part, value in index.items() if value not in (None, False, [None, None])}
    for part, value in there.items():
        if part not in _NOT_USED | set(hub.PARTS) and not part.startswith("_"):
            refuse(file, part, value, f"{', '.join(hub.PARTS)}, and no other part")
    names = tuple(name for name in LATENTS if name in there)
    if names not in (PIXELS, LATENTS, LATENTS[:2]):
        raise ValueError(
            f"{file} names {', '.join(names) or 'no network'}: expected unet, or unet, vae and text_encoder"
        )
    kinds = _KINDS[PIXELS if names == PIXELS else LATENTS]
    if (kind := index.get("_class_name", kinds[0])) not in kinds:
        complain(f"{file}: _class_name is {kind!r}; minildm takes its parts for those of {kinds[0]}")
    return index, names


def _own(file: Path, index: dict) -> dict:
    """The settings that diffusers does not ask for."""
    found = index.get(_OWN, {})
    own = found if isinstance(found, dict) else {"": found}
    labels = own.get("labels")
    good = labels is None or (isinstance(labels, list) and all(isinstance(label, str) for label in labels))
    try:
        check_scale(own.get("guidance", 1.0))
        check_interval(own.get("guidance_interval"))
    except ValueError:
        good = False
    if not good or not set(own) <= {"guidance", "guidance_interval", "labels"}:
        expected = "guidance, a number, guidance_interval, two timesteps, and labels, names"
        refuse(file, _OWN, found, expected)
    return found


def _scheduler(folder: Path, index: dict):
    """The noise schedule, and the settings that its file holds."""
    file = folder / "scheduler" / "scheduler_config.json"
    named = index.get("scheduler")
    name = named[-1] if isinstance(named, list) and named else None
    schedule, said = _build(partial(configs.schedule, name=name), weights.read_json(file), file)
    if "vae" in index and said["spacing"] == "leading" and said["offset"] != 1:
        complain(f"{file}: steps_offset is {said['offset']}, diffusers takes 1 instead; so does pipe.offset = 1")
    return schedule, said


def _config(folder: Path) -> tuple[dict, Path]:
    return weights.read_json(folder / "config.json"), folder / "config.json"


def _build(build: Callable[[dict, Path], object], config: dict, file: Path):
    """What a configuration describes; an error about its values names the file."""
    try:
        return build(config, file)
    except ValueError as error:
        raise error if str(file) in str(error) else ValueError(f"{file}: {error}") from error


def _network(
    folder: Path, variant: str | None, device: str | torch.device, dtype: torch.dtype, later: int
) -> nn.Module:
    """A network from its configuration, each tensor read straight into its place.

    later: how many timesteps later it counts than we do, if it counts any.
    """
    with torch.device("meta"):  # shapes only, so that nothing is held twice
        module = _build(getattr(configs, folder.name), *_config(folder))

    def part(name: str, tensor: Tensor) -> Tensor:
        if name == "time.0.weight" and later:
            return told_later(tensor, later)
        if name != "classes.weight" or len(tensor) != module.num_classes:
            return tensor
        complain(f"{folder}: its {len(tensor)} classes are all of something: without y the U-Net is told nothing")
        return torch.cat([tensor, torch.zeros_like(tensor[:1])])  # what "no label" adds

    files = weights.files(folder, variant)
    return weights.fill(module, partial(reference_name, module), files, folder, device, dtype, today=today, part=part)
