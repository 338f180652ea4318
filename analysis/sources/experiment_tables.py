"""The source that reads an experiment's own tables, on any SQLAlchemy engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Select, case, func, inspect, select, union_all
from sqlalchemy.exc import SQLAlchemyError

from analysis.aggregates import Cell, Needs
from analysis.columns import Column, Limits
from analysis.currencies import Rates
from analysis.errors import (
    ArmError,
    DataError,
    MissingColumnError,
    MissingRateError,
    MixedCurrenciesError,
    SourceError,
)
from analysis.query import aggregate_select, read_cells, sql_text
from analysis.sources.base import Collected, Facts, Late, Refunds
from analysis.sources.collection import accurate_aggregates, find_limits, find_ranks, find_tables, snapshot
from analysis.sources.experiment_query import ExperimentQuery, check_quantity
from analysis.sources.experiment_schema import (
    MULTIPLE,
    event,
    exposure,
    first_exposure,
    first_exposure_attribute,
    order_event,
)
from analysis.times import microseconds, since_epoch, to_datetime

# Widths of an interval of time. The finest is used that divides the enrolment into at most MOST_BUCKETS intervals.
BUCKETS = tuple(timedelta(minutes=m) for m in (1, 5, 15, 60, 6 * 60, 24 * 60, 7 * 24 * 60))
MOST_BUCKETS = 48

LATE = timedelta(days=1)


@dataclass(frozen=True)
class ExperimentTables:
    """Aggregates of one experiment.

    Metrics can name these columns: impressions, clicks, saves, add_to_carts, events (all of these), orders, gmv_net and
    gmv_gross (in minor units), and each of them with the suffix `_pre` for the time before exposure. `attribute.age` is
    a number recorded at first exposure (1 and 0 for true and false), and 0 where none was recorded.

    Attributes:
        engine: Engine of the database.
        experiment: Key of the experiment.
        window: Attribution window since first exposure.
        pre_period: Time before first exposure that covariates cover.
        as_of: Data cut-off; later rows are not read. None means the newest row.
        complete_windows_only: Leave out units whose window had not ended at the cut-off. Otherwise they are counted,
            and a check reports how many there are.
        rates: Rates to convert orders in several currencies. Without them, several currencies are refused.
        segments: Table and column of the segments, with one row per unit_id, known before exposure; or the name of an
            attribute recorded at first exposure.
        late_after: An event that takes longer than this to arrive is late. None where all events were loaded later
            (backfill, simulation), so that lateness is unknown.

    Raises:
        DataError: `window` or `pre_period` is not above 0, or `as_of` has no time zone.
    """

    engine: Engine
    experiment: str
    window: timedelta = timedelta(days=14)
    pre_period: timedelta = timedelta(days=28)
    as_of: datetime | None = None
    complete_windows_only: bool = False
    rates: Rates | None = None
    segments: tuple[str, str] | str | None = None
    late_after: timedelta | None = LATE

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("pre_period", self.pre_period)):
            if value <= timedelta(0):
                raise DataError(f"{name} is {value}, and must be longer than 0.")
        if self.as_of is not None and self.as_of.tzinfo is None:
            raise DataError(f"as_of is {self.as_of}, without a time zone. Give an aware time, e.g. with tzinfo=UTC.")

    def collect(self, needs: Needs) -> Collected:
        """Return the aggregates that the metrics need, and facts about the data.

        Raises:
            ArmError: The experiment has no exposures.
            MetricError: A metric names a filter or window that its column cannot have.
            MissingColumnError: A metric names a column that the tables do not have, or there are no such segments.
            MixedCurrenciesError: Amounts are in several currencies without rates for all of them.
            SourceError: The tables cannot be read.
        """
        needs |= Needs(frozenset(needs.quantities))
        for quantity in needs.quantities:
            check_quantity(quantity)
        try:
            with snapshot(self.engine) as connection:
                return self._collect(connection, needs)
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise SourceError(f"The experiment's tables cannot be read: {reason}.") from error

    def statement(
        self,
        needs: Needs,
        cut_off: int,
        bucket: timedelta,
        shifts: Mapping[Column, float] | None = None,
        limits: Mapping[Column, Limits] | None = None,
    ) -> Select[Any]:
        """Return the aggregate query, for any dialect.

        Args:
            needs: What the metrics need.
            cut_off: Data cut-off, in microseconds since the epoch.
            bucket: Width of the intervals of time that units are grouped by.
            shifts: Shift of each column.
            limits: Limits of each capped column.
        """
        return self._query(needs, cut_off, bucket).statement(shifts, limits)

    def _query(self, needs: Needs, cut_off: int, bucket: timedelta) -> ExperimentQuery:
        return ExperimentQuery(
            experiment=self.experiment,
            needs=needs,
            cut_off=cut_off,
            bucket=bucket,
            window=self.window,
            pre_period=self.pre_period,
            complete_windows_only=self.complete_windows_only,
            rates=self.rates,
            segments=self.segments,
        )

    def _collect(self, connection: Connection, needs: Needs) -> Collected:
        first, last = self._enrolment(connection)
        self._check_segments(connection)
        query = self._query(needs, self._cut_off(connection), bucket_for(last - first))
        units, layout = query.per_unit(), query.layout()
        statements: list[str] = []
        lookups: list[str] = []
        extras: list[dict[str, Any]] = []

        def execute(statement: Select[Any]) -> Sequence[Sequence[Any]]:
            lookups.append(sql_text(statement, self.engine.dialect))
            return connection.execute(statement).all()

        limits = find_limits(execute, units, needs)

        def run(shifts: Mapping[Column, float]) -> list[Cell]:
            statement = aggregate_select(units, layout, shifts, limits)
            statements[:] = [sql_text(statement, self.engine.dialect)]
            cells, extras[:] = read_cells(connection.execute(statement).all(), layout)
            return cells

        aggregates = accurate_aggregates(run)
        currencies = {row[key] for row in extras for key in ("currency_first", "currency_last") if row.get(key)}
        self._refuse_mixed_currencies(connection, currencies, query)
        ranked = find_ranks(execute, units, needs, {arm: aggregates.count(arm) for arm in aggregates.arms})
        tables = find_tables(execute, units, needs, limits)
        facts = Facts(
            source=f"Experiment {self.experiment}",
            sql=(*statements, *lookups),
            multiple_arms=self._count_multiple(connection),
            immature=sum(int(row["immature"]) for row in extras),
            window=query.longest_window,
            pre_period=self.pre_period,
            bucket=query.bucket,
            cut_off=to_datetime(query.cut_off),
            currency=self.rates.base if self.rates and currencies else next(iter(currencies), None),
            rates=self.rates if currencies else None,
            config_versions=self._versions(connection),
            late=_late(connection, first, query.cut_off, self.late_after) if self.late_after else None,
            refunds=_refunds(connection, query),
            segment=self.segments[1] if isinstance(self.segments, tuple) else self.segments,
        )
        return Collected(replace(aggregates, limits=limits, ranked=ranked, tables=tables), facts)

    def _refuse_mixed_currencies(self, connection: Connection, currencies: set[str], query: ExperimentQuery) -> None:
        """Refuse several currencies without rates, and a currency that the rates do not contain."""
        if self.rates is None and len(currencies) > 1:
            raise MixedCurrenciesError(connection.scalars(query.currencies()))
        if self.rates is not None and currencies:
            missing = set(connection.scalars(query.currencies())) - set(self.rates.currencies)
            if missing:
                raise MissingRateError(missing, self.rates.currencies)

    def _enrolment(self, connection: Connection) -> tuple[int, int]:
        """Return the times of the first and the last first exposure."""
        t = first_exposure.c
        first, last = connection.execute(
            select(func.min(t.first_time), func.max(t.first_time)).where(
                t.experiment == self.experiment, t.arm != MULTIPLE
            )
        ).one()
        if first is None:
            names = sorted(connection.scalars(select(t.experiment).distinct().limit(20)))
            hint = f"There are: {', '.join(names)}." if names else "No experiment has any yet."
            raise ArmError(f"Experiment {self.experiment!r} has no exposures. {hint}")
        return int(first), int(last)

    def _check_segments(self, connection: Connection) -> None:
        """Refuse an attribute that no unit has, and a table or column that does not exist."""
        if isinstance(self.segments, str):
            t = first_exposure_attribute.c
            names = set(connection.scalars(select(t.name).distinct().where(t.experiment == self.experiment)))
            if self.segments not in names:
                raise MissingColumnError(self.segments, names, f"Experiment {self.experiment!r}", "recorded attribute")
        elif self.segments:
            name, wanted = self.segments
            catalogue = inspect(connection)
            tables = {*catalogue.get_table_names(), *catalogue.get_view_names()}
            if name not in tables:
                raise MissingColumnError(name, tables, "The database", "table")
            columns = {str(found["name"]) for found in catalogue.get_columns(name)}
            for needed in ("unit_id", wanted):
                if needed not in columns:
                    raise MissingColumnError(needed, columns, f"Table {name!r}")

    def _count_multiple(self, connection: Connection) -> int:
        t = first_exposure.c
        counted = select(func.count()).where(t.experiment == self.experiment, t.arm == MULTIPLE)
        return int(connection.scalar(counted) or 0)

    def _cut_off(self, connection: Connection) -> int:
        """Return the data cut-off: the given one, or the time of the newest row."""
        if self.as_of is not None:
            return since_epoch(self.as_of)
        newest = union_all(
            select(func.max(first_exposure.c.first_time).label("t")).where(
                first_exposure.c.experiment == self.experiment
            ),
            select(func.max(event.c.event_time)),
            select(func.max(order_event.c.event_time)),
        ).subquery()
        return int(connection.scalar(select(func.max(newest.c.t))))

    def _versions(self, connection: Connection) -> tuple[int, ...]:
        c = exposure.c
        versions = select(c.config_version).distinct().where(c.experiment == self.experiment)
        return tuple(sorted(connection.scalars(versions)))


def bucket_for(span: int) -> timedelta:
    """Return the width of the intervals of time for an enrolment that took `span` microseconds."""
    return next((width for width in BUCKETS if span <= MOST_BUCKETS * microseconds(width)), BUCKETS[-1])


def _late(connection: Connection, start: int, cut_off: int, threshold: timedelta) -> Late:
    """Count the events and orders since the first exposure, and those that took longer than the threshold to arrive."""
    rows, late = 0, 0
    for source in (event, order_event):
        delayed = source.c.ingested_at - source.c.event_time > microseconds(threshold)
        counts = select(func.count(), func.sum(case((delayed, 1), else_=0))).select_from(source)
        counted, delayed_rows = connection.execute(
            counts.where(source.c.event_time >= start, source.c.event_time <= cut_off)
        ).one()
        rows, late = rows + int(counted), late + int(delayed_rows or 0)
    return Late(late, rows, threshold)


def _refunds(connection: Connection, query: ExperimentQuery) -> Refunds | None:
    """Sum the refunds inside and after the window; None where no metric uses net GMV."""
    if not any(quantity.name == "gmv_net" for quantity in query.needs.quantities):
        return None
    counted, after = connection.execute(query.refunds()).one()
    return Refunds(float(counted or 0), float(after or 0))
