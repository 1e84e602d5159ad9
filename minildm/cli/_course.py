"""The lessons and the trainings: what `minildm lab` and `minildm train` do."""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from minildm.optional import require

PACKAGE = Path(__file__).parents[1]


def recipes() -> list[str]:
    """The names that `minildm train` takes: one for each file of minildm/recipes."""
    return sorted(file.stem.replace("_", "-") for file in (PACKAGE / "recipes").glob("[a-z]*.py"))


def recipe(name: str) -> ModuleType:
    """The module of a recipe; ValueError with the names that exist for any other."""
    if name not in recipes():
        raise ValueError(f"there is no recipe {name!r}; there are: {listed(recipes())}")
    return importlib.import_module(f"minildm.recipes.{name.replace('-', '_')}")


def lessons() -> list[Path]:
    """The notebooks of the lessons in their order: of the checkout that this package is part of, or that one is in.

    Raises FileNotFoundError outside a checkout: the lessons are not part of the installed package.
    """
    for root in (PACKAGE.parent, Path.cwd()):
        if found := sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            return found
    raise FileNotFoundError(
        "the lessons are not here: they come with the course's repository, not with the package; "
        "run this in a checkout of it, the folder that holds notebooks/"
    )


def lab(options: Sequence[str] = ()) -> int:
    """Open JupyterLab at the first lesson and wait until it is closed; `options` go to JupyterLab as they are."""
    require("jupyterlab")
    first = lessons()[0]
    here = ["--ServerApp.root_dir", str(first.parents[1])]
    there = ["--LabApp.default_url", f"/lab/tree/{first.parent.name}/{first.name}"]
    return subprocess.call([sys.executable, "-m", "jupyterlab", *here, *there, *options])


def listed(names: Sequence[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names) or "none yet"
