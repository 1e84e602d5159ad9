"""How the tests themselves run: notebooks that are too slow, several workers at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    """A folder with this project's settings of pytest."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def notebook(folder: Path, name: str, *cells: str) -> None:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(made, folder / "notebooks" / f"{name}.ipynb")


def run(folder: Path, *options: str, **environment) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OMP_"))}
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True).stdout


def test_a_cell_that_is_too_slow_fails_once_and_says_so(folder):
    stays = "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(60)"
    slow = {"1_sleeps": "time.sleep(60)", "2_works": "while True: pass", "3_stays": stays, "4_dies": "os._exit(1)"}
    for name, cell in slow.items():
        notebook(folder, name, "import os, time", cell, "x = 1", "print(x)")
    notebook(folder, "5_quick", "print(6 * 7)")
    said = run(folder, "--nbval-cell-timeout=2", "notebooks")
    assert "4 failed, 5 passed, 8 skipped" in said.splitlines()[-1], said
    assert said.count("Timeout of 2 seconds exceeded") >= 4
    assert "an earlier cell of this notebook took too long" in said


def test_a_cell_that_fails_stops_no_other(folder):
    notebook(folder, "01_wrong", "1 / 0", "x = 1", "assert x == 2", "print(x)")
    assert "2 failed, 2 passed" in run(folder, "notebooks").splitlines()[-1]


def test_workers_keep_a_notebook_whole_and_share_the_cores(folder):
    (folder / "test_here.py").write_text("def test_here():\n    assert True\n")
    for name in ("01_a", "02_b", "03_c"):
        counted = [f"x = x + 1; assert x == {n}" for n in range(1, 5)]
        notebook(folder, name, "import os; x = 0", *counted, f"assert os.environ['OMP_NUM_THREADS'] == '{threads()}'")
    last = run(folder, "-n", "2", "--dist", "loadfile", "notebooks", "test_here.py").splitlines()[-1]
    assert "19 passed" in last


def threads() -> int:
    return max(1, (os.cpu_count() or 1) // 2)
