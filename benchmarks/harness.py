"""Shared parts of all benchmarks: alternating runs, medians, and rows that compare with a floor or a peer.

The measuring machines are shared and noisy. So compare ratios, not seconds, and prefer CPU seconds to elapsed time
unless waiting is part of the measurement.
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
    """One figure.

    Attributes:
        name: Name of the figure.
        value: Median of the runs.
        unit: Unit of the values.
        against: Name of the floor or peer.
        against_value: Median of the floor's or peer's runs.
        ratio: Median of value / against_value over the pairs of runs.
        goal: The goal, such as "<= 1.3", for the ratio, or for the value without a floor or peer.
        met: Whether the goal is met; None without a goal.
        runs: Number of runs.
        spread: Smallest and largest ratio, or value without a floor or peer.
    """

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
    """The result of one benchmark, as `python -m benchmarks NAME --json` prints it."""

    benchmark: str
    commit: str
    machine: dict[str, Any]
    rows: list[Row]

    @property
    def met(self) -> bool:
        """Whether every goal is met."""
        return all(row.met is not False for row in self.rows)


Clock = Callable[[], float]
"""Returns seconds."""
Say = Callable[[str], None]
"""Shows one line of progress."""


def cpu_clock() -> float:
    """Return the CPU seconds of this process and its ended children."""
    import resource

    own = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + children.ru_utime + children.ru_stime


def in_turn(
    candidates: dict[str, Callable[[], object]], *, runs: int = 5, warmup: int = 1, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Run the candidates alternately (A B A B ...).

    Args:
        candidates: Functions by name.
        runs: Counted runs of each candidate.
        warmup: Rounds before them that do not count.
        clock: Measures each run.

    Returns:
        The seconds of each run by candidate.
    """
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
    """Return a row of paired runs, with the median of their ratios compared with the goal.

    Args:
        name: Name of the figure.
        unit: Unit of the values.
        values: Values of the measured runs.
        against: Name of the floor or peer.
        against_values: Values of its runs, one for each measured run.
        at_least: Goal: smallest good ratio.
        at_most: Goal: largest good ratio.
    """
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
    """Return a row without a floor or peer, with its median compared with the goal.

    Args:
        name: Name of the figure.
        unit: Unit of the values.
        values: One value, or those of several runs.
        at_least: Goal: smallest good value.
        at_most: Goal: largest good value.
    """
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
    """Return the rows with the commit and the machine of the measurement."""
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

    torch = sys.modules.get("torch")  # only if the benchmark has loaded it
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
