"""What is said about pictures beside them: captions in text files, captions and labels in a table."""

import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

from minildm.optional import require

from ._files import Files, ending, some

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
TEXT = ("text", "caption", "prompt")  # what the column of captions may be called


def table(files: Files) -> dict[str, dict]:
    """The rows of all tables, each by the name of its picture; empty where there is no table.

    Raises ValueError for a table that cannot be read or has no column `file_name`, for a row whose file is not there,
    and for two rows about one file.
    """
    there = {_normal(name): name for name in files.names}
    rows = {}
    for name in files.names:
        path = PurePosixPath(name)
        if path.name.lower() not in TABLES:
            continue
        for number, row in enumerate(_read(files, name), start=1):
            if not row.get("file_name"):
                raise ValueError(f"{files.path}: row {number} of {name} has no file_name, only {sorted(map(str, row))}")
            told = str(row["file_name"])
            file = there.get(_normal(posixpath.normpath(posixpath.join(path.parent, told.replace("\\", "/")))))
            if file is None:
                raise ValueError(f"{files.path}: row {number} of {name} is about {told!r}, and there is no such file")
            if file in rows:
                raise ValueError(f"{files.path}: row {number} of {name} is about {told!r}, as another row is")
            rows[file] = row
    return rows


def captions(files: Files, pictures: Sequence[str], rows: dict[str, dict]) -> list[str] | None:
    """The caption of each picture, from the table or from text files of the pictures' names; None: there are none.

    Raises ValueError where some pictures have none, where there are both, and for a file that is not in UTF-8.
    """
    column = next((name for name in TEXT if any(name in row for row in rows.values())), None)
    texts = {_stem(name): name for name in files.names if ending(name) == ".txt"}
    beside = {picture: texts[_stem(picture)] for picture in pictures if _stem(picture) in texts}
    if column and beside:
        raise ValueError(
            f"{files.path} has captions twice: in the column {column!r} of a table and in "
            f"{some([*beside.values()], 3)}; keep one of both"
        )
    if not column and not beside:
        return None
    if column:
        told = {picture: rows.get(picture, {}).get(column) for picture in pictures}
    else:
        told = {picture: _text(files, name) for picture, name in beside.items()}
        _check_one_each(files, beside)
    said = [" ".join(str(told.get(picture) or "").split()) for picture in pictures]
    if missing := [picture for picture, text in zip(pictures, said, strict=True) if not text]:
        raise ValueError(
            f"{files.path}: {len(missing)} of {len(pictures)} pictures have no caption: {some(missing)}; "
            "write them, or say captions=False"
        )
    return said


def labels(files: Files, pictures: Sequence[str], rows: dict[str, dict]) -> dict[str, str] | None:
    """The labels in the table's column `label`, by the names of their pictures; None: there is no such column.

    Raises ValueError where some of these pictures have none.
    """
    told = {file: str(row["label"]).strip() for file, row in rows.items() if row.get("label") is not None}
    told = {file: label for file, label in told.items() if label}
    if not told:
        return None
    if missing := [picture for picture in pictures if picture not in told]:
        raise ValueError(
            f"{files.path}: {len(missing)} of {len(pictures)} pictures have no label in the table: {some(missing)}; "
            "write them, or say labels=False"
        )
    return told


def _read(files: Files, name: str) -> list[dict]:
    with files.open(name) as file:
        content = file.read()
    try:
        if ending(name) == ".parquet":
            return require("pyarrow.parquet").read_table(io.BytesIO(content)).to_pylist()
        text = content.decode("utf-8-sig")
        if ending(name) == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("each line must be an object")
        return rows
    except ImportError:
        raise
    except Exception as error:  # each kind of table has errors of its own
        raise ValueError(f"{files.path}: {name} cannot be read: {error}") from error


def _text(files: Files, name: str) -> str:
    with files.open(name) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{files.path}: {name} is not written in UTF-8: {error}") from error


def _check_one_each(files: Files, beside: dict[str, str]) -> None:
    first = {}
    for picture, text in beside.items():
        if text in first:
            raise ValueError(
                f"{files.path}: {text} could belong to {first[text]} and to {picture}: give them names of their own"
            )
        first[text] = picture


def _stem(name: str) -> str:
    return _normal(posixpath.splitext(name)[0])


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # some systems write é as e and an accent
