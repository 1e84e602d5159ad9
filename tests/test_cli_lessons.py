"""`minildm lab`: in a checkout, and where the package was installed without one."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import minildm
from minildm import cli
from minildm.cli import _lessons

ROOT = Path(__file__).parents[1]
NAMES = ["00_one_u_four_jobs.ipynb", "01_segment.ipynb", "02_noise.ipynb"]


@pytest.fixture
def jupyterlab(monkeypatch):
    """The commands that would have opened JupyterLab."""
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command) or 3)
    return calls


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The lessons of an installed package, in a folder beside the current one."""
    source = tmp_path / "site-packages" / "minildm" / "_lessons"
    left_out = [".ipynb_checkpoints/00_x.ipynb", "homework/1_touching_cells.ipynb"]
    for name in [*reversed(NAMES), "evidence/01_skips.ipynb", "images/one_u.png", *left_out]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(f"{name} as it came")
    monkeypatch.setattr(_lessons, "PACKAGE", source.parent)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return source


def opened(command: list[str]) -> tuple[str, str]:
    """The folder and the file that JupyterLab is to open."""
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    root, url = (command[command.index(name) + 1] for name in ("--ServerApp.root_dir", "--LabApp.default_url"))
    return root, url.removeprefix("/lab/tree/")


def in_it(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


LAID = sorted([*NAMES, "evidence/01_skips.ipynb", "images/one_u.png", _lessons.RECORD])


def checkout(folder: Path) -> Path:
    (folder / "notebooks").mkdir(parents=True)
    for name in (NAMES[2], NAMES[0], NAMES[1], "scratch.ipynb"):
        (folder / "notebooks" / name).touch()
    return folder


def test_a_checkout_is_opened_as_it_stands(monkeypatch, tmp_path, jupyterlab):
    monkeypatch.setattr(_lessons, "PACKAGE", checkout(tmp_path) / "minildm")
    before = in_it(tmp_path)
    assert [path.name for path in _lessons.lessons(_lessons.shipped())] == NAMES
    assert cli.main(["lab", "--no-browser", "--port", "8899"]) == 3
    (command,) = jupyterlab
    assert opened(command) == (str(tmp_path), f"notebooks/{NAMES[0]}")
    assert command[-3:] == ["--no-browser", "--port", "8899"]
    assert in_it(tmp_path) == before


@pytest.mark.parametrize("named", [[], ["."], ["../there"]])
def test_an_installed_package_opens_a_checkout_that_it_is_in_or_is_named(installed, tmp_path, jupyterlab, named):
    home = checkout(tmp_path / ("there" if named == ["../there"] else "here/"))
    before = in_it(tmp_path)
    assert cli.main(["lab", *named]) == 3
    assert opened(jupyterlab[0]) == (str(home), f"notebooks/{NAMES[0]}")
    assert in_it(tmp_path) == before


@pytest.mark.parametrize("named", ["", "my lessons", "deep/down/notebooks", "."])
def test_elsewhere_the_lessons_are_copied_first(installed, tmp_path, jupyterlab, capsys, named):
    assert cli.main(["lab", *([named] if named else []), "--no-browser"]) == 3
    folder = tmp_path / "here" / (named or "minildm-lessons")
    assert in_it(folder) == LAID
    assert (folder / "images" / "one_u.png").read_text() == "images/one_u.png as it came"
    root, url = opened(jupyterlab[0])
    assert Path(root, url) == folder / NAMES[0]
    assert jupyterlab[0][-1] == "--no-browser" and named not in jupyterlab[0][-1:]
    assert (
        f"new in {named or 'minildm-lessons'}: {NAMES[0]}, 01_segment.ipynb, 02_noise.ipynb and 2 more\n"
        in capsys.readouterr().out
    )


def test_the_second_time_nothing_is_copied(installed, tmp_path, jupyterlab, capsys, monkeypatch):
    cli.main(["lab"])
    (tmp_path / "here" / "minildm-lessons" / NAMES[1]).write_text("what I did")
    capsys.readouterr()
    cli.main(["lab"])
    assert capsys.readouterr().out == "nothing is new in minildm-lessons\n"
    monkeypatch.chdir("minildm-lessons")  # in such a folder the lessons are its own, not one level deeper
    cli.main(["lab"])
    assert in_it(Path.cwd()) == LAID and Path(NAMES[1]).read_text() == "what I did"
    assert {opened(command)[0] for command in jupyterlab} == {str(tmp_path / "here" / "minildm-lessons")}


def test_a_new_version_never_touches_what_the_learner_changed(installed, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    _lessons.lay(installed, folder)
    mine, gone, untouched = (folder / name for name in NAMES)
    mine.write_text("what I did")
    gone.unlink()
    (folder / "images" / "one_u.png").write_text("my drawing")
    for name in NAMES:
        (installed / name).write_text(f"{name}, better")
    (installed / "03_new.ipynb").write_text("a new lesson")
    monkeypatch.setattr(minildm, "__version__", "7.0")

    told = _lessons.lay(installed, folder)
    assert mine.read_text() == "what I did"
    assert (folder / "00_one_u_four_jobs_minildm-7.0.ipynb").read_text() == f"{NAMES[0]}, better"
    assert gone.read_text() == f"{NAMES[1]}, better" and untouched.read_text() == f"{NAMES[2]}, better"
    assert (folder / "images" / "one_u.png").read_text() == "my drawing"
    assert in_it(folder) == sorted([*LAID, "00_one_u_four_jobs_minildm-7.0.ipynb", "03_new.ipynb"])
    assert told == [
        f"new in {folder}: 01_segment.ipynb, 03_new.ipynb",
        f"{mine} is yours and stays; that of minildm 7.0 is beside it: 00_one_u_four_jobs_minildm-7.0.ipynb",
        "not changed by you, and now those of minildm 7.0: 02_noise.ipynb",
    ]
    (folder / "00_one_u_four_jobs_minildm-7.0.ipynb").unlink()  # not wanted: it does not come again
    assert _lessons.lay(installed, folder) == []

    (installed / NAMES[0]).write_text("better still, under the same number")
    (folder / "00_one_u_four_jobs_minildm-7.0.ipynb").write_text("also changed")
    _lessons.lay(installed, folder)
    assert mine.read_text() == "what I did"
    assert (folder / "00_one_u_four_jobs_minildm-7.0.ipynb").read_text() == "also changed"
    assert (folder / "00_one_u_four_jobs_minildm-7.0-2.ipynb").read_text().startswith("better still")


@pytest.mark.parametrize("record", [None, "", "[1]", '{"00_one_u_four_jobs.ipynb": 7}', "\udcff"])
def test_without_a_record_what_differs_is_taken_for_the_learners(installed, tmp_path, record):
    folder = tmp_path / "mine"
    _lessons.lay(installed, folder)
    (folder / NAMES[0]).write_text("perhaps mine")
    (folder / _lessons.RECORD).unlink()
    if record is not None:
        (folder / _lessons.RECORD).write_bytes(record.encode(errors="surrogateescape"))
    (told,) = _lessons.lay(installed, folder)
    assert (folder / NAMES[0]).read_text() == "perhaps mine" and "stays" in told
    assert set(json.loads((folder / _lessons.RECORD).read_text())) == set(LAID) - {_lessons.RECORD}
    assert _lessons.lay(installed, folder) == []


def test_a_copy_that_was_cut_short_is_finished(installed, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    write, calls = _lessons.storage.write_bytes, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("the disk is full")
        return write(*arguments)

    monkeypatch.setattr(_lessons.storage, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        _lessons.lay(installed, folder)
    assert len(in_it(folder)) == 2
    (told,) = _lessons.lay(installed, folder)
    assert told.startswith("new in") and in_it(folder) == LAID


def test_a_file_is_no_folder_for_lessons(installed, tmp_path, jupyterlab, capsys):
    Path("taken").write_text("mine")
    assert cli.main(["lab", "taken"]) == 1
    assert "taken is a file" in capsys.readouterr().err
    assert not jupyterlab and Path("taken").read_text() == "mine"


def test_an_installation_without_lessons_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_lessons, "PACKAGE", tmp_path / "minildm")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lab"]) == 1
    assert "without its lessons" in capsys.readouterr().err


def test_copy_only_needs_no_jupyterlab_and_opens_none(installed, tmp_path, jupyterlab, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    assert cli.main(["lab", "course", "--copy-only"]) == 0
    assert f"the first lesson: {Path('course', NAMES[0])}" in capsys.readouterr().out
    assert not jupyterlab and in_it(tmp_path / "here" / "course") == LAID
    assert cli.main(["lab", "course"]) == 1
    assert 'pip install "minildm[course]"' in capsys.readouterr().err


def test_the_wheel_brings_the_lessons(tmp_path):
    """Unpacked as pip does it, away from any checkout; --version starts JupyterLab as far as its version."""
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site-packages")
    (tmp_path / "here").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site-packages")}
    command = [sys.executable, "-m", "minildm", "lab", "course", "--version"]
    said = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    brought = {name for name in in_it(tmp_path / "here" / "course") if name != _lessons.RECORD}
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= brought
    for name in brought:
        assert (tmp_path / "here" / "course" / name).read_bytes() == (ROOT / "notebooks" / name).read_bytes()
    assert said.stdout.splitlines()[-1][0].isdigit()  # JupyterLab's answer
