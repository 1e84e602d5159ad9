"""What diffusers and transformers call our parameters: the same networks, other names."""

import re

from torch import nn

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.layers import Downsample, ResidualBlock, Upsample

_OUTER = {"stem": "conv_in", "norm": "conv_norm_out", "head": "conv_out", "classes": "class_embedding"}
_ATTENTION = ("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")


def reference_name(model: nn.Module, name: str) -> str:
    """The name of our parameter `name` in the reference of the same architecture.

    Of a `Denoiser` that is UNet2DConditionModel, or UNet2DModel where it takes no context; of a `ControlNet`
    ControlNetModel; of an `AutoencoderKL` its namesake; of a `TextEncoder` CLIPTextModel, without the "text_model."
    that some versions put before it.
    """
    if isinstance(model, Denoiser):
        return _unet(model, name)
    return _vae(model, name) if isinstance(model, AutoencoderKL) else _text(name)


def today(name: str) -> str | None:
    """What a tensor of an older file is called today; None where it is no weight."""
    name = name.removeprefix("text_model.")
    if name == "embeddings.position_ids":  # the numbers 0, 1, 2, ..., which older files of the text tower hold
        return None
    if ".attentions." in name:
        for old, new in _ATTENTION:
            name = re.sub(rf"\.{old}\.(?=weight$|bias$)", f".{new}.", name)
    return name


def _unet(model, name):
    first, *inside = name.split(".")
    if first in _OUTER:
        return ".".join([_OUTER[first], *inside])
    if first in ("hint", "zeros", "zero_middle"):
        return _control(first, inside, len(getattr(model, "hint", ())))
    if first == "time":
        return f"time_embedding.linear_{1 + int(inside[0]) // 2}.{inside[1]}"
    chain, index = getattr(model, first), int(inside.pop(0))
    here = _middle(chain, index) if first == "middle" else _level(chain, index, first)
    if first != "middle" and not isinstance(chain[index], ResidualBlock | Downsample | Upsample):
        here = here.replace("resnets", ("resnets", "attentions")[int(inside.pop(0))])  # a block and its attention
    return f"{here}.{_inside(here, '.'.join(inside), model.context_dim is not None)}"


def _control(first, inside, depth):
    """What a ControlNet has besides a denoiser; depth: how many convolutions its control picture passes."""
    if first != "hint":
        return ".".join([{"zeros": "controlnet_down_blocks", "zero_middle": "controlnet_mid_block"}[first], *inside])
    index = int(inside[0])
    here = {0: "conv_in", depth - 1: "conv_out"}.get(index, f"blocks.{index - 1}")
    return f"controlnet_cond_embedding.{here}.{inside[1]}"


def _vae(model, name):
    first, *inside = name.split(".")
    if first in ("quant", "post_quant"):
        return f"{first}_conv.{inside[0]}"
    part = inside.pop(0)
    if part in _OUTER:
        return ".".join([first, _OUTER[part], *inside])
    chain, index = getattr(getattr(model, first), part), int(inside.pop(0))
    here = _middle(chain, index) if part == "middle" else _level(chain, index, part)
    return f"{first}.{here}.{_inside(here, '.'.join(inside), False)}"


def _text(name):
    name = re.sub(r"^(token|position)s\.", r"embeddings.\1_embedding.", name)
    name = re.sub(r"^norm\.", "final_layer_norm.", name).replace("blocks.", "encoder.layers.")
    name = name.replace(".norm", ".layer_norm").replace("fc", "mlp.fc")
    return re.sub(r"attention\.to_(\w+)", lambda found: f"self_attn.{found[1]}_proj", name)


def _middle(chain, index):
    attention = len(chain) == 3 and index == 1
    return "mid_block." + ("attentions.0" if attention else f"resnets.{min(index, 1)}")


def _level(chain, index, way):
    """Where the layer of a way down or up stands: its level, and its number there."""
    ends = [i for i, layer in enumerate(chain) if isinstance(layer, Downsample | Upsample)]
    level = sum(end < index for end in ends)
    here = f"{way}_blocks.{level}."
    return here + (f"{way}samplers.0" if index in ends else f"resnets.{index - [-1, *ends][level] - 1}")


def _inside(here, name, transformer):
    """Inside a block, an attention layer or a change of size."""
    if "attentions" not in here:
        return name.replace("shift.", "time_emb_proj.").replace("shortcut.", "conv_shortcut.")
    name = name.replace("to_out.", "to_out.0.")
    if not transformer:
        return name.replace("norm.", "group_norm.").replace("attention.", "")
    for ours, theirs in (
        ("project_", "proj_"),
        ("blocks.", "transformer_blocks."),
        ("self_attention", "attn1"),
        ("cross_attention", "attn2"),
        ("feed_forward.fc1", "ff.net.0.proj"),
        ("feed_forward.fc2", "ff.net.2"),
    ):
        name = name.replace(ours, theirs)
    return name
