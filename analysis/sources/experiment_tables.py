"""The source that reads an experiment's own tables, on any SQLAlchemy engine.

All times are BIGINT microseconds since the Unix epoch, UTC.

    first_exposure(experiment, unit_id, arm, first_time)      arm is '__multiple__' once a unit was seen in two arms
    exposure(experiment, config_version, ...)                 read only for the versions that were live
    event(kind, unit_id, event_time, ...)                     impression | click | save | add_to_cart
    order_event(kind, order_id, unit_id, event_time, amount_minor, currency, ...)
                                                              signed ledger: placed > 0; cancelled, refunded,
                                                              charged_back < 0

What counts for a unit first exposed at f, with attribution window W and pre-period P:
    in the window      f <= t < f + W
    covariates (_pre)  f - P <= t < f, strictly before exposure
    an order counts where it was *placed*; its net amount is the sum of its ledger within the same window, so that the
    refund of an older order never makes an arm poorer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Engine,
    FromClause,
    Integer,
    Select,
    String,
    and_,
    case,
    column,
    func,
    null,
    select,
    table,
    union_all,
)
from sqlalchemy.exc import SQLAlchemyError

from analysis.aggregates import Cell, Column, Needs
from analysis.errors import ArmError, DataError, MissingColumnError, MixedCurrenciesError, SourceError
from analysis.query import Layout, aggregate_select, floor_to, read_cells, sql_text
from analysis.sources.base import Collected, Facts, look_twice, moment

MULTIPLE = "__multiple__"
KINDS = {"impressions": "impression", "clicks": "click", "saves": "save", "add_to_carts": "add_to_cart"}
LEDGER = ("gmv_net", "gmv_gross", "orders")
COLUMNS = tuple(name + suffix for name in (*KINDS, *LEDGER) for suffix in ("", "_pre"))

# Widths of a time cell. The finest is taken that cuts the enrolment into no more than MOST_BUCKETS.
BUCKETS = tuple(timedelta(minutes=m) for m in (1, 5, 15, 60, 6 * 60, 24 * 60, 7 * 24 * 60))
MOST_BUCKETS = 48

first_exposure = table(
    "first_exposure",
    column("experiment", String),
    column("unit_id", String),
    column("arm", String),
    column("first_time", BigInteger),
)
exposure = table("exposure", column("experiment", String), column("config_version", Integer))
event = table("event", column("kind", String), column("unit_id", String), column("event_time", BigInteger))
order_event = table(
    "order_event",
    column("kind", String),
    column("order_id", String),
    column("unit_id", String),
    column("event_time", BigInteger),
    column("amount_minor", BigInteger),
    column("currency", String),
)


@dataclass(frozen=True)
class ExperimentTables:
    """Aggregates of one experiment. Its columns are `COLUMNS`: impressions, clicks, saves, add_to_carts, orders,
    gmv_net and gmv_gross (minor units), and each with the suffix `_pre` for the time before first exposure.

    as_of: the data cut-off; later rows are not read. By default the newest row there is.
    complete_windows_only: leave units out whose window had not ended at the cut-off. Otherwise they are in, and
    counted as immature.
    """

    engine: Engine
    experiment: str
    window: timedelta = timedelta(days=14)
    pre_period: timedelta = timedelta(days=28)
    as_of: datetime | None = None
    complete_windows_only: bool = False

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("pre_period", self.pre_period)):
            if value <= timedelta(0):
                raise DataError(f"{name} is {value}, and must be longer than nothing.")
        if self.as_of is not None and self.as_of.tzinfo is None:
            raise DataError(f"as_of is {self.as_of}, without a time zone. Give an aware time, e.g. with tzinfo=UTC.")

    def collect(self, needs: Needs) -> Collected:
        """Aggregates of the experiment's units. ArmError if it has none; MixedCurrenciesError; SourceError."""
        for name in sorted({c.name for c in needs.columns}):
            if name not in COLUMNS:
                raise MissingColumnError(name, COLUMNS, "The experiment's tables")
        try:
            with self.engine.connect() as connection:
                return self._collect(connection, needs)
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise SourceError(f"The experiment's tables cannot be read: {reason}.") from error

    def statement(
        self, needs: Needs, cut_off: int, bucket: timedelta, shifts: Mapping[Column, float] | None = None
    ) -> Select[Any]:
        """The aggregate query as SQLAlchemy Core, for any dialect. cut_off: microseconds."""
        layout = self._layout(needs, cut_off)
        return aggregate_select(self._per_unit(needs, cut_off, bucket), layout, shifts or {})

    def _collect(self, connection: Any, needs: Needs) -> Collected:
        arms = self._arms(connection)
        cut_off = self._cut_off(connection)
        start = min(first for first, _ in arms.values())
        bucket = _bucket(max(last for _, last in arms.values()) - start)
        layout = self._layout(needs, cut_off)
        statements: list[str] = []
        extras: list[dict[str, Any]] = []

        def query(shifts: Mapping[Column, float]) -> list[Cell]:
            statement = self.statement(needs, cut_off, bucket, shifts)
            statements[:] = [sql_text(statement, self.engine.dialect)]
            cells, extras[:] = read_cells(connection.execute(statement), layout)
            return cells

        aggregates = look_twice(query)
        currencies = {row[key] for row in extras for key in ("currency_first", "currency_last") if row.get(key)}
        if len(currencies) > 1:
            raise MixedCurrenciesError(self._currencies(connection, cut_off))
        facts = Facts(
            source=f"Experiment {self.experiment}",
            sql=tuple(statements),
            multiple_arms=self._count_multiple(connection),
            immature=sum(int(row["immature"]) for row in extras),
            window=self.window,
            pre_period=self.pre_period,
            bucket=bucket,
            cut_off=moment(cut_off),
            currency=next(iter(currencies), None),
            config_versions=self._versions(connection),
        )
        return Collected(aggregates, facts)

    def _arms(self, connection: Any) -> dict[str, tuple[int, int]]:
        """First and last time of first exposure, by arm."""
        t = first_exposure.c
        rows = connection.execute(
            select(t.arm, func.min(t.first_time), func.max(t.first_time))
            .where(t.experiment == self.experiment, t.arm != MULTIPLE)
            .group_by(t.arm)
        ).all()
        if not rows:
            known = sorted(connection.scalars(select(t.experiment).distinct().limit(20)))
            there = f"There are: {', '.join(known)}." if known else "No experiment has any yet."
            raise ArmError(f"Experiment {self.experiment!r} has no exposures. {there}")
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}

    def _count_multiple(self, connection: Any) -> int:
        t = first_exposure.c
        return int(connection.scalar(select(func.count()).where(t.experiment == self.experiment, t.arm == MULTIPLE)))

    def _cut_off(self, connection: Any) -> int:
        if self.as_of is not None:
            return _microseconds(self.as_of - moment(0))
        newest = union_all(
            select(func.max(first_exposure.c.first_time).label("t")).where(
                first_exposure.c.experiment == self.experiment
            ),
            select(func.max(event.c.event_time)),
            select(func.max(order_event.c.event_time)),
        ).subquery()
        return int(connection.scalar(select(func.max(newest.c.t))))

    def _versions(self, connection: Any) -> tuple[int, ...]:
        c = exposure.c
        return tuple(
            sorted(connection.scalars(select(c.config_version).distinct().where(c.experiment == self.experiment)))
        )

    def _currencies(self, connection: Any, cut_off: int) -> list[str]:
        units = self._units(cut_off)
        joined = units.join(order_event, order_event.c.unit_id == units.c.unit_id)
        return list(connection.scalars(select(order_event.c.currency).distinct().select_from(joined)))

    def _layout(self, needs: Needs, cut_off: int) -> Layout:
        last_complete = cut_off - _microseconds(self.window)
        extras: dict[str, ColumnElement[Any]] = {
            "immature": func.sum(case((column("first_time", BigInteger) > last_complete, 1), else_=0))
        }
        passed = ["first_time"]
        if any(c.name.removesuffix("_pre") in LEDGER for c in needs.columns):
            passed += ["currency_first", "currency_last"]
            extras["currency_first"] = func.min(column("currency_first"))
            extras["currency_last"] = func.max(column("currency_last"))
        return Layout.of(needs, keys=("arm", "day"), extras=extras, passed=tuple(passed))

    def _units(self, cut_off: int) -> FromClause:
        """The units of the report: seen in one arm only, exposed before the cut-off."""
        t = first_exposure.c
        latest = cut_off - _microseconds(self.window) if self.complete_windows_only else cut_off
        return (
            select(t.unit_id, t.arm, t.first_time)
            .where(t.experiment == self.experiment, t.arm != MULTIPLE, t.first_time <= latest)
            .cte("units")
        )

    def _per_unit(self, needs: Needs, cut_off: int, bucket: timedelta) -> FromClause:
        """One row per unit: arm, day and the columns that are needed, 0 where nothing happened."""
        names = sorted({c.name for c in needs.columns})
        units = self._units(cut_off)
        joined: FromClause = units
        columns: list[ColumnElement[Any]] = [
            units.c.arm,
            floor_to(units.c.first_time, _microseconds(bucket)).label("day"),
            units.c.first_time,
        ]
        for group, build in ((tuple(KINDS), self._engagement), (LEDGER, self._ledger)):
            wanted = [name for name in names if name.removesuffix("_pre") in group]
            if not wanted:
                continue
            part = build(units, wanted, cut_off)
            joined = joined.outerjoin(part, part.c.unit_id == units.c.unit_id)
            columns += [func.coalesce(part.c[name], 0).label(name) for name in wanted]
            columns += [part.c[name] for name in ("currency_first", "currency_last") if name in part.c]
        return select(*columns).select_from(joined).cte("per_unit")

    def _reach(self, units: FromClause, rows: FromClause, names: list[str], cut_off: int) -> ColumnElement[bool]:
        """The join of a unit with its rows, from the pre-period (if it is asked for) to the end of the window."""
        before = _microseconds(self.pre_period) if any(name.endswith("_pre") for name in names) else 0
        first, time = units.c.first_time, rows.c.event_time
        return and_(
            rows.c.unit_id == units.c.unit_id,
            time >= (first - before if before else first),
            time < first + _microseconds(self.window),
            time <= cut_off,
        )

    def _engagement(self, units: FromClause, names: list[str], cut_off: int) -> FromClause:
        first, time = units.c.first_time, event.c.event_time
        counts = []
        for name in names:
            kind = event.c.kind == KINDS[name.removesuffix("_pre")]
            when = time < first if name.endswith("_pre") else time >= first
            counts.append(func.sum(case((and_(kind, when), 1), else_=0)).label(name))
        joined = units.join(event, self._reach(units, event, names, cut_off))
        return select(units.c.unit_id, *counts).select_from(joined).group_by(units.c.unit_id).cte("engagement")

    def _ledger(self, units: FromClause, names: list[str], cut_off: int) -> FromClause:
        """Per unit from per order: an order belongs to the window or to the pre-period by when it was placed."""
        first, time, rows = units.c.first_time, order_event.c.event_time, order_event.c
        placed = rows.kind == "placed"
        joined = units.join(order_event, self._reach(units, order_event, names, cut_off))
        per_order = (
            select(
                units.c.unit_id,
                units.c.first_time,
                func.min(case((placed, time), else_=null())).label("placed_at"),
                func.sum(case((and_(placed, time >= first), rows.amount_minor), else_=0)).label("gross"),
                func.sum(case((time >= first, rows.amount_minor), else_=0)).label("net"),
                func.sum(case((and_(placed, time < first), rows.amount_minor), else_=0)).label("gross_pre"),
                func.sum(case((time < first, rows.amount_minor), else_=0)).label("net_pre"),
                func.min(rows.currency).label("currency_first"),
                func.max(rows.currency).label("currency_last"),
            )
            .select_from(joined)
            .group_by(units.c.unit_id, units.c.first_time, rows.order_id)
            .cte("per_order")
        )
        o = per_order.c
        within, before = o.placed_at >= o.first_time, o.placed_at < o.first_time
        sums: dict[str, ColumnElement[Any]] = {
            "gmv_net": func.sum(case((within, o.net), else_=0)),
            "gmv_gross": func.sum(case((within, o.gross), else_=0)),
            "orders": func.sum(case((within, 1), else_=0)),
            "gmv_net_pre": func.sum(case((before, o.net_pre), else_=0)),
            "gmv_gross_pre": func.sum(case((before, o.gross_pre), else_=0)),
            "orders_pre": func.sum(case((before, 1), else_=0)),
        }
        return (
            select(
                o.unit_id,
                *(sums[name].label(name) for name in names),
                func.min(o.currency_first).label("currency_first"),
                func.max(o.currency_last).label("currency_last"),
            )
            .group_by(o.unit_id)
            .cte("ledger")
        )


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _bucket(span: int) -> timedelta:
    """Width of a time cell for an enrolment that took `span` microseconds."""
    return next(
        (width for width in BUCKETS if span <= MOST_BUCKETS * _microseconds(width)),
        BUCKETS[-1],
    )
