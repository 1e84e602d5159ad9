"""How each shipped checkpoint is trained: one short file each, whose `run` is what `minildm train NAME` calls.

`run(out=None, *, steps=None, seed=0, resume=True, runs=RUNS)` trains, measures and writes the weights, and returns
their path. out: a file instead of the shipped place.  steps: instead of the recipe's own.  resume: go on from the
checkpoint of a run that was stopped.  runs: the folder in which that lies.

In `studies` stand those that train nothing to keep: what they measure goes into the record of shipped weights.
"""

from minildm.recipes._frame import (
    RUNS,
    Job,
    amend,
    checksum,
    first_process,
    measured_once,
    provenance,
    read_table,
    write_table,
)

__all__ = [
    "RUNS",
    "Job",
    "amend",
    "checksum",
    "first_process",
    "measured_once",
    "provenance",
    "read_table",
    "write_table",
]
