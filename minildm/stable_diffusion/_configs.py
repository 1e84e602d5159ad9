"""The configuration files of diffusers and transformers as our networks; each key is understood or refused."""

from pathlib import Path

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.stable_diffusion._schedulers import PREDICTS, schedule
from minildm.stable_diffusion._understood import fits, refuse, understood
from minildm.text import TextEncoder

__all__ = ["PREDICTS", "UNET", "VAE", "latent_size", "refuse", "schedule", "text_encoder", "unet", "vae"]

# What our networks are: any other value asks for another architecture.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "transformer_layers_per_block": 1,
    "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
_UNET_DEFAULTS = {  # of diffusers, where a file leaves a key out
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "cross_attention_dim": 1280,
    "use_linear_projection": False,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
}
_UNET_SILENT = {
    "sample_size",
    "upcast_attention",
    "addition_embed_type_num_heads",
    "dropout",
}  # do not change the network
VAE = {"_class_name": "AutoencoderKL", "act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True}
_VAE_DEFAULTS = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
}
_VAE_SILENT = {"sample_size", "force_upcast"}
_TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_TEXT_FIXED = {"model_type": "clip_text_model", "use_attention_mask": False}
_TEXT_SILENT = {  # of training, of other parts of CLIP, or of how transformers runs it
    *("architectures", "attention_dropout", "dropout", "initializer_factor", "initializer_range", "projection_dim"),
    *("bos_token_id", "pad_token_id", "torch_dtype", "dtype", "transformers_version", "logit_scale_init_value"),
    *("tie_word_embeddings", "use_cache", "return_dict", "output_hidden_states", "output_attentions", "id2label"),
    *("label2id", "is_encoder_decoder", "chunk_size_feed_forward", "problem_type"),
}


def unet(config: dict, file: Path) -> Denoiser:
    """The U-Net of a unet/config.json."""
    c = understood(config, file, UNET, _UNET_DEFAULTS, _UNET_SILENT)
    levels = len(c["block_out_channels"])
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False, "CrossAttnUpBlock2D": True, "UpBlock2D": False}
    for key in ("down_block_types", "up_block_types"):
        if len(c[key]) != levels or not set(c[key]) <= set(kinds):
            refuse(file, key, c[key], f"{levels} of {', '.join(kinds)}")
    attention = [kinds[kind] for kind in c["down_block_types"]]
    if attention != [kinds[kind] for kind in reversed(c["up_block_types"])]:
        refuse(file, "up_block_types", c["up_block_types"], "attention where down_block_types have it")
    heads = c["num_attention_heads"] or c["attention_head_dim"]  # the older name, which never meant a width here
    classes = c["num_class_embeds"]
    return Denoiser(
        c["in_channels"],
        c["out_channels"],
        c["block_out_channels"],
        c["layers_per_block"],
        attention,
        heads,
        c["cross_attention_dim"],
        None if classes is None else classes - 1,  # the last of theirs is our null_class
        projection="linear" if c["use_linear_projection"] else "conv",
        groups=c["norm_num_groups"],
        eps=c["norm_eps"],
    )


def latent_size(config: dict, file: Path) -> list[int]:
    """Height and width of the latents of a unet/config.json, 64 where it does not say."""
    size = config.get("sample_size")
    if not fits(size, None) and not (fits(size, [64]) and len(size) == 2):
        refuse(file, "sample_size", size, "one or two whole numbers from 1")
    return size if isinstance(size, list) else [size or 64] * 2


def vae(config: dict, file: Path) -> AutoencoderKL:
    """The autoencoder of a vae/config.json."""
    c = understood(config, file, VAE, _VAE_DEFAULTS, _VAE_SILENT)
    levels = len(c["block_out_channels"])
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if list(c[key]) != [kind] * levels:
            refuse(file, key, c[key], f"{kind} {levels} times")
    if c["out_channels"] != c["in_channels"]:
        refuse(file, "out_channels", c["out_channels"], "as many as in_channels")
    return AutoencoderKL(
        c["in_channels"],
        c["latent_channels"],
        c["block_out_channels"],
        c["layers_per_block"],
        middle_attention=c["mid_block_add_attention"],
        groups=c["norm_num_groups"],
        scale_factor=c["scaling_factor"],
    )


def text_encoder(config: dict, file: Path) -> TextEncoder:
    """The text tower of a text_encoder/config.json."""
    c = understood(config, file, _TEXT_FIXED, _TEXT_DEFAULTS, _TEXT_SILENT, strict=False)
    if c["hidden_act"] not in ("quick_gelu", "gelu"):
        refuse(file, "hidden_act", c["hidden_act"], "'quick_gelu' or 'gelu'")
    end = c["eos_token_id"]
    return TextEncoder(
        c["vocab_size"],
        c["hidden_size"],
        c["num_hidden_layers"],
        c["num_attention_heads"],
        c["max_position_embeddings"],
        activation=c["hidden_act"],
        hidden_dim=c["intermediate_size"],
        end=None if end == 2 else end,  # 2 is a mistake in old files, where the last token was meant
        eps=c["layer_norm_eps"],
    )
