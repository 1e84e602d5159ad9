"""Real images without a download at run time; `nuclei`, `openmoji` and `scenes` return a `datasets.Dataset`.

`minildm.data.scenes` is the function. What else its module holds is imported from `minildm.data` or from the file
that defines it: `from minildm.data.prompts import heldout`.
"""

from .captions import RELATIONS, TASKS, Prompt, caption, parse
from .nuclei import nuclei, nuclei_strips
from .openmoji import openmoji
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
    "Prompt",
    "Scenes",
    "caption",
    "heldout",
    "nuclei",
    "nuclei_strips",
    "openmoji",
    "parse",
    "prompts",
    "scene_arrays",
    "scenes",
]
