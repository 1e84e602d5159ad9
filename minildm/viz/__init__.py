"""Pictures for the lessons. A function that draws returns the figure or axes it drew on."""

from ._adapting import kept_and_learned, low_rank
from ._attention import attention_by_hand
from ._blocks import CONV_BLOCK, RESIDUAL_BLOCK, TIME_BLOCK, TRANSFORMER_BLOCK, Block, blocks
from ._denoising import answers, clocks, origins
from ._factors import times_as_much
from ._figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    curve,
    matches,
    outline,
    outlines,
    spread,
    style,
    u_diagram,
)
from ._flow import consists_of, over_calls, plane_paths
from ._judged import judged
from ._latents import bands, clouds
from ._lesson_01 import found_in, targets, u_2015
from ._lesson_12 import annotated, clinics, differences, places
from ._map import course_map
from ._noise import noise_paths, picture_and_values, schedule_sheet
from ._pictures import array, latent_colours, pixels
from ._prompt import prompt_field
from ._sheets import filmstrip, gallery, show, strips, word_maps
from ._steering import guidance_line, trade_off
from ._time import Film, animation, slider
from ._trajectories import trajectories

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
    "latent_colours",
    "judged",
    "gallery",
    "strips",
    "filmstrip",
    "word_maps",
    "plane_paths",
    "over_calls",
    "consists_of",
    "Film",
    "animation",
    "slider",
    "prompt_field",
    "course_map",
    "u_2015",
    "targets",
    "found_in",
    "Block",
    "blocks",
    "attention_by_hand",
    "CONV_BLOCK",
    "RESIDUAL_BLOCK",
    "TIME_BLOCK",
    "TRANSFORMER_BLOCK",
    "noise_paths",
    "schedule_sheet",
    "picture_and_values",
    "origins",
    "answers",
    "clocks",
    "trajectories",
    "clouds",
    "bands",
    "guidance_line",
    "trade_off",
    "times_as_much",
    "low_rank",
    "kept_and_learned",
    "annotated",
    "places",
    "clinics",
    "differences",
]
