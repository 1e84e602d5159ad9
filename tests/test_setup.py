"""The set-up behind `make`, with a Python that only plays its part: it makes an environment in no time, and fails,
hangs or dies where a test wants it to."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="make and sh are not for Windows")

# `-c` answers questions about the version, `-m venv` copies this file, `-m pip` does what the file named pip says.
PLAYED = """#!/bin/sh
here=$(dirname "$0")
case "$1 $2" in
"-c import platform"*) echo VERSION ;;
"-c import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))") exit UNFIT ;;
"-c "*) exit 0 ;;
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "version = VERSION" >"$3/pyvenv.cfg" ;;
"-m pip")
    [ "$3" = install ] || exit 0
    echo "$@" >>pip.calls
    echo "Collecting torch"
    . ./pip.plan
    ;;
esac
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout with a space in its name, and Python 3.12.1 as the only Python."""
    folder = tmp_path / "my course"
    (folder / ".ci").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/setup"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "pip.plan").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("PYTHON", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # of the make that runs these tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINILDM_NEED_GB", "0")
    for name in ("python3.13", "python3.11", "python3", "python"):
        play(tmp_path / "bin" / name, "2.7.18", unfit=True)
    play(tmp_path / "bin" / "python3.12", "3.12.1")
    return folder


def play(path: Path, version: str, unfit: bool = False) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLAYED.replace("VERSION", version).replace("UNFIT", str(int(unfit))))
    path.chmod(0o755)
    return path


def tools(tmp_path: Path) -> Path:
    """A folder with what the set-up calls, and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    names = "sh cat grep ps dirname sed cksum df awk du cut uname rm mkdir"
    for name in names.split():
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return folder


def setup(folder: Path, **environment) -> subprocess.CompletedProcess:
    command = ["sh", ".ci/setup", ".venv", "constraints.txt"]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


def calls(folder: Path) -> int:
    """How often something was installed."""
    return len((folder / "pip.calls").read_text().splitlines()) if (folder / "pip.calls").exists() else 0


def start(folder: Path, until: str) -> subprocess.Popen:
    """Start a set-up in a process group of its own and wait until its log says `until`."""
    process = subprocess.Popen(
        ["sh", ".ci/setup", ".venv", "constraints.txt"], cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    log = folder / ".venv" / "install.log"
    for _ in range(500):
        if log.exists() and until in log.read_text():
            return process
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"the set-up did not come to {until!r}: {process.communicate()}")


def kill(process: subprocess.Popen, how: int) -> str:
    os.killpg(process.pid, how)
    return process.communicate()[1]


def test_the_second_time_does_nothing(project):
    first = setup(project)
    assert first.returncode == 0 and "Python 3.12.1" in first.stdout, first
    assert (project / "pip.calls").read_text().split()[-5:] == ["off", "-c", "constraints.txt", "-e", ".[test]"]
    second = setup(project)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert calls(project) == 1


def test_what_is_large_is_named_while_it_is_fetched(project):
    pip = [
        "  Downloading torch-2.9.1-cp312-cp312-linux_x86_64.whl (899.7 MB)",
        "  Using cached nvidia_cublas_cu12-12.8-py3-none-linux_x86_64.whl (594.3 MB)",
        r"  Downloading small\ntiny-1.0-py3-none-any.whl (12 kB)",
        "Installing collected packages: torch",
    ]
    (project / "pip.plan").write_text("\n".join(f"printf '%s\\n' '{line}'" for line in pip))
    _, *said, ready = setup(project).stdout.splitlines()
    assert said[:2] == ["  fetching torch (899.7 MB) ...", "  fetching nvidia_cublas_cu12 (594.3 MB) ..."]
    assert len(said) == 3 and "installing" in said[2] and ready.startswith("Ready")
    assert (project / ".venv" / "install.log").read_text().splitlines()[-4:] == pip


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_it_depends_on_installs_again(project, name):
    setup(project)
    with open(project / name, "a") as file:
        file.write("\n# changed\n")
    assert "afresh" not in setup(project).stdout
    assert calls(project) == 2
    assert setup(project).stdout == ""


@pytest.mark.parametrize("version", ["3.9.18", "3.10.14", "3.14.0", "3.15.0a2"])
def test_a_python_that_does_not_fit_is_one_line_and_touches_nothing(project, tmp_path, version):
    setup(project)
    said = setup(project, PYTHON=str(play(tmp_path / "a python", version, unfit=True)))
    assert said.returncode == 1 and said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert "3.11, 3.12 or 3.13" in line and version in line and "stardist" in line
    assert setup(project).stdout == "" and calls(project) == 1


def test_no_python_at_all(project):
    (line,) = setup(project, PYTHON="no-such-python").stderr.splitlines()
    assert "3.11, 3.12 or 3.13" in line and "none" in line


@pytest.mark.parametrize("version", ["3.10.4", "3.11.0", "3.13.12", "3.14.0"])
def test_which_versions_fit(version):
    (program,) = re.findall("^fits='(.*)'$", (ROOT / ".ci" / "setup").read_text(), re.MULTILINE)
    asked = program.replace("sys.version_info", repr(tuple(int(part) for part in version.split("."))))
    fits = subprocess.run([sys.executable, "-c", asked]).returncode == 0
    assert fits == (version in ("3.11.0", "3.13.12"))


def test_where_the_newest_python_does_not_fit_another_is_taken(project, tmp_path):
    for name in ("python3", "python"):
        play(tmp_path / "bin" / name, "3.14.0", unfit=True)
    assert "Python 3.12.1" in setup(project).stdout


def test_where_only_newer_pythons_are_there_it_says_so(project, tmp_path):
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        (tmp_path / "bin" / name).unlink()
    play(tmp_path / "bin" / "python3", "3.14.0", unfit=True)
    (line,) = setup(project, PATH=f"{tmp_path / 'bin'}{os.pathsep}{tools(tmp_path)}").stderr.splitlines()
    assert "found: python3 is 3.14.0;" in line and "make PYTHON=" in line
    assert not (project / ".venv").exists()


def test_another_python_is_taken_when_asked_for(project, tmp_path):
    setup(project)
    other = str(play(tmp_path / "bin" / "python3.13", "3.13.9"))
    said = setup(project, PYTHON=other)
    assert "of another Python" in said.stdout and "Python 3.13.9" in said.stdout
    assert setup(project, PYTHON=other).stdout == "" and setup(project).stdout == ""
    assert calls(project) == 2


def test_a_full_disk_is_one_line_and_touches_nothing(project):
    said = setup(project, MINILDM_NEED_GB="1000000")
    assert said.returncode == 1 and said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert "too full" in line and "1000000 GB" in line
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("plan", ["echo 'ERROR: no network'; exit 1", "echo 'Installing collected packages'; exit 1"])
def test_a_failure_is_told_and_mended_by_the_next_call(project, plan):
    (project / "pip.plan").write_text(plan)
    said = setup(project)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith("minildm: the installation failed half-way")
    assert plan.split("'")[1] in said.stderr
    (project / "pip.plan").write_text("")
    (project / ".venv" / "half").touch()
    said = setup(project)
    assert said.returncode == 0
    # Packages that may be half there are not built on; while pip was only fetching there were none.
    assert (project / ".venv" / "half").exists() == ("Installing" not in plan)
    assert setup(project).stdout == ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_in_the_middle_it_starts_afresh(project, how):
    (project / "pip.plan").write_text("echo 'Installing collected packages'; sleep 60")
    said = kill(start(project, "Installing"), how)
    assert how == signal.SIGKILL or "cut short" in said
    (project / "pip.plan").write_text("")
    (project / ".venv" / "half").touch()
    said = setup(project)
    assert said.returncode == 0 and "did not finish" in said.stdout
    assert not (project / ".venv" / "half").exists()


def test_two_at_once_do_not_disturb_each_other(project):
    (project / "pip.plan").write_text("sleep 60")
    first = start(project, "Collecting")
    said = setup(project)
    kill(first, signal.SIGKILL)
    assert said.returncode == 1 and f"process {first.pid} is setting up" in said.stderr
    assert calls(project) == 1


def test_a_broken_environment_is_made_anew(project):
    setup(project)
    (project / ".venv" / "bin" / "python").unlink()
    assert "broken" in setup(project).stdout
    assert calls(project) == 2 and setup(project).stdout == ""


def test_a_moved_checkout_gets_a_new_environment(project):
    setup(project)
    moved = project.rename(project.with_name("elsewhere"))
    assert "has moved" in setup(moved).stdout
    assert setup(moved).stdout == ""


def test_make_stops_where_the_set_up_fails(project):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    said = subprocess.run([make, "test", "PYTHON=no-such-python"], cwd=project, capture_output=True, text=True)
    assert said.returncode != 0 and "pytest" not in said.stdout
    assert said.stderr.startswith("minildm: Python 3.11, 3.12 or 3.13 is needed")
    said = subprocess.run([make], cwd=project, capture_output=True, text=True, check=True)
    assert "make lab" in said.stdout and not (project / ".venv").exists()
