"""What the first implementation of latent diffusion (CompVis, Stability AI) calls our parameters, in single files."""

import re

from torch import Tensor, nn

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.reference_names import reference_name
from minildm.text import TextEncoder

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."

_UNET_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE = {
    "_blocks": "",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "mid_block.block.0": "mid.block_1",
    "mid_block.block.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_out.0": "proj_out",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers": "transformer.resblocks",
    "final_layer_norm": "ln_final",
    "layer_norm": "ln_",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def original_name(model: nn.Module, name: str, open_clip: bool = False) -> str:
    """The name of our parameter `name` in a single file.

    open_clip: whether the text tower is OpenCLIP's, whose queries, keys and values lie in one tensor; see `part`.
    """
    theirs = reference_name(model, name)
    if isinstance(model, Denoiser):
        return UNET + _unet(model, theirs)
    if isinstance(model, AutoencoderKL):
        levels = len(model.config["channels"])
        return VAE + re.sub(r"(?<=decoder\.up\.)\d+", lambda at: str(levels - 1 - int(at[0])), _replaced(theirs, _VAE))
    if not open_clip:
        return f"{CLIP}text_model.{theirs}"
    theirs = re.sub(r"self_attn\.[qkv]_proj\.(weight|bias)", r"attn.in_proj_\1", theirs)
    return OPEN_CLIP + _replaced(theirs, _OPEN_CLIP)


def today(name: str) -> str:
    """What a tensor is called where older versions of transformers left "text_model." out."""
    return f"{CLIP}text_model.{name.removeprefix(CLIP).removeprefix('text_model.')}" if name.startswith(CLIP) else name


def part(model: nn.Module, name: str, tensor: Tensor, open_clip: bool = False) -> Tensor:
    """Of a tensor in a single file what our parameter `name` is."""
    if isinstance(model, AutoencoderKL) and ".attention." in name and tensor.ndim == 4:
        return tensor[:, :, 0, 0]  # there the linear layers are convolutions of 1×1
    own = re.search(r"attention\.to_([qkv])\.", name)
    if open_clip and isinstance(model, TextEncoder) and own:
        return tensor.chunk(3)["qkv".index(own[1])].clone()
    return tensor


def _unet(model, theirs):
    """There, blocks are counted from one end to the other, and a change of size stands behind the block before it."""
    inside = re.sub(r"[\w.]*?\.(resnets|attentions|downsamplers|upsamplers)\.\d+\.", "", theirs)
    for outer, name in _UNET_OUTER.items():
        if theirs.startswith(f"{outer}."):
            return f"{name}.{_block(inside)}" if "resnets" in outer else theirs.replace(outer, name, 1)
    way, level, kind, number = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.", theirs).groups()
    level, number, blocks = int(level), int(number), model.config["blocks_per_level"] + 1
    where = (
        f"input_blocks.{1 + level * blocks + number}" if way == "down" else f"output_blocks.{level * blocks + number}"
    )
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * blocks}.0.op.{inside.removeprefix('conv.')}"
    if kind == "upsamplers":
        attends = model.config["attention"][::-1][level]
        return f"output_blocks.{(level + 1) * blocks - 1}.{2 if attends else 1}.{inside}"
    return f"{where}.0.{_block(inside)}" if kind == "resnets" else f"{where}.1.{inside}"


def _block(name):
    first, _, rest = name.partition(".")
    return f"{_UNET_BLOCK[first]}.{rest}"


def _replaced(name, names):
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name
