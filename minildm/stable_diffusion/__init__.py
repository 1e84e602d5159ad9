"""Stable Diffusion: what the house has built so far, at full size, from and to the folders of `diffusers`."""

from minildm.stable_diffusion._names import reference_name
from minildm.stable_diffusion.folders import load, save
from minildm.stable_diffusion.full_size import SD_1, SD_1_INPAINTING, SD_2, SD_2_INPAINTING, Configuration
from minildm.stable_diffusion.single_file import load_single_file

__all__ = [
    "load",
    "save",
    "load_single_file",
    "reference_name",
    "Configuration",
    "SD_1",
    "SD_1_INPAINTING",
    "SD_2",
    "SD_2_INPAINTING",
]
