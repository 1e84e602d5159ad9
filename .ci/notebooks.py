"""Run notebooks from top to bottom and keep their outputs: all of them, or those named as arguments.

A notebook is replaced only when every cell of it ran, by a rename, so it never holds the outputs of half a run.
What would not do for readers is an error too: text on stderr, a path of this machine, a file too large to show.
At the end the table of claims, notebooks/evidence/README.md, is written anew.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import claims
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
LARGEST = 1_500_000  # bytes; code hosts refuse to show much more
PATIENCE = 600  # seconds for one cell


def run(path: Path) -> None:
    """Execute one notebook in place; ValueError or CellExecutionError leaves the file as it was."""
    notebook = nbformat.read(path, as_version=4)
    # Of the environment that runs this, whatever other kernel of the same name the user has installed.
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=PATIENCE,
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns of local sockets on our terminal
    ).execute()
    drop_bars(notebook)
    text = nbformat.writes(notebook)
    for complaint in complaints(notebook, text):
        raise ValueError(complaint)
    finished = path.with_name(f".{path.name}.new")
    finished.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    finished.replace(path)


def drop_bars(notebook) -> None:
    """Forget progress bars: what is kept of one is a moment when it was not yet full."""
    view = "application/vnd.jupyter.widget-view+json"

    def bar(data):
        return view in data and re.search(r"\d%\|", data.get("text/plain", ""))

    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in codes:
        cell.outputs = [output for output in cell.outputs if not bar(output.get("data", {}))]
    if not any(view in output.get("data", {}) for cell in codes for output in cell.outputs):
        notebook.metadata.pop("widgets", None)


def complaints(notebook, text: str):
    """What keeps an executed notebook from being shown to readers, a sentence each."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                yield f"cell {number} prints to stderr: {output.text.strip().splitlines()[-1]}"
    folders = {str(ROOT), str(Path.home()), sys.prefix, tempfile.gettempdir()} - {"/"}
    if found := re.search(rf"({'|'.join(map(re.escape, folders))})[/\\][^\"\s]*", text):
        yield f"it shows a path of this machine: {found[0]}"
    if len(text.encode()) > LARGEST:
        yield f"it is {len(text.encode()) / 1e6:.1f} MB large; at most {LARGEST / 1e6:.1f} MB do"


def main(names: list[str]) -> int:
    """Run the notebooks of these names, or all; 1 if one failed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    lessons = ROOT / "notebooks"
    all_of_them = sorted(path for folder in ("", "evidence/", "homework/") for path in lessons.glob(f"{folder}*.ipynb"))
    paths = [Path(name).resolve() for name in names] or all_of_them
    failed = []
    for path in paths:
        began = time.monotonic()
        print(f"{path.name} ...", end=" ", flush=True)
        try:
            run(path)
        except (CellExecutionError, RuntimeError, ValueError, OSError) as error:
            failed.append(path.name)
            print(f"FAILED\n{error}")
        else:
            print(f"{time.monotonic() - began:.0f} s, {path.stat().st_size / 1e6:.2f} MB")
    claims.main()
    if failed:
        print(f"Not kept, because they failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
