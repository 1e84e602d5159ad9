"""How each shipped checkpoint is trained: one short file each, run by `minildm train <name>`."""

import platform
import time
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


def circumstances() -> dict[str, str]:
    """The day and the kind of machine, for a checkpoint's record."""
    device = best_device()
    kind = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {kind}"}
