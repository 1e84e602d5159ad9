"""Stable Diffusion at full size: the arguments that make its networks out of the classes of the course."""

from typing import NamedTuple


class Configuration(NamedTuple):
    """The keyword arguments of each part: Denoiser(**c.unet), AutoencoderKL(**c.vae), TextEncoder(**c.text_encoder).

    pipeline: those of LatentDiffusion besides its parts; the schedule is NoiseSchedule.scaled_linear() in all of them.
    """

    unet: dict
    vae: dict
    text_encoder: dict
    pipeline: dict


_UNET = dict(
    in_channels=4,
    out_channels=4,
    channels=(320, 640, 1280, 1280),
    blocks_per_level=2,
    attention=(True, True, True, False),
    groups=32,
)
_UNET_1 = _UNET | dict(heads=8, context_dim=768)
_UNET_2 = _UNET | dict(heads=(5, 10, 20, 20), context_dim=1024, projection="linear")
_VAE = dict(
    in_channels=3,
    latent_channels=4,
    channels=(128, 256, 512, 512),
    blocks_per_level=2,
    groups=32,
    scale_factor=0.18215,
)
_CLIP_L = dict(vocab_size=49408, dim=768, depth=12, heads=12, activation="quick_gelu")
_OPEN_CLIP_H = dict(vocab_size=49408, dim=1024, depth=23, heads=16, activation="gelu")  # the last of 24 is not used
_PIPELINE = dict(
    predicts="eps", size=512, guidance=7.5, spacing="leading", offset=1, ends_clean=False, sees_padding=True
)

# 1.1 to 1.5, and the inpainting models that came with 1.5 and 2; SD_2 is 2.0 and 2.1 for 768×768.
SD_1 = Configuration(_UNET_1, _VAE, _CLIP_L, _PIPELINE)
SD_1_INPAINTING = Configuration(_UNET_1 | dict(in_channels=9), _VAE, _CLIP_L, _PIPELINE)
SD_2 = Configuration(_UNET_2, _VAE, _OPEN_CLIP_H, _PIPELINE | dict(predicts="v", size=768))
SD_2_INPAINTING = Configuration(_UNET_2 | dict(in_channels=9), _VAE, _OPEN_CLIP_H, _PIPELINE)
