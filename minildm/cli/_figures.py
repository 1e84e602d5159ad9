"""`minildm figures`: every figure of the lessons as a file, with its caption, for slides and handouts."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from minildm import storage
from minildm.cli import _lessons
from minildm.optional import require

if TYPE_CHECKING:
    import typer

FORMATS = ("stored", "png", "svg")
ENDINGS = {"image/svg+xml": ".svg", "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif"}  # the best first
# Runs before a lesson's first cell: whatever format the lesson asks for, figures come in this one.
FIRST = """
import matplotlib_inline.backend_inline as _inline
_set_formats = _inline.set_matplotlib_formats
_inline.set_matplotlib_formats = lambda *formats, **options: _set_formats({format!r})
_inline.set_matplotlib_formats()
"""
LICENCE = (
    "Figures that show drawings hold OpenMoji's (https://openmoji.org), CC BY-SA 4.0, and are under that licence: name "
    "it where you show them. All others are under the licence of the course."
)


class FigureFile(NamedTuple):
    """A figure of a lesson."""

    content: bytes
    ending: str  # of its file: ".svg"
    section: str  # the heading that it stands under
    before: str  # the last paragraph before it, and the first one after it
    after: str


def add(app: "typer.Typer") -> None:
    """Add the command."""
    typer = require("typer")

    @app.command("figures")
    def command(
        out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the figures are to lie.")],
        format: Annotated[
            str, typer.Option(help="stored: as the lessons hold them. png, svg: made anew, sharp, minutes a lesson.")
        ] = "stored",
        from_: Annotated[
            list[str] | None, typer.Option("--from", metavar="LESSON", help="Only this one, 04 say; may be said again.")
        ] = None,
    ):
        """Write every figure of the lessons into a folder, with captions.md, for slides and handouts.

        The lessons hold their figures as small JPEGs: fine for a handout. For slides,
        --format svg runs each lesson again, one to four minutes, and takes its figures as
        vectors; --format png, twice as large. Pictures within a figure stay pixels.
        """
        raise typer.Exit(int(bool(figures(out, format, from_ or ()))))


def figures(out: Path, format: str = "stored", lessons: Sequence[str] = ()) -> list[str]:
    """Write the figures of lessons and an index of captions; returns the names of the lessons that did not run.

    format: one of FORMATS.  lessons: their numbers or names, or the beginnings of names; () for all.
    Raises ValueError for another format, an unknown lesson, and where `out` is a file.
    """
    if format not in FORMATS:
        raise ValueError(f"expected --format as one of {', '.join(FORMATS)}, got {format!r}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"expected a folder for the figures, and {out} is a file: name another")
    paths, failed = _chosen(lessons), []
    if format != "stored":
        require("jupyterlab")  # brings what runs notebooks
    out.mkdir(parents=True, exist_ok=True)
    index = ["# Figures of the lessons", "", LICENCE, ""]
    for number, path in enumerate(paths, 1):
        print(f"[{number} of {len(paths)}] {path.stem}: ", end="", flush=True)
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            found = list(_of(notebook if format == "stored" else _run(path, notebook, format)))
        except RuntimeError as error:
            failed.append(path.stem)
            print(f"did not run: {error}")
            continue
        index += _written(found, path.stem, _title(notebook), out)
        print(f"{len(found)} figures")
    storage.write_text(out / "captions.md", "\n".join(index))
    print(f"written: {out / 'captions.md'}, with what each figure shows")
    if failed:
        print(f"without figures, because they did not run: {', '.join(failed)}", file=sys.stderr)
    return failed


def _chosen(lessons) -> list[Path]:
    there = _lessons.lessons(_lessons.shipped())
    meant = {one: [path for path in there if path.stem.startswith(one.removesuffix(".ipynb"))] for one in lessons}
    for one, paths in meant.items():
        if not paths:
            raise ValueError(f"there is no lesson {one!r}; there are: {', '.join(path.stem for path in there)}")
    return [path for path in there if not lessons or any(path in paths for paths in meant.values())]


def _run(path: Path, lesson: dict, format: str) -> dict:
    """A lesson after a run in which all figures come in this format; RuntimeError where a cell fails."""
    source = FIRST.format(format={"png": "retina"}.get(format, format))
    first = {"cell_type": "code", "execution_count": None, "id": "figures", "metadata": {}, "outputs": []}
    with tempfile.TemporaryDirectory() as folder:
        for each in _lessons.lessons(path.parent):  # a lesson may look which others there are
            shutil.copy(each, folder)
        copy = Path(folder) / path.name
        copy.write_text(
            json.dumps(lesson | {"cells": [first | {"source": source}, *lesson["cells"]]}), encoding="utf-8"
        )
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", path.name]
        kernel = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # inline, as in a notebook
        run = subprocess.run(command, cwd=folder, env=kernel, capture_output=True, text=True)
        if run.returncode:
            lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", run.stderr).splitlines() if line.strip()]
            raise RuntimeError(lines[-1] if lines else f"exit status {run.returncode}")
        return json.loads(copy.read_text(encoding="utf-8"))


def _of(notebook: dict) -> Iterator[FigureFile]:
    cells, section, before = notebook["cells"], "", ""
    for k, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"^#+ +(.+)$", source, re.MULTILINE)
            section = headings[-1] if headings else section
            before = (_paragraphs(source) or [before])[-1]
            continue
        texts = ("".join(one["source"]) for one in cells[k + 1 :] if one["cell_type"] == "markdown")
        after = next((paragraphs[0] for paragraphs in map(_paragraphs, texts) if paragraphs), "")
        for output in cell.get("outputs", []):
            held = output.get("data", {})
            kind = next((kind for kind in ENDINGS if kind in held), None)
            if kind is not None:
                data = "".join(held[kind])
                content = data.encode() if kind == "image/svg+xml" else base64.b64decode(data)
                yield FigureFile(content, ENDINGS[kind], section, before, after)


def _paragraphs(source: str) -> list[str]:
    """The paragraphs of a cell's prose, each in one line; without headings, tables, code and solutions."""
    source = re.sub(r"<details>.*?</details>|^```.*?^```", "", source, flags=re.DOTALL | re.MULTILINE)
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", source)]
    return [block for block in blocks if block and block[0] not in "#|$<!"]


def _title(notebook: dict) -> str:
    return "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")


def _written(found: list[FigureFile], name: str, title: str, out: Path) -> list[str]:
    """Write the files; returns their part of the index."""
    lines = [f"## {title}", ""]
    for number, one in enumerate(found, 1):
        file = f"{name}-{number:02}{one.ending}"
        storage.write_bytes(out / file, one.content)
        lines += [f"### {file}", "", f"![{one.section}]({file})", "", f"**Under:** {one.section}", ""]
        lines += [
            f"**{where}:** {text}" + "\n" for where, text in (("Before", one.before), ("After", one.after)) if text
        ]
    return lines
