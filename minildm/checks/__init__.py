"""Checks of the exercises: each tries your function on random cases and, where it fails, hints at the likely mistake.

A hint is found by trying well-known wrong answers: if yours agrees with one of them, that is probably what happened.
One file for each lesson; all checks are attributes here: `checks.dice(your_function)`.
"""

from ._check import check
from .lesson_01 import border_weight, dice, valid_size
from .lesson_04 import ddpm_step, from_sigma, to_sigma, trailing

__all__ = ["check", "border_weight", "dice", "valid_size", "trailing", "ddpm_step", "to_sigma", "from_sigma"]
