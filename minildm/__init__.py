"""One U-Net, four jobs: it segments cells, removes noise, paints from words, and judges the paintings.

The modules are attributes of the package, imported when first used: `minildm.data.scenes(...)`,
`minildm.weights.load("nuclei")`.
"""

import importlib
import pkgutil

__version__ = "0.2.0"

from .autoencoder import AutoencoderKL
from .denoiser import Denoiser
from .pipeline import LatentDiffusion
from .schedule import NoiseSchedule
from .text import TextEncoder
from .unet import UNet

# In the order of the lessons.
__all__ = ["UNet", "NoiseSchedule", "Denoiser", "AutoencoderKL", "TextEncoder", "LatentDiffusion"]

_MODULES = {module.name for module in pkgutil.iter_modules(__path__)} - {"__main__"}


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_MODULES})
