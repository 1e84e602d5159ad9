"""The configuration files of diffusers and transformers as our networks; each key is understood or refused."""

from pathlib import Path

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.stable_diffusion._schedulers import schedule
from minildm.stable_diffusion._understood import fits, refuse, understood
from minildm.text import TextEncoder

__all__ = ["UNET", "UNET_2D", "VAE", "sample_size", "schedule", "text_encoder", "unet", "vae"]

# What our networks are: any other value asks for another architecture.
_UNETS = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
UNET = _UNETS | {  # with words
    "_class_name": "UNet2DConditionModel",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "transformer_layers_per_block": 1,
    "resnet_out_scale_factor": 1.0,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
UNET_2D = _UNETS | {  # without
    "_class_name": "UNet2DModel",
    "mid_block_type": "UNetMidBlock2D",
    "downsample_type": "conv",
    "upsample_type": "conv",
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
_UNET_2D_DEFAULTS = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "add_attention": True,
    "num_class_embeds": None,
    "attn_norm_num_groups": None,
    "time_embedding_dim": None,
}
_UNET_SILENT = {
    "sample_size",
    "upcast_attention",
    "addition_embed_type_num_heads",
    "dropout",
}  # the network is as it is
_UNET_2D_SILENT = {"sample_size", "dropout", "num_train_timesteps"}
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
    """The U-Net of a unet/config.json, with words (UNet2DConditionModel) or without (UNet2DModel)."""
    if config.get("_class_name") == UNET_2D["_class_name"]:
        return _unet_2d(config, file)
    c = understood(config, file, UNET, _UNET_DEFAULTS, _UNET_SILENT)
    heads = c["num_attention_heads"] or c["attention_head_dim"]  # the older name, which never meant a width here
    projection = "linear" if c["use_linear_projection"] else "conv"
    attention = _attention(c, file, "CrossAttn")
    return Denoiser(
        **_shared(c, config),
        attention=attention,
        heads=heads,
        context_dim=c["cross_attention_dim"],
        projection=projection,
    )


def _unet_2d(config: dict, file: Path) -> Denoiser:
    one_head = config.get("attention_head_dim", 8) is None  # whatever the width
    config = {key: value for key, value in config.items() if not (one_head and key == "attention_head_dim")}
    c = understood(config, file, UNET_2D, _UNET_2D_DEFAULTS, _UNET_2D_SILENT)
    channels, attention = c["block_out_channels"], _attention(c, file, "Attn")
    width = None if one_head else c["attention_head_dim"]
    attends = [*attention[:-1], attention[-1] or c["add_attention"]]
    if width and any(channel % width for channel, here in zip(channels, attends, strict=True) if here):
        refuse(file, "attention_head_dim", width, f"a divisor of the widths that attend, of {channels}")
    if c["attn_norm_num_groups"] not in (None, c["norm_num_groups"]):
        refuse(file, "attn_norm_num_groups", c["attn_norm_num_groups"], f"null or {c['norm_num_groups']}")
    if c["time_embedding_dim"] not in (None, 4 * channels[0]):
        refuse(file, "time_embedding_dim", c["time_embedding_dim"], f"null or {4 * channels[0]}")
    heads = [channel // width if width and here else 1 for channel, here in zip(channels, attends, strict=True)]
    return Denoiser(**_shared(c, config), attention=attention, heads=heads, middle_attention=c["add_attention"])


def _shared(c: dict, config: dict) -> dict:
    """The arguments of a Denoiser that both of diffusers' U-Nets name alike."""
    classes = c["num_class_embeds"]
    return dict(
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        channels=c["block_out_channels"],
        blocks_per_level=c["layers_per_block"],
        num_classes=classes if classes is None or not config.get("_null_class") else classes - 1,
        groups=c["norm_num_groups"],
        eps=c["norm_eps"],
    )


def _attention(c: dict, file: Path, prefix: str) -> list[bool]:
    """Which levels attend."""
    levels = len(c["block_out_channels"])
    kinds = {f"{prefix}DownBlock2D": True, "DownBlock2D": False, f"{prefix}UpBlock2D": True, "UpBlock2D": False}
    for key in ("down_block_types", "up_block_types"):
        if len(c[key]) != levels or not set(c[key]) <= set(kinds):
            refuse(file, key, c[key], f"{levels} of {', '.join(kinds)}")
    attention = [kinds[kind] for kind in c["down_block_types"]]
    if attention != [kinds[kind] for kind in reversed(c["up_block_types"])]:
        refuse(file, "up_block_types", c["up_block_types"], "attention where down_block_types have it")
    return attention


def sample_size(config: dict, file: Path) -> list[int]:
    """Height and width of what the U-Net of a unet/config.json denoises, 64 where it does not say."""
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
