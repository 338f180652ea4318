"""What every source gives: aggregates, and the facts about the data that a report has to state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from analysis.aggregates import Aggregates, Cell, Column, Needs

DAY = 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class Facts:
    """What a report says about its data besides the sums. None where the source cannot know."""

    source: str
    sql: tuple[str, ...]
    multiple_arms: int | None = None  # units seen in two arms; they are in no sum
    immature: int | None = None  # units whose window was not complete at the cut-off; they are in the sums
    window: timedelta | None = None
    pre_period: timedelta | None = None
    bucket: timedelta | None = None  # width of a day cell
    cut_off: datetime | None = None  # the newest data there is
    currency: str | None = None
    config_versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Collected:
    aggregates: Aggregates
    facts: Facts


class Source(Protocol):
    """Anything that can answer for its units with aggregates."""

    def collect(self, needs: Needs) -> Collected: ...


def moment(microseconds: int) -> datetime:
    """Microseconds since the epoch as an aware time, exact to the microsecond."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def look_twice(query: Callable[[Mapping[Column, float]], list[Cell]]) -> Aggregates:
    """Run the query with no shift; where that lost digits to cancellation, once more around the means it found."""
    first = Aggregates(tuple(query({})))
    shifts = first.better_shifts()
    return first if shifts is None else Aggregates(tuple(query(shifts)), shifts)
