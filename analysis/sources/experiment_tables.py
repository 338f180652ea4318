"""The source that reads an experiment's own tables, on any SQLAlchemy engine.

All times are BIGINT microseconds since the Unix epoch, UTC.

    first_exposure(experiment, unit_id, arm, first_time)      arm is '__multiple__' once a unit was seen in two arms
    first_exposure_attribute(experiment, unit_id, name, value) what was recorded of a unit then, as text
    exposure(experiment, config_version, ...)                 read only for the versions that were live
    event(kind, unit_id, event_time, ingested_at, ...)        impression | click | save | add_to_cart
    order_event(kind, order_id, unit_id, event_time, amount_minor, currency, ingested_at, ...)
                                                              signed ledger: placed > 0; cancelled, refunded,
                                                              charged_back < 0

What counts for a unit first exposed at f, with attribution window W (or a metric's own, from a to b) and pre-period P:
    in the window      f <= t < f + W, or f + a <= t < f + b
    covariates (_pre)  f - P <= t < f, strictly before exposure
    an order counts where it was *placed*; its net amount is the sum of its ledger within the same window, so that the
    refund of an older order never makes an arm poorer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Engine,
    FromClause,
    Integer,
    Select,
    String,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    null,
    select,
    table,
    union_all,
)
from sqlalchemy.exc import SQLAlchemyError

from analysis.aggregates import Cell, Needs
from analysis.columns import Column, Limits, Window
from analysis.currencies import Rates
from analysis.errors import (
    ArmError,
    DataError,
    MetricError,
    MissingColumnError,
    MissingRateError,
    MixedCurrenciesError,
    SourceError,
)
from analysis.query import Layout, aggregate_select, filter_clause, floor_to, label, read_cells, sql_text
from analysis.sources.base import (
    Collected,
    Facts,
    Late,
    Refunds,
    find_limits,
    find_ranks,
    find_tables,
    look_twice,
    moment,
    snapshot,
)

MULTIPLE = "__multiple__"
KINDS = {
    "impressions": ("impression",),
    "clicks": ("click",),
    "saves": ("save",),
    "add_to_carts": ("add_to_cart",),
    "events": ("impression", "click", "save", "add_to_cart"),
}
LEDGER = ("gmv_net", "gmv_gross", "orders")
ATTRIBUTE = "attribute."
COLUMNS = tuple(name + suffix for name in (*KINDS, *LEDGER) for suffix in ("", "_pre"))
FILTERS = ("surface", "query", "product_id")  # what events can be told apart by

# Widths of a time cell. The finest is taken that cuts the enrolment into no more than MOST_BUCKETS.
BUCKETS = tuple(timedelta(minutes=m) for m in (1, 5, 15, 60, 6 * 60, 24 * 60, 7 * 24 * 60))
MOST_BUCKETS = 48

LATE = timedelta(days=1)
UNKNOWN = "unknown"  # the segment of units that the table of segments does not know

first_exposure = table(
    "first_exposure",
    column("experiment", String),
    column("unit_id", String),
    column("arm", String),
    column("first_time", BigInteger),
)
first_exposure_attribute = table(
    "first_exposure_attribute",
    column("experiment", String),
    column("unit_id", String),
    column("name", String),
    column("value", String),
)
exposure = table("exposure", column("experiment", String), column("config_version", Integer))
event = table(
    "event",
    column("kind", String),
    column("unit_id", String),
    column("event_time", BigInteger),
    column("ingested_at", BigInteger),
    *(column(name, String) for name in FILTERS),
)
order_event = table(
    "order_event",
    column("kind", String),
    column("order_id", String),
    column("unit_id", String),
    column("event_time", BigInteger),
    column("amount_minor", BigInteger),
    column("currency", String),
    column("ingested_at", BigInteger),
)


@dataclass(frozen=True)
class ExperimentTables:
    """Aggregates of one experiment. Its columns are `COLUMNS`: impressions, clicks, saves, add_to_carts, events (all of
    these), orders, gmv_net and gmv_gross (minor units), and each with the suffix `_pre` for the time before exposure;
    `attribute.age` is the number (or 1 and 0 of true and false) that was recorded at first exposure, 0 where none was.

    as_of: the data cut-off; later rows are not read. By default the newest row there is.
    complete_windows_only: leave units out whose window had not ended at the cut-off. Otherwise they are in, and
    counted as immature.
    rates: the table to convert orders in several currencies with; without it they are refused.
    segments: (table, column) of a table with a row per unit_id, for one segment per unit known before exposure; or the
    name of an attribute that was recorded at first exposure.
    late_after: an event that takes longer than this to arrive is late. None when all were loaded afterwards (backfill,
    simulation): then nobody can tell.
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
                raise DataError(f"{name} is {value}, and must be longer than nothing.")
        if self.as_of is not None and self.as_of.tzinfo is None:
            raise DataError(f"as_of is {self.as_of}, without a time zone. Give an aware time, e.g. with tzinfo=UTC.")

    def collect(self, needs: Needs) -> Collected:
        """Aggregates of the experiment's units. ArmError if it has none; MixedCurrenciesError; SourceError."""
        needs |= Needs(frozenset(needs.quantities))
        for quantity in needs.quantities:
            _check_quantity(quantity)
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
        """The aggregate query as SQLAlchemy Core, for any dialect. cut_off: microseconds."""
        layout = self._layout(needs, cut_off)
        return aggregate_select(self._per_unit(needs, cut_off, bucket), layout, shifts or {}, limits)

    def _collect(self, connection: Any, needs: Needs) -> Collected:
        arms = self._arms(connection)
        cut_off = self._cut_off(connection)
        start = min(first for first, _ in arms.values())
        bucket = _bucket(max(last for _, last in arms.values()) - start)
        layout = self._layout(needs, cut_off)
        statements: list[str] = []
        extras: list[dict[str, Any]] = []

        def execute(statement: Select[Any]) -> Sequence[Sequence[Any]]:
            return connection.execute(statement).all()  # type: ignore[no-any-return]

        def look(statement: Select[Any]) -> Sequence[Sequence[Any]]:
            looked.append(sql_text(statement, self.engine.dialect))
            return execute(statement)

        per_unit, looked = self._per_unit(needs, cut_off, bucket), list[str]()
        limits = find_limits(look, per_unit, needs)

        def query(shifts: Mapping[Column, float]) -> list[Cell]:
            statement = aggregate_select(per_unit, layout, shifts, limits)
            statements[:] = [sql_text(statement, self.engine.dialect)]
            cells, extras[:] = read_cells(execute(statement), layout)
            return cells

        aggregates = look_twice(query)
        currencies = {row[key] for row in extras for key in ("currency_first", "currency_last") if row.get(key)}
        self._refuse_mixed(connection, currencies, needs, cut_off)
        ranked = find_ranks(look, per_unit, needs, {arm: aggregates.count(arm) for arm in aggregates.arms})
        tables = find_tables(look, per_unit, needs, limits)
        facts = Facts(
            source=f"Experiment {self.experiment}",
            sql=(*statements, *looked),
            multiple_arms=self._count_multiple(connection),
            immature=sum(int(row["immature"]) for row in extras),
            window=self._longest(needs),
            pre_period=self.pre_period,
            bucket=bucket,
            cut_off=moment(cut_off),
            currency=self.rates.base if self.rates and currencies else next(iter(currencies), None),
            rates=self.rates if currencies else None,
            config_versions=self._versions(connection),
            late=self._late(connection, start, cut_off, self.late_after) if self.late_after else None,
            refunds=self._refunds(connection, needs, cut_off),
            segment=self.segments[1] if isinstance(self.segments, tuple) else self.segments,
        )
        return Collected(replace(aggregates, limits=limits, ranked=ranked, tables=tables), facts)

    def _refuse_mixed(self, connection: Any, found: set[str], needs: Needs, cut_off: int) -> None:
        """Several currencies need rates, and rates have to know them all."""
        if self.rates is None and len(found) > 1:
            raise MixedCurrenciesError(self._currencies(connection, needs, cut_off))
        if self.rates is not None and found:
            known = set(self.rates.currencies)
            unknown = set(self._currencies(connection, needs, cut_off)) - known
            if unknown:
                raise MissingRateError(unknown, known)

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

    def _currencies(self, connection: Any, needs: Needs, cut_off: int) -> list[str]:
        """All currencies of orders that count, in the window or before."""
        units = self._units(needs, cut_off)
        wanted = [q for q in needs.quantities if q.name.removesuffix("_pre") in LEDGER]
        joined = units.join(order_event, self._reach(units, order_event, wanted, cut_off))
        return list(connection.scalars(select(order_event.c.currency).distinct().select_from(joined)))

    def _late(self, connection: Any, start: int, cut_off: int, threshold: timedelta) -> Late:
        """Events and orders since the first exposure that took longer than the threshold to arrive."""
        rows, late = 0, 0
        for source in (event, order_event):
            delayed = source.c.ingested_at - source.c.event_time > _microseconds(threshold)
            counts = select(func.count(), func.sum(case((delayed, 1), else_=0))).select_from(source)
            counted = counts.where(source.c.event_time >= start, source.c.event_time <= cut_off)
            found = connection.execute(counted).one()
            rows, late = rows + int(found[0]), late + int(found[1] or 0)
        return Late(late, rows, threshold)

    def _refunds(self, connection: Any, needs: Needs, cut_off: int) -> Refunds | None:
        """What was taken back of the orders placed in the window: inside the window, and after its end."""
        if not any(q.name == "gmv_net" for q in needs.quantities):
            return None
        units, back = self._units(needs, cut_off), order_event.alias("back")
        end = units.c.first_time + _microseconds(self.window)
        placed = (
            select(units.c.first_time, order_event.c.order_id)
            .select_from(units.join(order_event, order_event.c.unit_id == units.c.unit_id))
            .where(
                order_event.c.kind == "placed",
                order_event.c.event_time >= units.c.first_time,
                order_event.c.event_time < end,
            )
            .distinct()
            .cte("counted_orders")
        )
        end = placed.c.first_time + _microseconds(self.window)
        amount = -self._amount(back)
        statement = (
            select(
                func.sum(case((back.c.event_time < end, amount), else_=0)),
                func.sum(case((back.c.event_time >= end, amount), else_=0)),
            )
            .select_from(placed.join(back, back.c.order_id == placed.c.order_id))
            .where(back.c.kind != "placed", back.c.event_time <= cut_off)
        )
        counted, after = connection.execute(statement).one()
        return Refunds(float(counted or 0), float(after or 0))

    def _amount(self, rows: Any) -> ColumnElement[Any]:
        """Minor units, in the base currency if there are rates."""
        if self.rates is None:
            amount: ColumnElement[Any] = rows.c.amount_minor
            return amount
        rates = self.rates
        factor = case(*((rows.c.currency == name, rates.factor(name)) for name in rates.currencies), else_=0.0)
        return cast(rows.c.amount_minor, Double) * cast(factor, Double)

    def _layout(self, needs: Needs, cut_off: int) -> Layout:
        last_complete = cut_off - _microseconds(self._longest(needs))
        extras: dict[str, ColumnElement[Any]] = {
            "immature": func.sum(case((column("first_time", BigInteger) > last_complete, 1), else_=0))
        }
        passed = ["first_time"]
        if any(q.name.removesuffix("_pre") in LEDGER for q in needs.quantities):
            passed += ["currency_first", "currency_last"]
            extras["currency_first"] = func.min(column("currency_first"))
            extras["currency_last"] = func.max(column("currency_last"))
        keys = ("arm", "day", "segment") if self.segments else ("arm", "day")
        return Layout.of(needs, keys=keys, extras=extras, passed=tuple(passed))

    def _longest(self, needs: Needs) -> timedelta:
        return max([self.window, *(q.window.end for q in needs.quantities if q.window)])

    def _units(self, needs: Needs, cut_off: int) -> FromClause:
        """The units of the report: seen in one arm only, exposed before the cut-off."""
        t = first_exposure.c
        latest = cut_off - _microseconds(self._longest(needs)) if self.complete_windows_only else cut_off
        columns: list[ColumnElement[Any]] = [t.unit_id, t.arm, t.first_time]
        joined: FromClause = first_exposure
        if isinstance(self.segments, str):
            recorded = self._recorded(self.segments)
            joined = joined.outerjoin(recorded, recorded.c.unit_id == t.unit_id)
            columns.append(func.coalesce(recorded.c.value, UNKNOWN).label("segment"))
        elif self.segments:
            name, segment = self.segments
            attributes = table(name, column("unit_id", String), column(segment))
            joined = joined.outerjoin(attributes, attributes.c.unit_id == t.unit_id)
            columns.append(func.coalesce(cast(attributes.c[segment], String), UNKNOWN).label("segment"))
        return (
            select(*columns)
            .select_from(joined)
            .where(t.experiment == self.experiment, t.arm != MULTIPLE, t.first_time <= latest)
            .cte("units")
        )

    def _recorded(self, name: str) -> FromClause:
        """Units and their value of an attribute, as it was at first exposure."""
        t = first_exposure_attribute.c
        chosen = select(t.unit_id, t.value).where(t.experiment == self.experiment, t.name == name)
        return chosen.subquery()

    def _per_unit(self, needs: Needs, cut_off: int, bucket: timedelta) -> FromClause:
        """One row per unit: arm, day and, by `label`, the quantities that are needed, 0 where nothing happened."""
        units = self._units(needs, cut_off)
        joined: FromClause = units
        columns: list[ColumnElement[Any]] = [
            units.c.arm,
            floor_to(units.c.first_time, _microseconds(bucket)).label("day"),
            units.c.first_time,
        ]
        if self.segments:
            columns.append(units.c.segment)
        for group, build in ((tuple(KINDS), self._engagement), (LEDGER, self._ledger)):
            wanted = [q for q in needs.quantities if q.name.removesuffix("_pre") in group]
            if not wanted:
                continue
            part = build(units, wanted, cut_off)
            joined = joined.outerjoin(part, part.c.unit_id == units.c.unit_id)
            columns += [func.coalesce(part.c[label(q)], 0).label(label(q)) for q in wanted]
            columns += [part.c[name] for name in ("currency_first", "currency_last") if name in part.c]
        for quantity in needs.quantities:
            if quantity.name.startswith(ATTRIBUTE):
                recorded = self._recorded(quantity.name.removeprefix(ATTRIBUTE))
                joined = joined.outerjoin(recorded, recorded.c.unit_id == units.c.unit_id)
                columns.append(_number(recorded.c.value).label(label(quantity)))
        return select(*columns).select_from(joined).cte("per_unit")

    def _reach(
        self, units: FromClause, rows: FromClause, quantities: Sequence[Column], cut_off: int
    ) -> ColumnElement[bool]:
        """The join of a unit with its rows, from the pre-period (if it is asked for) to the end of the last window."""
        before = _microseconds(self.pre_period) if any(q.name.endswith("_pre") for q in quantities) else 0
        end = max((self._window(q).end for q in quantities if not q.name.endswith("_pre")), default=timedelta(0))
        first, time = units.c.first_time, rows.c.event_time
        return and_(
            rows.c.unit_id == units.c.unit_id,
            time >= (first - before if before else first),
            time < first + _microseconds(end),
            time <= cut_off,
        )

    def _window(self, quantity: Column) -> Window:
        return quantity.window or Window(timedelta(0), self.window)

    def _engagement(self, units: FromClause, quantities: Sequence[Column], cut_off: int) -> FromClause:
        first, time = units.c.first_time, event.c.event_time
        counts = []
        for quantity in quantities:
            kinds = KINDS[quantity.name.removesuffix("_pre")]
            kind = event.c.kind == kinds[0] if len(kinds) == 1 else event.c.kind.in_(kinds)
            conditions = [kind, *([filter_clause(quantity.where, event.c)] if quantity.where else [])]
            conditions += [time < first] if quantity.name.endswith("_pre") else self._within(quantity, time, first)
            counts.append(func.sum(case((and_(*conditions), 1), else_=0)).label(label(quantity)))
        joined = units.join(event, self._reach(units, event, quantities, cut_off))
        return select(units.c.unit_id, *counts).select_from(joined).group_by(units.c.unit_id).cte("engagement")

    def _within(self, quantity: Column, time: ColumnElement[Any], first: ColumnElement[Any]) -> list[Any]:
        window = self._window(quantity)
        start = first + _microseconds(window.start) if window.start else first
        return [time >= start, time < first + _microseconds(window.end)]

    def _ledger(self, units: FromClause, quantities: Sequence[Column], cut_off: int) -> FromClause:
        """Per unit from per order: an order belongs to a window or to the pre-period by when it was placed."""
        first, time, rows = units.c.first_time, order_event.c.event_time, order_event.c
        placed, amount = rows.kind == "placed", self._amount(order_event)
        counted: list[ColumnElement[Any]] = [func.min(case((placed, time), else_=null())).label("placed_at")]
        for quantity in quantities:
            name = quantity.name.removesuffix("_pre")
            when = [time < first] if quantity.name.endswith("_pre") else self._within(quantity, time, first)
            if name != "orders":
                summed = [*when, placed] if name == "gmv_gross" else when
                counted.append(func.sum(case((and_(*summed), amount), else_=0)).label(label(quantity)))
        joined = units.join(order_event, self._reach(units, order_event, quantities, cut_off))
        per_order = (
            select(
                units.c.unit_id,
                units.c.first_time,
                *counted,
                func.min(rows.currency).label("currency_first"),
                func.max(rows.currency).label("currency_last"),
            )
            .select_from(joined)
            .group_by(units.c.unit_id, units.c.first_time, rows.order_id)
            .cte("per_order")
        )
        o = per_order.c
        sums = []
        for quantity in quantities:
            pre = quantity.name.endswith("_pre")
            belongs = [o.placed_at < o.first_time] if pre else self._within(quantity, o.placed_at, o.first_time)
            value = literal(1) if quantity.name.removesuffix("_pre") == "orders" else o[label(quantity)]
            sums.append(func.sum(case((and_(*belongs), value), else_=0)).label(label(quantity)))
        return (
            select(
                o.unit_id,
                *sums,
                func.min(o.currency_first).label("currency_first"),
                func.max(o.currency_last).label("currency_last"),
            )
            .group_by(o.unit_id)
            .cte("ledger")
        )


def _check_quantity(quantity: Column) -> None:
    """A column that the tables have, filtered by what events have. MissingColumnError, MetricError."""
    if quantity.name.startswith(ATTRIBUTE):
        if quantity.window or quantity.where:
            raise MetricError(f"{quantity}: an attribute has no window and no events to filter.")
        return
    if quantity.name not in COLUMNS:
        raise MissingColumnError(quantity.name, COLUMNS, "The experiment's tables")
    if quantity.window and quantity.name.endswith("_pre"):
        raise MetricError(f"{quantity} has a window after exposure, and {quantity.name} counts what was before it.")
    if quantity.where and quantity.name.removesuffix("_pre") in LEDGER:
        raise MetricError(f"{quantity}: orders cannot be filtered, as nothing says which event led to them.")
    for given in quantity.where:
        if given.column not in FILTERS:
            raise MissingColumnError(given.column, FILTERS, "An event")


def _number(text: ColumnElement[str]) -> ColumnElement[float]:
    """A recorded value as a number; 0 where nothing was recorded."""
    words = [(text == "true", literal(1.0)), (text == "false", literal(0.0)), (text.is_(None), literal(0.0))]
    return case(*words, else_=cast(text, Double))


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _bucket(span: int) -> timedelta:
    """Width of a time cell for an enrolment that took `span` microseconds."""
    return next(
        (width for width in BUCKETS if span <= MOST_BUCKETS * _microseconds(width)),
        BUCKETS[-1],
    )
