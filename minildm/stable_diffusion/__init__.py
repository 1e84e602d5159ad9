"""Stable Diffusion: what the house has built so far, at full size, from and to the folders of `diffusers`."""

from minildm.stable_diffusion._names import reference_name
from minildm.stable_diffusion.folders import load, save

__all__ = ["load", "save", "reference_name"]
