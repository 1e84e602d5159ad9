"""`minildm lab`: where the lessons lie, and how they come into a folder of the learner's."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import minildm
from minildm import storage
from minildm.optional import require

if TYPE_CHECKING:
    import typer

PACKAGE = Path(__file__).parents[1]
FOLDER = "minildm-lessons"  # made in the current folder, where no other is named
RECORD = ".minildm-lessons.json"  # lies in such a folder: the checksum of each file as it came


def add(app: "typer.Typer") -> None:
    """Add the command."""
    typer = require("typer")

    @app.command("lab", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def command(
        context: typer.Context,
        folder: Annotated[
            str | None, typer.Argument(metavar="FOLDER", help="Where the lessons are to lie; before all options.")
        ] = None,
        copy_only: Annotated[
            bool, typer.Option("--copy-only", help="Bring the lessons, and do not open them.")
        ] = False,
    ):
        """Open JupyterLab at the first lesson; further options go to JupyterLab, for example --no-browser.

        In a checkout of the course its own lessons are opened. Elsewhere, or with
        FOLDER, they are copied there first (into minildm-lessons where none is
        named), and never over a lesson that you have changed.
        """
        raise typer.Exit(lab([folder] * (folder is not None) + context.args, copy_only))


def lab(arguments: Sequence[str] = (), copy_only: bool = False) -> int:
    """Open JupyterLab at the first lesson and wait until it is closed; returns its exit status.

    arguments: a folder, if one is named, and what goes to JupyterLab as it is.
    copy_only: put the lessons into the folder, and leave the rest to a Jupyter that runs already.

    A checkout of the course is opened as it stands. Elsewhere the lessons that come with the package are copied into
    the folder first, and it is said which. Raises ValueError or OSError where they cannot be.
    """
    if not copy_only:
        require("jupyterlab")
    named = list(arguments[:1]) if arguments and not arguments[0].startswith("-") else []
    notebooks = _place(Path(named[0]) if named else None)
    first = lessons(notebooks)[0]
    if copy_only:
        print(f"the first lesson: {first}")
        return 0
    root = notebooks.parent if notebooks.name == "notebooks" else notebooks
    here = ["--ServerApp.root_dir", str(root.resolve())]
    there = ["--LabApp.default_url", f"/lab/tree/{first.relative_to(root).as_posix()}"]
    return subprocess.call([sys.executable, "-m", "jupyterlab", *here, *there, *arguments[len(named) :]])


def lessons(folder: Path) -> list[Path]:
    """The notebooks of the lessons in a folder, in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def shipped() -> Path:
    """The folder with the lessons of this package: of the checkout that it is part of, or of its installation.

    Raises FileNotFoundError where it was installed without them.
    """
    for folder in (PACKAGE.parent / "notebooks", PACKAGE / "_lessons"):
        if lessons(folder):
            return folder
    raise FileNotFoundError(
        "this minildm was installed without its lessons: install it again, or open a checkout of it"
    )


def lay(source: Path, folder: Path) -> list[str]:
    """Copy the files of `source` into `folder`, never over what the learner has changed; returns what to tell of it.

    A file that is not there is copied. One that lies there as it came from an earlier version is replaced. Beside one
    that was changed, a newer version is put under a name of its own, once. Everything else stays as it is.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder for the lessons, and {folder} is a file: name another")
    record = _record(folder / RECORD)
    new, renewed, told = [], [], []
    for file in sorted(source.rglob("*")):
        name = file.relative_to(source)
        if (
            not file.is_file()
            or any(part.startswith((".", "__")) for part in name.parts)
            or name.parts[0] == "homework"
        ):
            continue  # homework is the instructor's: `minildm homework release` makes the learner's
        content, target = file.read_bytes(), folder / name
        came, fresh = record.get(name.as_posix()), _checksum(content)
        there = _checksum(target.read_bytes()) if target.is_file() else None
        record[name.as_posix()] = fresh
        if there is None:
            new.append(name.as_posix())
        elif there == fresh or came == fresh:  # up to date, or changed by the learner since
            continue
        elif there == came:
            renewed.append(name.as_posix())
        else:
            yours, target = target, _beside(target)
            told.append(
                f"{yours} is yours and stays; that of minildm {minildm.__version__} is beside it: {target.name}"
            )
        storage.write_bytes(target, content)
    if new:
        told.insert(0, f"new in {folder}: {_listed(new)}")
    if renewed:
        told.append(f"not changed by you, and now those of minildm {minildm.__version__}: {_listed(renewed)}")
    storage.write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return told


def _place(folder: Path | None) -> Path:
    """The folder of the lessons to open: of a checkout, as it stands, or one that they are brought to just now."""
    for checkout in [folder] if folder else [PACKAGE.parent, Path.cwd()]:
        if lessons(checkout / "notebooks"):
            return checkout / "notebooks"
    if folder is None:
        folder = Path() if Path(RECORD).is_file() else Path(FOLDER)
    source = shipped()
    if folder.resolve() != source.resolve():
        print(*lay(source, folder) or [f"nothing is new in {folder}"], sep="\n", flush=True)  # before JupyterLab speaks
    return folder


def _beside(path: Path) -> Path:
    """A free name for the new version: 01_segment.ipynb -> 01_segment_minildm-0.2.0.ipynb, and then -2 and so on."""
    for number in itertools.count(1):
        more = f"-{number}" if number > 1 else ""
        free = path.with_name(f"{path.stem}_minildm-{minildm.__version__}{more}{path.suffix}")
        if not free.exists():
            return free


def _record(path: Path) -> dict[str, str]:
    """What was noted when files came; nothing, where there is no note or it is not one of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
