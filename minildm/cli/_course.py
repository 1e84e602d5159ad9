"""The recipes: which there are, and what `minildm train` runs."""

import ast
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1]


def recipes() -> list[str]:
    """The names that `minildm train` takes."""
    return sorted([*described(), *described("studies")])


def described(kind: str = "") -> dict[str, str]:
    """The recipes and what each trains, in a sentence: files of minildm/recipes that define `run`. Imports nothing.

    kind: "" for those that train something to keep, "studies" for those that measure.
    """
    found = {}
    for file in sorted((PACKAGE / "recipes" / kind).glob("[a-z]*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[file.stem.replace("_", "-")] = ast.get_docstring(tree).split("\n\n")[0].replace("\n", " ")
    return found


def recipe(name: str) -> ModuleType:
    """The module of a recipe; ValueError with the names that exist for any other."""
    if name not in recipes():
        raise ValueError(f"there is no recipe {name!r}; there are: {listed(recipes())}")
    kind = "studies." if name in described("studies") else ""
    return importlib.import_module(f"minildm.recipes.{kind}{name.replace('-', '_')}")


def listed(names: Sequence[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "none yet"
