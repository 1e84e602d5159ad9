"""Recipes in several processes: all learn what one would, and one of them writes."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from minildm import storage, train
from minildm.cli import _course as course
from minildm.recipes import nuclei

ROOT = Path(__file__).parents[1]


def test_two_processes_write_what_one_does(tmp_path, monkeypatch):
    """Started by `accelerate launch`, joined by gloo."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch.split(), "-m", "minildm.train"]
    command += ["nuclei", "--steps", "2", "--out", "two.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("written: ") == 1 and not list((tmp_path / "runs").iterdir())

    monkeypatch.chdir(tmp_path)
    assert train.main(["nuclei", "--steps", "2", "--out", "one.safetensors"]) == 0
    one, two = (storage.read(tmp_path / f"{name}.safetensors")[0] for name in ("one", "two"))
    start = storage.state(nuclei.network(0))
    for name, tensor in one.items():
        assert (tensor - two[name]).abs().max() <= 1.3e-4, name  # a step of float16, in which they are written
        assert (tensor - start[name]).abs().max() > 2e-3, name


@pytest.mark.parametrize("rank, written", [("0", "here.safetensors"), ("1", "copy.safetensors")])
def test_the_first_process_writes(rank, written, tmp_path, monkeypatch, capsys):
    calls = []

    def recipe(out=None, **options):
        calls.append((out, options))
        return out

    monkeypatch.setattr(course, "recipe", lambda name: types.SimpleNamespace(run=recipe))
    monkeypatch.setenv("RANK", rank)
    assert train.main(["nuclei", "--steps", "7", "--out", str(tmp_path / "here.safetensors")]) == 0
    ((out, options),) = calls
    assert out.name == written and (out.parent == tmp_path) == (rank == "0") and options["steps"] == 7
    assert ("written" in capsys.readouterr().out) == (rank == "0")


def test_errors_are_the_command_lines(monkeypatch, capsys):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert train.main(["nucleii"]) == 1
        assert "there is no recipe 'nucleii'" in capsys.readouterr().err
