"""Our networks as the configuration files of diffusers and transformers, where these have networks like them."""

import math

from torch import nn

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.pipeline import LatentDiffusion
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion._configs import UNET, UNET_2D, VAE
from minildm.stable_diffusion._schedulers import FLOWS, PREDICTS, SPACING
from minildm.text import TextEncoder, Tokenizer


def unet(model: Denoiser, size: list[int]) -> dict:
    """unet/config.json for our U-Net, which denoises what has this size; ValueError where diffusers has none like it.

    With words that is a UNet2DConditionModel, without a UNet2DModel.
    """
    if not isinstance(model, Denoiser):
        raise ValueError(f"diffusers has no network like this {type(model).__name__}: expected a Denoiser")
    c = model.config
    if not c["skip"]:
        raise ValueError("diffusers has no U-Net with skip=False")
    shared = {
        "sample_size": size[0] if size[0] == size[1] else size,  # some pipelines of diffusers insist on one number
        "in_channels": c["in_channels"],
        "out_channels": c["out_channels"],
        "block_out_channels": c["channels"],
        "layers_per_block": c["blocks_per_level"],
        "dropout": 0.0,
        "norm_num_groups": _groups(model),
        "norm_eps": c["eps"],
        "num_class_embeds": None if c["num_classes"] is None else c["num_classes"] + 1,
    }
    if c["num_classes"] is not None:
        shared["_null_class"] = True  # for ourselves: the last is "no label"
    if c["context_dim"] is None:
        return (
            UNET_2D
            | shared
            | _kinds(c, "Attn")
            | {
                "attention_head_dim": _head_dim(c),
                "add_attention": c["middle_attention"],
            }
        )
    if not c["middle_attention"]:
        raise ValueError("diffusers has no U-Net for words with middle_attention=False")
    return (
        UNET
        | shared
        | _kinds(c, "CrossAttn")
        | {
            "attention_head_dim": c["heads"],
            "cross_attention_dim": c["context_dim"],
            "use_linear_projection": c["projection"] == "linear",
        }
    )


def _kinds(c: dict, prefix: str) -> dict:
    down = [f"{prefix if attends else ''}DownBlock2D" for attends in c["attention"]]
    return {"down_block_types": down, "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)]}


def _head_dim(c: dict) -> int | None:
    """How many channels a head has; without words, diffusers knows one number for all levels."""
    levels = [level for level, attends in enumerate(c["attention"]) if attends]
    levels += [len(c["channels"]) - 1] if c["middle_attention"] else []
    widths = {level: c["channels"][level] // c["heads"][level] for level in levels}
    if not widths:
        return None
    if len(set(widths.values())) > 1:
        common = math.gcd(*widths.values())
        heads = [width // common if level in widths else 1 for level, width in enumerate(c["channels"])]
        raise ValueError(
            "diffusers has no U-Net without words whose heads have different widths, got channels / heads of "
            f"{', '.join(f'{width} at level {level}' for level, width in sorted(widths.items()))}: "
            f"build it with heads={heads}, so that each has {common}"
        )
    return next(iter(widths.values()))


def vae(model: AutoencoderKL, size: list[int]) -> dict:
    """vae/config.json for our autoencoder; ValueError where diffusers has none like it."""
    c = model.config
    if c["patch"] != 1 or len(set(c["blocks_per_level"])) != 1 or c["eps"] != 1e-6:
        raise ValueError(
            "diffusers has no such autoencoder: expected patch=1, as many blocks at each level and eps=1e-6, got "
            f"patch={c['patch']}, blocks_per_level={c['blocks_per_level']}, eps={c['eps']}"
        )
    levels = len(c["channels"])
    return VAE | {
        "sample_size": max(size),
        "in_channels": c["in_channels"],
        "out_channels": c["in_channels"],
        "latent_channels": c["latent_channels"],
        "block_out_channels": c["channels"],
        "layers_per_block": c["blocks_per_level"][0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": c["middle_attention"],
        "norm_num_groups": _groups(model),
        "scaling_factor": c["scale_factor"],
    }


def text_encoder(model: TextEncoder, tokenizer: Tokenizer) -> dict:
    """text_encoder/config.json for our text tower."""
    c = model.config
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": c["vocab_size"],
        "hidden_size": c["dim"],
        "intermediate_size": c["hidden_dim"],
        "num_hidden_layers": c["depth"],
        "num_attention_heads": c["heads"],
        "max_position_embeddings": c["length"],
        "hidden_act": c["activation"],
        "layer_norm_eps": c["eps"],
        "bos_token_id": tokenizer.start,
        "eos_token_id": c["end"],
        "pad_token_id": tokenizer.pad,
    }


def schedule(pipe: LatentDiffusion) -> dict:
    """scheduler_config.json of the DDIM, or for a flow the Euler method, that draws as the pipeline does.

    ValueError for a schedule that these do not have.
    """
    noise = pipe.schedule
    if pipe.vae is None and noise == NoiseSchedule.flow(len(noise)):
        return {"_class_name": FLOWS[0], "num_train_timesteps": len(noise), "shift": 1.0}
    if noise.predicts not in PREDICTS.values():
        raise ValueError(
            f"diffusers has no pipeline for {noise}: of flows it has NoiseSchedule.flow() in pixels, without a shift; "
            f"otherwise, expected a network that predicts one of {', '.join(map(repr, PREDICTS.values()))}"
        )
    made = noise.config
    kinds = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    kind = kinds.get(made["kind"])
    if made["kind"] == "cosine" and noise != NoiseSchedule.cosine(len(noise)).predicting(noise.predicts):
        kind = None
    clips = pipe.vae is None and pipe.clip is not None and math.isfinite(pipe.clip)
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": len(noise),
        "beta_start": made.get("beta_start", 1e-4),
        "beta_end": made.get("beta_end", 0.02),
        "beta_schedule": kind or "linear",
        "trained_betas": None if kind else _betas(noise),
        "prediction_type": next(theirs for theirs, ours in PREDICTS.items() if ours == noise.predicts),
        "timestep_spacing": pipe.spacing if pipe.spacing in SPACING else "trailing",
        # Without a meaning elsewhere, but for latents diffusers insists on 1.
        "steps_offset": pipe.offset if pipe.spacing == "leading" or pipe.vae is None else 1,
        "clip_sample": clips,
        "clip_sample_range": pipe.clip if clips else 1.0,
        "set_alpha_to_one": pipe.ends_clean,
    }


def _betas(noise: NoiseSchedule) -> list[float]:
    try:
        return noise.betas.tolist()
    except AttributeError as error:
        raise ValueError(f"diffusers takes betas: {error}") from error


def _groups(model: nn.Module) -> int:
    """How many groups its normalisations have; diffusers knows one number for all."""
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    found = {norm.num_groups for norm in norms}
    if len(found) != 1:
        common, narrow = math.gcd(*(norm.num_channels for norm in norms)), min(norm.num_channels for norm in norms)
        fitting = [groups for groups in range(1, common + 1) if common % groups == 0]
        best = max(groups for groups in fitting if groups <= max(1, min(32, narrow // 4)))  # as `layers.group_norm`
        raise ValueError(
            f"diffusers has no {type(model).__name__} whose normalisations have {sorted(found)} groups: "
            f"build it with one number of groups, groups={best}; its widths split into {', '.join(map(str, fitting))}"
        )
    return found.pop()
