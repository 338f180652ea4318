"""What all benchmarks share: rows against a floor or a peer of the same run, medians of runs taken in turn, one form.

The machines that measure are shared and noisy: compare ratios, not seconds, and CPU seconds rather than elapsed ones
where waiting is not the point.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. `ratio` is value / against_value unless said otherwise; `spread` is its smallest and largest."""

    name: str
    value: float
    unit: str
    against: str | None = None
    against_value: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None
    runs: int = 1
    spread: tuple[float, float] | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `python -m benchmarks NAME --json` prints."""

    benchmark: str
    commit: str
    machine: dict[str, Any]
    rows: list[Row]

    @property
    def met(self) -> bool:
        """Whether every goal is met."""
        return all(row.met is not False for row in self.rows)


Clock = Callable[[], float]


def cpu_clock() -> float:
    """CPU seconds of this process and its finished children."""
    import resource

    own = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + children.ru_utime + children.ru_stime


def in_turn(
    candidates: dict[str, Callable[[], object]], *, runs: int = 5, warmup: int = 1, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each candidate, one run of each after the other (A B A B ...), after `warmup` uncounted rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warmup + runs):
        for name, run in candidates.items():
            started = clock()
            run()
            elapsed = clock() - started
            if number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def compared(
    name: str,
    unit: str,
    values: Sequence[float],
    against: str,
    against_values: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """A row of paired runs: medians, and the median of the ratios pair by pair, held against the goal."""
    ratios = [v / a for v, a in zip(values, against_values, strict=True)]
    ratio = statistics.median(ratios)
    goal, met = _goal(ratio, at_least, at_most)
    return Row(
        name=name,
        value=statistics.median(values),
        unit=unit,
        against=against,
        against_value=statistics.median(against_values),
        ratio=ratio,
        goal=goal,
        met=met,
        runs=len(values),
        spread=(min(ratios), max(ratios)),
    )


def figure(
    name: str,
    unit: str,
    values: float | Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """A row with nothing to compare with: the median, held against the goal itself."""
    values = [values] if isinstance(values, int | float) else list(values)
    value = statistics.median(values)
    goal, met = _goal(value, at_least, at_most)
    spread = (min(values), max(values)) if len(values) > 1 else None
    return Row(name=name, value=value, unit=unit, goal=goal, met=met, runs=len(values), spread=spread)


def _goal(value: float, at_least: float | None, at_most: float | None) -> tuple[str | None, bool | None]:
    if at_least is not None:
        return f">= {at_least:g}", value >= at_least
    if at_most is not None:
        return f"<= {at_most:g}", value <= at_most
    return None, None


def result(benchmark: str, rows: Sequence[Row]) -> Result:
    """The rows with where and on what they were measured."""
    return Result(benchmark=benchmark, commit=_commit(), machine=_machine(), rows=list(rows))


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _machine() -> dict[str, Any]:
    import os

    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "gpu": _gpu_name(), "python": platform.python_version()}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


def _gpu_name() -> str | None:
    import sys

    torch = sys.modules.get("torch")  # asked only where the benchmark has loaded it anyway
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
