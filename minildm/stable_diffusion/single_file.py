"""Stable Diffusion from a single file in the layout of its first implementation, as checkpoints are handed around.

Such a file holds weights alone. What the networks are follows from the shapes; what they were trained with does not.
"""

import re
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion import _original_names as names
from minildm.stable_diffusion import _weights as weights
from minildm.stable_diffusion.full_size import SD_1, SD_2
from minildm.text import TextEncoder, Tokenizer

_OTHERS = {  # what tells a model apart that is none of ours
    "conditioner.embedders.": "Stable Diffusion XL",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "lora_": "a LoRA, not a whole model",
    "control_model.": "a ControlNet, not a whole model",
}


def load_single_file(
    file: str | Path,
    tokenizer: Tokenizer | str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    predicts: str | None = None,
) -> LatentDiffusion:
    """Stable Diffusion 1 or 2, or one for inpainting, from one .safetensors file of the original layout.

    file: with the tensors of model.diffusion_model, first_stage_model and cond_stage_model.
    tokenizer: CLIP's, which no such file holds: a tokenizer, or a folder with its vocab.json and merges.txt.
    device, dtype: of the networks, as in `load`.
    predicts: "eps" or "v". None: what the file says; where it does not, "eps" for version 1.
    Betas are those in the file, or Stable Diffusion's. Pictures are of 512×512 pixels, with "v" of 768×768.

    Raises FileNotFoundError, and ValueError for a file that is damaged, of another model or layout, or where predicts
    must be given. A .ckpt is not opened, since unpickling it can run any program.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"expected a .safetensors file, got {file}: minildm unpickles nothing")
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    shapes, metadata, betas = _contents(file)
    open_clip = any(name.startswith(names.OPEN_CLIP) for name in shapes)
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(tokenizer)
    if open_clip and (pad := tokenizer.bpe.token_to_id("!")) is not None:
        tokenizer = Tokenizer(tokenizer.bpe, tokenizer.length, pad)  # what version 2 was trained with
    with torch.device("meta"):  # shapes only, so that nothing is held twice
        try:
            built = _unet(shapes), _vae(shapes), _text_encoder(shapes, open_clip)
        except KeyError as error:
            raise ValueError(f"{file} lacks the tensor {error}") from error
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise ValueError(f"{file}: its networks are none of minildm's: {error}") from error
    parts = [_filled(module, file, open_clip, device, dtype) for module in built]
    predicts = predicts or _predicts(file, shapes, metadata, open_clip)
    settings = (SD_2 if open_clip else SD_1).pipeline | dict(predicts=predicts, size=768 if predicts == "v" else 512)
    unet, vae, text_encoder = parts
    unet.schedule = _schedule(betas).predicting(predicts)
    try:
        return LatentDiffusion(unet, vae, None, text_encoder, tokenizer, **settings)
    except ValueError as error:
        raise ValueError(f"{file}: its parts do not fit together: {error}") from error


def _contents(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str], Tensor | None]:
    """The shapes of all tensors, the metadata and the betas in a file, once it is known to be of the right kind."""
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {names.today(name): tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            metadata, betas = tensors.metadata() or {}, tensors.get_tensor("betas") if "betas" in shapes else None
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    for start, model in _OTHERS.items():
        if any(name.startswith(start) for name in shapes):
            raise ValueError(f"{file} is {model}; minildm reads Stable Diffusion 1 and 2")
    for start in (names.UNET, names.VAE, "cond_stage_model."):
        if not any(name.startswith(start) for name in shapes):
            hint = "; for a folder of diffusers, call load(folder)" if "conv_in.weight" in shapes else ""
            raise ValueError(f"{file} has no tensors {start}...: expected the three networks in one file{hint}")
    return shapes, metadata, betas


def _unet(shapes: dict) -> Denoiser:
    """The U-Net, level by level: blocks up to a change of size."""
    found = {name.removeprefix(names.UNET): shape for name, shape in shapes.items() if name.startswith(names.UNET)}
    levels, i = [[]], 1
    while f"input_blocks.{i}.0.op.weight" in found or f"input_blocks.{i}.0.in_layers.2.weight" in found:
        if f"input_blocks.{i}.0.op.weight" in found:
            levels.append([])
        else:
            width = found[f"input_blocks.{i}.0.in_layers.2.weight"][0]
            levels[-1].append((width, f"input_blocks.{i}.1.proj_in.weight" in found))
        i += 1
    same = {len(level) for level in levels}
    if any(len(set(level)) != 1 for level in levels) or len(same) != 1:
        raise ValueError(f"expected equal blocks at each level of the U-Net, got (width, attention) of {levels}")
    channels, attention = ([level[0][i] for level in levels] for i in (0, 1))
    linear = len(found["middle_block.1.proj_in.weight"]) == 2
    width, in_channels = found["input_blocks.0.0.weight"][:2]
    return Denoiser(
        in_channels,
        found["out.2.weight"][0],
        channels,
        same.pop(),
        attention,
        [channel // 64 for channel in channels] if linear else 8,  # version 2, version 1
        found["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        projection="linear" if linear else "conv",
        groups=32,
    )


def _vae(shapes: dict) -> AutoencoderKL:
    first = rf"{re.escape(names.VAE)}encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight"
    blocks = {
        tuple(map(int, found.groups())): shapes[found[0]][0] for found in map(partial(re.match, first), shapes) if found
    }
    levels = 1 + max(level for level, _ in blocks)
    return AutoencoderKL(
        shapes[f"{names.VAE}encoder.conv_in.weight"][1],
        shapes[f"{names.VAE}post_quant_conv.weight"][0],
        [blocks[level, 0] for level in range(levels)],
        1 + max(number for _, number in blocks),
        groups=32,
        scale_factor=0.18215,
    )


def _text_encoder(shapes: dict, open_clip: bool) -> TextEncoder:
    start = names.OPEN_CLIP if open_clip else f"{names.CLIP}text_model."
    if open_clip:
        tokens, length = shapes[f"{start}token_embedding.weight"], shapes[f"{start}positional_embedding"][0]
        depth = len([name for name in shapes if name.endswith(".attn.in_proj_weight")]) - 1  # of 24, 23 are used
        hidden = shapes[f"{start}transformer.resblocks.0.mlp.c_fc.weight"][0]
    else:
        tokens = shapes[f"{start}embeddings.token_embedding.weight"]
        length = shapes[f"{start}embeddings.position_embedding.weight"][0]
        depth = len([name for name in shapes if name.endswith(".self_attn.q_proj.weight")])
        hidden = shapes[f"{start}encoder.layers.0.mlp.fc1.weight"][0]
    activation = "gelu" if open_clip else "quick_gelu"
    heads = tokens[1] // 64
    return TextEncoder(*tokens, depth, heads, length, activation=activation, hidden_dim=hidden)


def _filled(module: nn.Module, file: Path, open_clip: bool, device, dtype: torch.dtype) -> nn.Module:
    """A network of the file; what belongs to the others, or is of training, does not count."""
    named = partial(names.original_name, module, open_clip=open_clip)
    own = {named(name) for name in module.state_dict()}
    start = next(iter(own)).split(".")[0]
    last = f"{names.OPEN_CLIP}transformer.resblocks.{module.config.get('depth')}."

    def today(name):
        unused = name.startswith(last) or name.endswith(("text_projection", "logit_scale", "position_ids", "attn_mask"))
        return names.today(name) if name.startswith(f"{start}.") and not unused else None

    part = partial(names.part, module, open_clip=open_clip)
    return weights.fill(module, named, [file], file, device, dtype, today=today, part=part)


def _predicts(file: Path, shapes: dict, metadata: dict, open_clip: bool) -> str:
    """What the file says that the U-Net predicts, by the usages of those who write such files."""
    said = metadata.get("modelspec.prediction_type", metadata.get("modelspec.predict_key"))
    if "v_pred" in shapes or said in ("v", "v_prediction"):
        return "v"
    if said in ("eps", "epsilon") or not open_clip:
        return "eps"
    raise ValueError(
        f'{file} is version 2 and does not say what its U-Net predicts: predicts="v" for pictures of 768×768, "eps" '
        "for 512×512 and for inpainting"
    )


def _schedule(betas: Tensor | None) -> NoiseSchedule:
    """The schedule of the betas in a file, which are rounded; without any, Stable Diffusion's."""
    usual = NoiseSchedule.scaled_linear()
    if betas is None or (betas.shape == usual.betas.shape and betas.double().allclose(usual.betas, rtol=1e-4)):
        return usual
    return NoiseSchedule.from_betas(betas.double())
