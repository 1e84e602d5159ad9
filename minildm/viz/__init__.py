"""Pictures for the lessons. Every function draws on matplotlib axes and returns the figure or axes it drew on."""

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
]
