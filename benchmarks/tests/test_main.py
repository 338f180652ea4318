"""The command line of the benchmarks."""

from __future__ import annotations

import subprocess
import sys


def test_every_benchmark_is_listed_with_what_it_measures() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "list"], capture_output=True, text=True, check=True)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {"assign", "embed", "faults", "materialize", "retrieval", "stream", "train"} <= lines.keys()
    assert "harness" not in lines
    assert all(len(text) > 20 for text in lines.values())
