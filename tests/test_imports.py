"""The house stands as it was designed: who imports whom, what the core install needs, and what import brings along."""

import ast
import importlib.metadata
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import minildm

PACKAGE = Path(minildm.__file__).parent

# A module imports only modules before it.
ORDER = [
    "optional",
    "tensors",
    "images",
    "storage",
    "data",
    "layers",
    "attention",
    "unet",
    "segmentation",
    "schedule",
    "denoiser",
    "losses",
    "samplers",
    "guidance",
    "autoencoder",
    "text",
    "reference_names",
    "weights",
    "training",
    "adapt",
    "metrics",
    "judge",
    "likeness",
    "pipeline",
    "geneval",
    "dit",
    "stable_diffusion",
    "checks",
    "homework",
    "viz",
    "recipes",
    "cli",
    "train",
    "__main__",
]
CORE = {"torch", "einops", "safetensors", "tqdm", "numpy", "PIL", "tokenizers"}  # what `pip install .` alone brings
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> tuple[str, ...]:
    """minildm/data/nuclei.py -> ("minildm", "data", "nuclei")."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(file: Path, inside_functions: bool = True) -> set[str]:
    """The dotted names that a file imports; `from a import b` gives a.b, since b may be a module.

    Without `inside_functions`, what importing the file imports, and so not what stands there for type checkers alone.
    """
    package = name_of(file) if file.stem == "__init__" else name_of(file)[:-1]
    found, todo = set(), [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
        elif not inside_functions and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return found


def required(file: Path) -> set[str]:
    """The packages that a file hands to `require`, which imports them where they are used."""
    calls = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return {
        call.args[0].value.split(".")[0]
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "require" and isinstance(call.args[0], ast.Constant)
    }


def rooms(file: Path) -> set[str]:
    """The modules of minildm that a file imports: their names on the first level."""
    own = [name.split(".") for name in imported(file) if name.split(".")[0] == "minildm"]
    return {parts[1] for parts in own if len(parts) > 1} & {path.stem for path in PACKAGE.iterdir()}


def test_every_module_has_its_place():
    there = {name_of(file)[1] for file in FILES if len(name_of(file)) > 1}
    assert there <= set(ORDER), f"not in the order of the house: {there - set(ORDER)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: ".".join(name_of(file)))
def test_imports_only_what_stands_before(file):
    if len(name_of(file)) == 1:  # the package's own __init__ opens every room but the drawing one
        assert not rooms(file) & {"viz", "recipes", "cli"}
        return
    here = name_of(file)[1]
    later = {room for room in rooms(file) - {here} if ORDER.index(room) > ORDER.index(here)}
    assert not later, f"{here} imports {later}, which the house puts after it"
    if here not in ("viz", "cli"):
        assert "viz" not in rooms(file), "nothing but the notebooks and the command line draws"


@pytest.mark.parametrize("file", FILES, ids=lambda file: ".".join(name_of(file)))
def test_the_core_install_is_enough_to_import(file):
    packages = {name.split(".")[0] for name in imported(file, inside_functions=False)} - {"minildm"}
    assert packages <= CORE | sys.stdlib_module_names


@pytest.mark.parametrize("file", FILES, ids=lambda file: ".".join(name_of(file)))
def test_nothing_unpickles(file):
    assert not imported(file) & {"pickle", "torch.load", "dill", "joblib"}
    loads = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)]
    assert not [node for node in loads if node.attr == "load" and ast.unparse(node.value) in ("torch", "pickle")]


def test_what_is_required_is_declared():
    project = PACKAGE.parent / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    course = [*extras["course"], *extras["homework"], "nbconvert>", "traitlets>"]  # these two come with nbgrader
    belongs_to = importlib.metadata.packages_distributions()
    used = set().union(*(required(file) for file in FILES)) - CORE
    assert used, "no file requires anything, so this test looks in the wrong place"
    assert {belongs_to[package][0].lower().replace("_", "-") for package in used} <= {r.split(">")[0] for r in course}


def test_import_brings_little_and_gives_all():
    program = f"""
        import sys, torch
        before = set(sys.modules)
        import minildm
        brought = {{name.split(".")[0] for name in set(sys.modules) - before}} - {set(sys.stdlib_module_names)}
        print(*sorted(brought))
        print(minildm.weights.load.__name__, minildm.data.nuclei.__name__, minildm.UNet.__name__)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    brought, names = said.stdout.splitlines()
    assert set(brought.split()) <= CORE | {"minildm"}
    assert names == "load nuclei UNet"


def test_the_core_install_is_enough_to_paint():
    """What README shows in Python: a pipeline that ships, with all packages of the extras kept out."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {line.split(">")[0].split("[")[0] for lines in project["optional-dependencies"].values() for line in lines}
    places = importlib.metadata.packages_distributions().items()
    hidden = {name for name, owners in places if {each.lower().replace("_", "-") for each in owners} <= extras}
    assert {"typer", "matplotlib", "transformers"} <= hidden and not hidden & (CORE | {"minildm"} - {"minildm"})
    program = f"""
        import sys
        sys.modules |= dict.fromkeys({sorted(hidden - {"minildm"})})
        from minildm import LatentDiffusion
        print(LatentDiffusion.from_pretrained("pocket")("two frogs", seed=7, steps=1).size)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert said.stdout == "(64, 64)\n", said.stderr


def test_unknown_names_are_refused():
    assert {"data", "weights", "UNet", "__version__"} <= set(dir(minildm))
    with pytest.raises(AttributeError, match="no attribute 'unett'"):
        _ = minildm.unett
