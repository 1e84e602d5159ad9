"""`accelerate launch -m minildm.train RECIPE`: the command `minildm train RECIPE` in several processes at once.

One process for each GPU: `accelerate launch --multi_gpu --num_processes 4 -m minildm.train pocket`. On CPUs the same
with ACCELERATE_USE_CPU=1 before it. Each process learns from its slice of every batch and all end with the same
weights, those that one process would have learned; the first one writes them.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout

from minildm import cli
from minildm.recipes import first_process


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with the options of `minildm train`, as one of the processes; returns the exit status."""
    arguments = ["train", *(sys.argv[1:] if arguments is None else arguments)]
    if first_process():
        return cli.main(arguments)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        return cli.main([*arguments, "--out", os.path.join(folder, "copy.safetensors")])


if __name__ == "__main__":
    sys.exit(main())
