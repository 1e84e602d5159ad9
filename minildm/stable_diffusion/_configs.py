"""The configuration files of diffusers and transformers as our networks; each key is understood or refused."""

from collections.abc import Mapping
from pathlib import Path

from minildm.autoencoder import AutoencoderKL
from minildm.denoiser import Denoiser
from minildm.schedule import NoiseSchedule
from minildm.text import TextEncoder

# What our networks are: any other value asks for another architecture.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
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
_UNET_SILENT = {"sample_size", "upcast_attention", "addition_embed_type_num_heads"}  # do not change the network
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
_SCHEDULE_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
}
_KINDS = {bool: "true or false", int: "one whole number from 1", float: "a number above 0", str: "a name"}
_LISTS = {"attention_head_dim": [8], "num_attention_heads": [8], "trained_betas": [1e-4]}  # may be such lists, too
PREDICTS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
_SPACING = {  # where a scheduler's file does not say
    "DPMSolverMultistepScheduler": "linspace",
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "LMSDiscreteScheduler": "linspace",
}


def refuse(file: Path, key: str, value, expected: str):
    """Raise the error for a key that asks for what is not supported."""
    raise ValueError(f"{file}: {key} is {value!r}, which minildm does not support: expected {expected}")


def unet(config: dict, file: Path) -> Denoiser:
    """The U-Net of a unet/config.json."""
    c = _understood(config, file, UNET, _UNET_DEFAULTS, _UNET_SILENT)
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
    if not _fits(size, None) and not (_fits(size, [64]) and len(size) == 2):
        refuse(file, "sample_size", size, "one or two whole numbers from 1")
    return size if isinstance(size, list) else [size or 64] * 2


def vae(config: dict, file: Path) -> AutoencoderKL:
    """The autoencoder of a vae/config.json."""
    c = _understood(config, file, VAE, _VAE_DEFAULTS, _VAE_SILENT)
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
    kind = config.get("model_type", "clip_text_model")
    if kind != "clip_text_model":
        refuse(file, "model_type", kind, "'clip_text_model'")
    if config.get("use_attention_mask"):
        refuse(file, "use_attention_mask", True, "false, as in Stable Diffusion")
    c = _filled(config, file, _TEXT_DEFAULTS)
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


def schedule(config: dict, file: Path) -> tuple[NoiseSchedule, dict]:
    """The noise schedule of a scheduler_config.json, and what it says on prediction, spacing and the end of DDIM.

    Which sampler it names does not matter here: a call chooses it.
    """
    spacing = _SPACING.get(str(config.get("_class_name")), "leading")
    c = _filled(config, file, _SCHEDULE_DEFAULTS | {"timestep_spacing": spacing})
    if c["thresholding"]:
        refuse(file, "thresholding", True, "false")
    n, kind = c["num_train_timesteps"], c["beta_schedule"]
    if c["trained_betas"] is not None:
        found = NoiseSchedule(c["trained_betas"])
    elif kind == "squaredcos_cap_v2":
        found = NoiseSchedule.cosine(n)
    elif kind in ("linear", "scaled_linear"):
        found = getattr(NoiseSchedule, kind)(n, c["beta_start"], c["beta_end"])
    else:
        refuse(file, "beta_schedule", kind, "'linear', 'scaled_linear' or 'squaredcos_cap_v2'")
    if c["rescale_betas_zero_snr"]:
        found = found.zero_terminal_snr()
    for key, names in (("prediction_type", PREDICTS), ("timestep_spacing", ("leading", "linspace", "trailing"))):
        if c[key] not in names:
            refuse(file, key, c[key], ", ".join(map(repr, names)))
    spacing, offset, ends_clean = (c[key] for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one"))
    return found, dict(predicts=PREDICTS[c["prediction_type"]], spacing=spacing, offset=offset, ends_clean=ends_clean)


def _understood(config: Mapping, file: Path, fixed: dict, defaults: dict, silent: set) -> dict:
    """A configuration with its defaults, once every key that could mean another network is known to be harmless."""
    known = fixed.keys() | defaults.keys() | silent
    for key, value in config.items():
        if key in fixed and value != fixed[key]:
            refuse(file, key, value, repr(fixed[key]))
        if key not in known and not key.startswith("_") and value not in (None, False):
            refuse(file, key, value, "null or false")
    return _filled(config, file, defaults)


def _filled(config: Mapping, file: Path, defaults: dict) -> dict:
    """What a file says under the keys of the defaults, each of its default's kind, and the defaults for the rest."""
    found = dict(defaults)
    for key in defaults.keys() & config.keys():
        default, value = defaults[key], config[key]
        if not _fits(value, default) and not (key in _LISTS and _fits(value, _LISTS[key])):
            kind = type(1 if default is None else default[0] if isinstance(default, list) else default)
            refuse(file, key, value, f"a list, each {_KINDS[kind]}" if isinstance(default, list) else _KINDS[kind])
        found[key] = value
    return found


def _fits(value, default) -> bool:
    """Whether a value is of its default's kind: sizes are positive, and what is None by default is one, or None."""
    if isinstance(default, list):
        return isinstance(value, list) and len(value) > 0 and all(_fits(one, default[0]) for one in value)
    if default is None:
        return value is None or _fits(value, 1)
    if isinstance(default, bool | str):
        return type(value) is type(default)
    if isinstance(value, bool) or not isinstance(value, int | type(default)):
        return False
    return value > 0 or value == default
