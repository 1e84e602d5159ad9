"""Real images without a download at run time; `nuclei`, `openmoji`, `scenes` return a `datasets.Dataset`, and so do
`images` and `pairs`, which read pictures of your own.

`minildm.data.scenes` is the function. What else its module holds is imported from `minildm.data` or from the file
that defines it: `from minildm.data.prompts import heldout`.
"""

from .captions import RELATIONS, TASKS, Prompt, caption, parse
from .folders import images
from .newcomer import Newcomers, newcomers
from .nuclei import nuclei, nuclei_strips
from .openmoji import openmoji
from .pairs import pairs
from .prompts import heldout, prompts
from .scenes import Scenes, scenes
from .scenes import arrays as scene_arrays
from .vocabulary import COLOURS, LANGUAGES, SHAPES, VOCABULARY

__all__ = [
    "COLOURS",
    "LANGUAGES",
    "RELATIONS",
    "SHAPES",
    "TASKS",
    "VOCABULARY",
    "Newcomers",
    "Prompt",
    "Scenes",
    "caption",
    "heldout",
    "images",
    "newcomers",
    "nuclei",
    "nuclei_strips",
    "openmoji",
    "pairs",
    "parse",
    "prompts",
    "scene_arrays",
    "scenes",
]
