"""How long does `import minildm` take, measured against `import torch`?

    python benchmarks/import_time.py [RUNS]

Each runs in a fresh process, and they take turns.
"""

import statistics
import subprocess
import sys


def seconds(module: str) -> float:
    """The time that a fresh Python takes to import a module."""
    program = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def main(runs: int) -> None:
    for module in ("torch", "minildm"):  # once without counting, so that both find the files in memory
        seconds(module)
    pairs = [(seconds("torch"), seconds("minildm")) for _ in range(runs)]
    torch, minildm = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"medians of {runs}: torch {torch:.2f} s, minildm {minildm:.2f} s, {minildm / torch:.3f} times as long")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
