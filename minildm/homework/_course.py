"""The instructor's notebooks, the students' made from them, and a course folder of nbgrader around both."""

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from minildm import __version__, storage
from minildm.optional import require

PACKAGE = Path(__file__).parents[1]
CONFIG = "nbgrader_config.py"


def assignments(source: Path | None = None) -> list[Path]:
    """The instructor's notebooks in their order.

    source: the folder that they lie in, by default `notebooks/homework` of the checkout that this package is part of.
    Raises FileNotFoundError where there are none: an installed package comes without them, since it is the students'.
    """
    folder = PACKAGE.parent / "notebooks" / "homework" if source is None else source
    found = sorted(folder.glob("[0-9]*_*.ipynb"))
    if not found:
        raise FileNotFoundError(
            f"no instructor's notebooks in {folder}: they come with a checkout of the course, not with the installed "
            "package; run this there, or name their folder with --source"
        )
    return found


def wheel() -> str:
    """The name of the file that students install: what `pip wheel . --no-deps` makes of the checkout."""
    return f"minildm-{__version__}-py3-none-any.whl"


def release(out: Path, source: Path | None = None, only: Sequence[str] = ()) -> list[Path]:
    """Write the students' notebooks, without solutions, hidden tests and outputs, into a folder; returns their paths.

    out: the folder, made if it is not there; a notebook of the same name is replaced, nothing else is touched.
    source: as `assignments` takes it.  only: the first parts of the names of those wanted, such as "1" or "3_samplers".
    Made by nbgrader's own converters.  Raises ValueError for a name that fits none, ImportError without nbgrader.
    """
    chosen = _chosen(assignments(source), only)
    with tempfile.TemporaryDirectory(prefix="minildm-homework-") as folder:
        root = Path(folder).resolve()
        made = _generate(root, chosen)
        written = [storage.write_bytes(out / path.name, path.read_bytes()) for path in made]
    storage.write_text(out / "README.md", _page("students.md", written))
    return written


def course(out: Path, source: Path | None = None, only: Sequence[str] = ()) -> list[Path]:
    """Write a course folder in which nbgrader's commands work; returns the students' notebooks in it.

    out: a folder that is not there yet, or is such a course: then the assignments in it are made anew, and what was
        submitted and graded stays.  It gets nbgrader_config.py, source/, release/, submitted/ and gradebook.db.
    source, only, errors: as of `release`; besides, ValueError for a folder that holds something else.
    """
    chosen = _chosen(assignments(source), only)
    if out.exists() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise ValueError(f"expected a new folder or a course of nbgrader, and {out} is neither: name another")
    out.mkdir(parents=True, exist_ok=True)
    made = _generate(out.resolve(), chosen)
    (out / "submitted").mkdir(exist_ok=True)
    storage.write_text(out / "README.md", _page("instructors.md", made))
    return made


def _chosen(found, only):
    for name in only:
        if not any(_fits(path, name) for path in found):
            raise ValueError(f"no assignment is called {name}: there are {', '.join(path.stem for path in found)}")
    return [path for path in found if not only or any(_fits(path, name) for name in only)]


def _fits(path, name):
    return path.stem == name or path.stem.startswith(f"{name}_")


def _generate(root: Path, notebooks: list[Path]) -> list[Path]:
    """Put notebooks into a course folder and have nbgrader make the students'; returns those."""
    api = require("nbgrader.apps", extra="homework").NbGraderAPI
    config = root / CONFIG
    if not config.is_file():  # an instructor may have changed it
        storage.write_text(config, _page(CONFIG))
    settings = require("traitlets.config.loader").PyFileConfigLoader(CONFIG, path=str(root)).load_config()
    settings.CourseDirectory.root = str(root)
    made = []
    with _surroundings():
        for path in notebooks:
            place = root / "source" / path.stem / path.name
            storage.write_bytes(place, path.read_bytes())
            said = api(config=settings).generate_assignment(path.stem, force=True, create=True)
            target = root / "release" / path.stem / path.name
            if not said["success"] or not target.is_file():
                raise ValueError(f"nbgrader could not release {path.stem}: {said.get('log') or said.get('error')}")
            made.append(target)
    return made


def _page(name: str, notebooks: Sequence[Path] = ()) -> str:
    """A page that lies in this folder, with a line for each notebook and the name of the wheel."""
    text = resources.files(__package__).joinpath("pages", name).read_text(encoding="utf-8")
    lines = "\n".join(f"- `{path.name}`: {title(path)}" for path in notebooks)
    return text.replace("{wheel}", wheel()).replace("{notebooks}", lines)


def title(notebook: Path) -> str:
    """What stands in the first heading of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = "".join(cells[0]["source"]).splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), notebook.stem)


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """What nbgrader needs around it: it starts `alembic` by its name, and logs each file that it writes."""
    logging.disable(logging.WARNING)
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
    try:
        yield
    finally:
        os.environ["PATH"] = path
        logging.disable(logging.NOTSET)
