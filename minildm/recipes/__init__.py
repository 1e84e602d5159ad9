"""How each shipped checkpoint is trained: one short file each, run by `minildm train <name>`."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from minildm.tensors import best_device

RUNS = Path("runs")  # where a training keeps its checkpoint until it is finished, so that a stopped one goes on


def run_file(name: str, resume: bool) -> Path:
    """The resumable checkpoint of a training; with resume=False an old one is removed first."""
    path = RUNS / f"{name}.safetensors"
    if not resume:
        path.unlink(missing_ok=True)
    return path


def kept(path: Path, measure: Callable[[], dict], resume: bool) -> dict:
    """What `measure` finds; kept in a JSON file, and with resume=True read from there next time."""
    if resume and path.exists():
        return json.loads(path.read_text())
    found = measure()
    print(json.dumps(found), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found))
    os.replace(part, path)
    return found


def first_process() -> bool:
    """False in all processes of `accelerate launch` but the first: what needs to be done once is left to that one."""
    return int(os.environ.get("RANK", "0")) == 0


def circumstances() -> dict[str, str]:
    """The day and the kind of machine, for a checkpoint's record."""
    device = best_device()
    kind = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {kind}"}
