"""Our networks as the configuration files of diffusers and transformers, where these have networks like them."""

from torch import nn

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.schedule import NoiseSchedule
from minildm.stable_diffusion._configs import PREDICTS, UNET, VAE
from minildm.text import TextEncoder, Tokenizer


def unet(model: Denoiser, size: list[int]) -> dict:
    """unet/config.json for our U-Net, whose latents are of this size; ValueError where diffusers has none like it."""
    c = model.config
    if c["context_dim"] is None or not c["middle_attention"] or not c["skip"]:
        raise ValueError(
            "diffusers has no such U-Net: expected one with a context, skips and middle attention, got "
            f"context_dim={c['context_dim']}, skip={c['skip']}, middle_attention={c['middle_attention']}"
        )
    return UNET | {
        "sample_size": size[0] if size[0] == size[1] else size,  # some pipelines of diffusers insist on one number
        "in_channels": c["in_channels"],
        "out_channels": c["out_channels"],
        "block_out_channels": c["channels"],
        "layers_per_block": c["blocks_per_level"],
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in c["attention"]],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(c["attention"])],
        "attention_head_dim": c["heads"],
        "cross_attention_dim": c["context_dim"],
        "use_linear_projection": c["projection"] == "linear",
        "norm_num_groups": _groups(model),
        "norm_eps": c["eps"],
        "num_class_embeds": None if c["num_classes"] is None else c["num_classes"] + 1,
    }


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


def schedule(noise: NoiseSchedule, predicts: str, spacing: str, offset: int, ends_clean: bool) -> dict:
    """scheduler_config.json of the DDIM that draws as ours does."""
    betas, n = noise.betas, len(noise)
    ends = betas[0].item(), betas[-1].item()
    of_kind = {kind: getattr(NoiseSchedule, kind)(n, *ends).betas for kind in ("scaled_linear", "linear")}
    kinds = [kind for kind, same in of_kind.items() if same.allclose(betas, rtol=1e-9)]
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": n,
        "beta_start": ends[0],
        "beta_end": ends[1],
        "beta_schedule": kinds[0] if kinds else "linear",
        "trained_betas": None if kinds else betas.tolist(),
        "prediction_type": next(theirs for theirs, ours in PREDICTS.items() if ours == predicts),
        "timestep_spacing": spacing,
        "steps_offset": offset if spacing == "leading" else 1,  # without a meaning there, but diffusers insists on 1
        "clip_sample": False,
        "set_alpha_to_one": ends_clean,
    }


def _groups(model: nn.Module) -> int:
    """How many groups its normalisations have; diffusers knows one number for all."""
    found = {module.num_groups for module in model.modules() if isinstance(module, nn.GroupNorm)}
    if len(found) != 1:
        raise ValueError(
            f"diffusers has no {type(model).__name__} whose normalisations have {sorted(found)} groups: "
            "build it with one number of groups, groups=..."
        )
    return found.pop()
