"""Where rendered data is kept on disk, and where installed packages keep theirs."""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from minildm.optional import require

ENVIRONMENT_VARIABLE = "MINILDM_CACHE"


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
    """The folder `kind-<hash of key>` in the cache; where it is missing, `build(folder)` fills it first.

    It is filled under another name and then renamed, so that a killed process leaves no half-written data
    behind and two processes may build the same thing at once. Raises OSError if nothing can be written.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{kind}-{name}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=folder.parent))
    except OSError as error:
        raise OSError(
            f"cannot write to the cache folder {folder.parent} ({error.strerror}); "
            f"set the environment variable {ENVIRONMENT_VARIABLE} to a folder that you may write to"
        ) from error
    try:
        build(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def write_rows(path: Path, features, pieces: Iterable[list[dict]]) -> None:
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
