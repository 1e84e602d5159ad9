"""The trainings: what `minildm train` does."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1]


def recipes() -> list[str]:
    """The names that `minildm train` takes: one for each file of minildm/recipes."""
    return sorted(file.stem.replace("_", "-") for file in (PACKAGE / "recipes").glob("[a-z]*.py"))


def recipe(name: str) -> ModuleType:
    """The module of a recipe; ValueError with the names that exist for any other."""
    if name not in recipes():
        raise ValueError(f"there is no recipe {name!r}; there are: {listed(recipes())}")
    return importlib.import_module(f"minildm.recipes.{name.replace('-', '_')}")


def listed(names: Sequence[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "none yet"
