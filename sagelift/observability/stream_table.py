"""Print the status of the consumers as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sagelift.observability.stream_status import StreamStatus, WorkerRow

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_NUMBERS = ("LAG", "REC/S", "P50", "P99", "BATCH", "IN FLIGHT")


def render(status: StreamStatus) -> RenderableType:
    """Return a table of the consumers, a line for each topic, and the problems."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("CONSUMER", "PID", "STATE", "PARTITIONS", *_NUMBERS, "RETRIES", "DEAD LETTERS"):
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", overflow="fold")
    for row in status.workers:
        table.add_row(*_cells(row))
    shown: list[RenderableType] = [table, Text("")] if status.workers else []
    shown += [Text(f"{t.topic:<16} group {t.group:<18} lag {_number(t.lag)}") for t in status.topics]
    shown += [Text(f"! {problem}", style="bold red") for problem in status.problems]
    return Group(*shown)


def _cells(row: WorkerRow) -> tuple[str | Text, ...]:
    from rich.text import Text

    return (
        row.name,
        str(row.pid or "-"),
        Text(row.state, style="green" if row.well else "bold red"),
        _ranges(row.partitions) or "-",
        _number(row.lag),
        _number(row.records_per_s),
        _seconds(row.freshness_p50_s),
        _seconds(row.freshness_p99_s),
        _number(row.records_per_batch),
        _number(row.in_flight),
        _counts(row.retries),
        _counts(row.dead_letters),
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 10 else f"{value:,.0f} s"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda c: -c[1])) or "-"


def _ranges(numbers: Iterable[int]) -> str:
    """Write 0, 1, 2, 5 as "0-2 5"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return " ".join("-".join(map(str, part)) for part in parts)
