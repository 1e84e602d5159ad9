"""Pictures for the lessons. A function that draws returns the figure or axes it drew on."""

from ._figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    array,
    curve,
    matches,
    outline,
    outlines,
    show,
    spread,
    style,
    u_diagram,
)
from ._map import course_map
from ._prompt import prompt_field
from ._time import Film, animation, filmstrip, gallery, pixels, slider, word_maps

__all__ = [
    "BLUE",
    "ORANGE",
    "GREEN",
    "RED",
    "SKY",
    "PURPLE",
    "YELLOW",
    "style",
    "array",
    "show",
    "outlines",
    "outline",
    "matches",
    "u_diagram",
    "curve",
    "spread",
    "pixels",
    "gallery",
    "filmstrip",
    "word_maps",
    "Film",
    "animation",
    "slider",
    "prompt_field",
    "course_map",
]
