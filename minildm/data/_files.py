"""The files of a folder, or of a zip archive of one: their names, which of them are pictures, and their content."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from PIL import Image

# What PIL knows by name but reads with another program, or not at all.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Pictures that PIL cannot read unless a plugin teaches it to; they are named, not passed over.
_FOREIGN = {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".svg"}


class Files:
    """All files in a folder or a zip archive, at any depth, by their names relative to it, "train/cat/1.png".

    Hidden files and folders, whose names begin with "." or "__", are left out. Links are followed. Of an archive that
    holds a single folder, the names are relative to that folder.
    Raises FileNotFoundError where there is nothing, ValueError for what is no folder and no zip archive.
    """

    def __init__(self, path: str | os.PathLike):
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"expected the path of a folder or a zip archive, got {type(path).__name__}")
        self.path = Path(path).expanduser()
        self._archive, self._prefix = None, ""
        if self.path.is_dir():
            names = _walk(self.path, set())
        elif zipfile.is_zipfile(self.path):
            self._archive = zipfile.ZipFile(self.path)
            names = [info.filename for info in self._archive.infolist() if not info.is_dir()]
            self._prefix = _common_folder([name for name in names if not _hidden(name)])
            names = [name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)]
        elif self.path.exists():
            raise ValueError(f"expected a folder or a zip archive of one, and {self.path} is another file")
        else:
            raise FileNotFoundError(f"there is no folder {self.path}")
        self.names = sorted(name for name in names if not _hidden(name))

    def open(self, name: str) -> BinaryIO:
        """One of the files, to be read."""
        if self._archive is None:
            return open(self.path / name, "rb")
        return self._archive.open(self._prefix + name)

    def pictures(self, also: Sequence[str] = ()) -> list[str]:
        """The names of the pictures among the files, by their endings; `also`: further endings, such as ".npy".

        Raises ValueError where there is none.
        """
        endings = picture_endings() | set(also)
        found = [name for name in self.names if ending(name) in endings | _FOREIGN]
        if not found:
            there = sorted({ending(name) or "no ending" for name in self.names})
            raise ValueError(
                f"there are no pictures in {self.path}, "
                + (f"only files with {', '.join(there[:8])}" if there else "which is empty")
                + "; expected .png, .jpg, .webp, .tif or another kind that PIL reads"
            )
        return found


@cache
def picture_endings() -> set[str]:
    """The endings of the files that PIL reads."""
    return {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in _NOT_READ}


def ending(name: str) -> str:
    """The ending of a file's name in small letters, ".jpg"."""
    return PurePosixPath(name).suffix.lower()


def reason(name: str, error: Exception) -> str:
    """Why a picture could not be read, in words."""
    if ending(name) not in picture_endings() | {".npy"}:
        return f"PIL knows no {ending(name)} files: convert them to .png or .jpg"
    return f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def some(names: Sequence[str], most: int = 10) -> str:
    """Names for a message: the first of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _walk(folder: Path, seen: set[str], above: str = "") -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link to a folder that it lies in
        return
    for entry in os.scandir(folder):
        if _hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, seen | {real}, f"{above}{entry.name}/")
        else:
            yield above + entry.name


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)


def _common_folder(names: list[str]) -> str:
    """The folder that all files lie in, as "pictures/", or ""."""
    tops = {name.split("/")[0] for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in names) else ""
