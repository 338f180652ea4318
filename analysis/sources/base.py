"""What every source returns: aggregates, and the facts about the data that a report states."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from analysis.aggregates import Aggregates, Needs
from analysis.currencies import Rates


@dataclass(frozen=True)
class Late:
    """Events that arrived late.

    Attributes:
        rows: Number of late events.
        of: Number of all events.
        threshold: An event is late if it arrives longer than this after it happened.
    """

    rows: int
    of: int
    threshold: timedelta


@dataclass(frozen=True)
class Refunds:
    """Value of the refunds of counted orders, in minor units.

    Attributes:
        counted: Refunds inside the window, which net GMV contains.
        after: Refunds after the window, which net GMV does not contain.
    """

    counted: float
    after: float


@dataclass(frozen=True)
class Facts:
    """What a report says about its data besides the sums. A field is None where the source cannot know.

    Attributes:
        source: Name of the source.
        sql: The statements, as they ran.
        multiple_arms: Units seen in several arms; they are left out.
        immature: Units whose window was not complete at the cut-off; they are counted.
        window: Attribution window.
        pre_period: Time before exposure that the covariates cover.
        bucket: Width of the intervals of time that cells are grouped by.
        cut_off: Time of the newest data.
        currency: Currency of all amounts.
        rates: Rates that amounts in other currencies were converted with.
        config_versions: Versions of the experiment's configuration that were live.
        late_covariates: Units whose covariates extend beyond their first exposure.
        late: Events that arrived late.
        refunds: Refunds inside and after the window.
        segment: What the segments are.
        filters: Conditions that all units satisfy.
    """

    source: str
    sql: tuple[str, ...]
    multiple_arms: int | None = None
    immature: int | None = None
    window: timedelta | None = None
    pre_period: timedelta | None = None
    bucket: timedelta | None = None
    cut_off: datetime | None = None
    currency: str | None = None
    rates: Rates | None = None
    config_versions: tuple[int, ...] = ()
    late_covariates: int | None = None
    late: Late | None = None
    refunds: Refunds | None = None
    segment: str | None = None
    filters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collected:
    """What a source returns.

    Attributes:
        aggregates: Sums and counts by arm, interval of time and segment.
        facts: Facts about the data.
    """

    aggregates: Aggregates
    facts: Facts


class Source(Protocol):
    """Anything that can return aggregates of its units."""

    def collect(self, needs: Needs) -> Collected:
        """Return the aggregates that the metrics need, and facts about the data."""
