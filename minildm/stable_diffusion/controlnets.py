"""ControlNets in the layout of diffusers' ControlNetModel: a folder with config.json and weights, read and written."""

import json
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from minildm import storage
from minildm.adapt import ControlNet
from minildm.reference_names import reference_name, today
from minildm.stable_diffusion import _configs as configs
from minildm.stable_diffusion import _hub as hub
from minildm.stable_diffusion import _to_configs as to_configs
from minildm.stable_diffusion import _weights as weights
from minildm.stable_diffusion._understood import filled, refuse
from minildm.weights import check_nothing_added

CONFIG, STEM = "config.json", weights.STEMS["unet"]
_OWN = {"conditioning_channels": 3, "conditioning_embedding_out_channels": [16, 32, 96, 256]}
_FIXED = {"controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False}
_CLASS = "ControlNetModel"
_NOT_OF_ONE = ("up_block_types", "out_channels", "sample_size", "conv_in_kernel", "conv_out_kernel", "attention_type")
_NOT_OF_ONE += ("mid_block_scale_factor", "center_input_sample", "time_embedding_type", "resnet_out_scale_factor")


def load_controlnet(
    folder_or_repo_id: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
) -> ControlNet:
    """A ControlNet of diffusers, from its folder, or from the Hugging Face Hub.

    It steers a pipeline once it stands beside its denoiser: pipe.unet = adapt.Controlled(pipe.unet, controlnet).

    folder_or_repo_id: a folder with config.json; or "owner/name", downloaded once, where there is huggingface_hub.
    Its control pictures have three channels, or as many as it says, with values in [0, 1]. The other arguments and the
    errors as of `stable_diffusion.load`.
    """
    folder = hub.find(folder_or_repo_id, variant, networks=(hub.ITSELF,), others=(CONFIG,))
    file = folder / CONFIG
    config = weights.read_json(file)
    if config.get("_class_name", _CLASS) != _CLASS:
        refuse(file, "_class_name", config["_class_name"], repr(_CLASS))
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            refuse(file, key, config[key], json.dumps(value))
    own = filled(config, file, _OWN)
    shared = {key: value for key, value in config.items() if key not in (*_OWN, *_FIXED, "_class_name")}
    downs = config.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
    shared |= dict(up_block_types=[str(kind).replace("Down", "Up") for kind in reversed(downs)], out_channels=4)
    try:
        with torch.device("meta"):  # shapes only, so that nothing is held twice
            like = configs.unet(shared, file).config | dict(out_channels=config.get("in_channels", 4))
            net = ControlNet(own["conditioning_channels"], own["conditioning_embedding_out_channels"], **like)
    except ValueError as error:
        raise error if str(file) in str(error) else ValueError(f"{file}: {error}") from error
    files = weights.files(folder, variant)
    return weights.fill(net, partial(reference_name, net), files, folder, device, dtype, today=today)


def save_controlnet(controlnet: ControlNet, folder: str | Path) -> Path:
    """Write a ControlNet so that diffusers opens it, ControlNetModel.from_pretrained(folder); returns the folder.

    Raises FileExistsError for a folder that holds something else, and ValueError where diffusers has none like it: of
    a denoiser without words, or with another number of groups at each level; and for one with a LoRA beside its layers.
    """
    if not isinstance(controlnet, ControlNet) or controlnet.context_dim is None:
        raise ValueError(f"diffusers has ControlNets of denoisers with words alone, got {type(controlnet).__name__}")
    check_nothing_added(controlnet)
    config = {key: value for key, value in to_configs.unet(controlnet, [64, 64]).items() if key not in _NOT_OF_ONE}
    config |= _FIXED | {"_class_name": _CLASS, "mid_block_scale_factor": 1}
    config["conditioning_channels"] = controlnet.control_channels
    config["conditioning_embedding_out_channels"] = controlnet.config["hint"]
    tensors = {reference_name(controlnet, name): t.contiguous() for name, t in storage.state(controlnet).items()}
    with storage.folder(folder, CONFIG, [f"{STEM}.safetensors"]) as part:
        storage.write_text(part / CONFIG, json.dumps(config, indent=2) + "\n")
        save_file(tensors, part / f"{STEM}.safetensors", {"format": "pt"})
    return Path(folder)
