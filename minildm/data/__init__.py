"""Real images without a download at run time; each function returns a `datasets.Dataset`."""

from .nuclei import nuclei, nuclei_strips

__all__ = ["nuclei", "nuclei_strips"]
