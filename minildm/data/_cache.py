"""Where rendered data is kept on disk, and where installed packages keep theirs."""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from minildm import storage
from minildm.optional import require

if TYPE_CHECKING:
    import datasets

ENVIRONMENT_VARIABLE = "MINILDM_CACHE"
_CONTENTS = "contents.json"  # in a finished folder: its files and their sizes


def package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it (importing stardist costs seconds)."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return Path(require(package).__file__).parent  # which says how to install it
    return Path(found.origin).parent


def cache_folder() -> Path:
    """The folder of rendered data: $MINILDM_CACHE, else the user's own cache folder."""
    if chosen := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(chosen).expanduser()
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "minildm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minildm"


def cached(kind: str, key: dict, build: Callable[[Path], None]) -> Path:
    """The folder `kind-<hash of key>` in the cache; unless it is there and whole, `build(folder)` fills it first.

    key: what the content depends on, of types that JSON knows.
    It is whole when each file that was built is there, in its size. A killed process leaves no half-written data
    behind, and two processes may build the same thing at once. Raises OSError if nothing can be written.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{kind}-{name}"
    if _whole(folder):
        return folder
    if folder.is_dir() and not (folder / _CONTENTS).is_file():
        shutil.rmtree(folder)  # the rest of one of ours, which storage would take for somebody else's
    try:
        with ExitStack() as stack:
            try:
                unfinished = stack.enter_context(storage.folder(folder, index=_CONTENTS))
            except OSError as error:
                raise OSError(
                    f"cannot write to the cache folder {folder.parent} ({error.strerror}); "
                    f"set the environment variable {ENVIRONMENT_VARIABLE} to a folder that you may write to"
                ) from error
            build(unfinished)
            (unfinished / _CONTENTS).write_text(json.dumps(_sizes(unfinished)), encoding="utf-8")
    except OSError:
        if not _whole(folder):  # if it is, another process was faster
            raise
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != _CONTENTS)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _whole(folder: Path) -> bool:
    try:
        return json.loads((folder / _CONTENTS).read_text(encoding="utf-8")).items() <= _sizes(folder).items()
    except (OSError, ValueError, AttributeError, TypeError):  # no such file, or one that was damaged
        return False


def write_rows(path: Path, features: "datasets.Features", pieces: Iterable[list[dict]]) -> None:
    """Write lists of rows, one list at a time so that memory stays small, as an Arrow file for `Dataset.from_file`."""
    pyarrow = require("pyarrow")
    schema = features.arrow_schema
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        for rows in pieces:
            stream.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def png(picture: Image.Image) -> dict:
    """A picture as a row of a `datasets.Image` column."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=3)
    return {"bytes": file.getvalue(), "path": None}
