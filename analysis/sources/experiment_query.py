"""The aggregate query over an experiment's tables, as SQLAlchemy statements. Nothing here runs a statement.

What counts for a unit first exposed at f, with attribution window W (or a metric's own, from a to b) and pre-period P:

    in the window      f <= t < f + W, or f + a <= t < f + b
    covariates (_pre)  f - P <= t < f, strictly before exposure

An order counts where it was *placed*. Its net amount is the sum of its ledger within the same window, so that the
refund of an older order never makes an arm poorer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    FromClause,
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
)

from analysis.aggregates import Needs
from analysis.columns import Column, Limits, Window
from analysis.currencies import Rates
from analysis.errors import MetricError, MissingColumnError
from analysis.filters import filter_clause
from analysis.query import UNKNOWN, Layout, aggregate_select, floor_to, label
from analysis.sources.experiment_schema import (
    ATTRIBUTE,
    COLUMNS,
    FILTER_TYPES,
    FILTERS,
    KINDS,
    LEDGER,
    MULTIPLE,
    event,
    first_exposure,
    first_exposure_attribute,
    order_event,
)
from analysis.times import microseconds


@dataclass(frozen=True, kw_only=True)
class ExperimentQuery:
    """The query of one collection.

    Attributes:
        experiment: Key of the experiment.
        needs: What the metrics need.
        cut_off: Data cut-off, in microseconds since the epoch; later rows are not read.
        bucket: Width of the intervals of time that units are grouped by.
        window: Attribution window.
        pre_period: Time before exposure that covariates cover.
        complete_windows_only: Whether to leave out units whose window had not ended at the cut-off.
        rates: Rates to convert amounts with.
        segments: Table and column of the segments, or the name of a recorded attribute.
    """

    experiment: str
    needs: Needs
    cut_off: int
    bucket: timedelta
    window: timedelta
    pre_period: timedelta
    complete_windows_only: bool = False
    rates: Rates | None = None
    segments: tuple[str, str] | str | None = None

    @property
    def longest_window(self) -> timedelta:
        """End of the longest window of all metrics, since exposure."""
        return max([self.window, *(q.window.end for q in self.needs.quantities if q.window)])

    def statement(
        self, shifts: Mapping[Column, float] | None = None, limits: Mapping[Column, Limits] | None = None
    ) -> Select[Any]:
        """Return the aggregate query.

        Args:
            shifts: Shift of each column.
            limits: Limits of each capped column.
        """
        return aggregate_select(self.per_unit(), self.layout(), shifts or {}, limits)

    def layout(self) -> Layout:
        """Return what the aggregate query lists."""
        last_complete = self.cut_off - microseconds(self.longest_window)
        extras: dict[str, ColumnElement[Any]] = {
            "immature": func.sum(case((column("first_time", BigInteger) > last_complete, 1), else_=0))
        }
        passed = ["first_time"]
        if self._amounts():
            passed += ["currency_first", "currency_last"]
            extras["currency_first"] = func.min(column("currency_first"))
            extras["currency_last"] = func.max(column("currency_last"))
        keys = ("arm", "day", "segment") if self.segments else ("arm", "day")
        return Layout.of(self.needs, keys=keys, extras=extras, passed=tuple(passed))

    def per_unit(self) -> FromClause:
        """Select one row per unit: keys, first exposure and, by `label`, the quantities, 0 where nothing happened."""
        units = self._units()
        joined: FromClause = units
        columns: list[ColumnElement[Any]] = [
            units.c.arm,
            floor_to(units.c.first_time, microseconds(self.bucket)).label("day"),
            units.c.first_time,
        ]
        if self.segments:
            columns.append(units.c.segment)
        for names, build in ((tuple(KINDS), self._engagement), (LEDGER, self._ledger)):
            quantities = [q for q in self.needs.quantities if _without_pre(q) in names]
            if not quantities:
                continue
            part = build(units, quantities)
            joined = joined.outerjoin(part, part.c.unit_id == units.c.unit_id)
            columns += [func.coalesce(part.c[label(q)], 0).label(label(q)) for q in quantities]
            columns += [part.c[name] for name in ("currency_first", "currency_last") if name in part.c]
        for quantity in self.needs.quantities:
            if quantity.name.startswith(ATTRIBUTE):
                recorded = self._recorded(quantity.name.removeprefix(ATTRIBUTE))
                joined = joined.outerjoin(recorded, recorded.c.unit_id == units.c.unit_id)
                columns.append(_number(recorded.c.value).label(label(quantity)))
        return select(*columns).select_from(joined).cte("per_unit")

    def currencies(self) -> Select[Any]:
        """Select all currencies of the orders that count, in the window or before exposure."""
        units = self._units()
        joined = units.join(order_event, self._reach(units, order_event, self._amounts()))
        return select(order_event.c.currency).distinct().select_from(joined)

    def refunds(self) -> Select[Any]:
        """Select the refunds of the orders placed in the window: inside the window, and after its end."""
        units, back = self._units(), order_event.alias("back")
        end = units.c.first_time + microseconds(self.window)
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
        end = placed.c.first_time + microseconds(self.window)
        amount = -self._amount(back)
        return (
            select(
                func.sum(case((back.c.event_time < end, amount), else_=0)),
                func.sum(case((back.c.event_time >= end, amount), else_=0)),
            )
            .select_from(placed.join(back, back.c.order_id == placed.c.order_id))
            .where(back.c.kind != "placed", back.c.event_time <= self.cut_off)
        )

    def _amounts(self) -> list[Column]:
        """Return the quantities that come from orders."""
        return [q for q in self.needs.quantities if _without_pre(q) in LEDGER]

    def _units(self) -> FromClause:
        """Select the units of the report: seen in one arm only, exposed before the cut-off."""
        t = first_exposure.c
        latest = self.cut_off - microseconds(self.longest_window) if self.complete_windows_only else self.cut_off
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
        """Select the units and their value of an attribute, as recorded at first exposure."""
        t = first_exposure_attribute.c
        return select(t.unit_id, t.value).where(t.experiment == self.experiment, t.name == name).subquery()

    def _reach(self, units: FromClause, rows: FromClause, quantities: Sequence[Column]) -> ColumnElement[bool]:
        """Join a unit with its rows, from the pre-period (if a covariate needs it) to the end of the last window."""
        before = microseconds(self.pre_period) if any(_is_pre(q) for q in quantities) else 0
        end = max((self._window(q).end for q in quantities if not _is_pre(q)), default=timedelta(0))
        first, time = units.c.first_time, rows.c.event_time
        return and_(
            rows.c.unit_id == units.c.unit_id,
            time >= (first - before if before else first),
            time < first + microseconds(end),
            time <= self.cut_off,
        )

    def _window(self, quantity: Column) -> Window:
        return quantity.window or Window(timedelta(0), self.window)

    def _within(self, quantity: Column, time: ColumnElement[Any], first: ColumnElement[Any]) -> list[Any]:
        """Return the conditions for a time to count: before exposure for a covariate, else in the window."""
        if _is_pre(quantity):
            return [time < first]
        window = self._window(quantity)
        start = first + microseconds(window.start) if window.start else first
        return [time >= start, time < first + microseconds(window.end)]

    def _engagement(self, units: FromClause, quantities: Sequence[Column]) -> FromClause:
        """Count a unit's events."""
        first, time = units.c.first_time, event.c.event_time
        counts = []
        for quantity in quantities:
            kinds = KINDS[_without_pre(quantity)]
            kind = event.c.kind == kinds[0] if len(kinds) == 1 else event.c.kind.in_(kinds)
            conditions = [kind, *([filter_clause(quantity.where, event.c, FILTER_TYPES)] if quantity.where else [])]
            conditions += self._within(quantity, time, first)
            counts.append(func.sum(case((and_(*conditions), 1), else_=0)).label(label(quantity)))
        joined = units.join(event, self._reach(units, event, quantities))
        return select(units.c.unit_id, *counts).select_from(joined).group_by(units.c.unit_id).cte("engagement")

    def _ledger(self, units: FromClause, quantities: Sequence[Column]) -> FromClause:
        """Sum a unit's orders. An order belongs to the window, or to the pre-period, in which it was placed."""
        orders = self._per_order(units, quantities)
        o = orders.c
        sums = []
        for quantity in quantities:
            belongs = self._within(quantity, o.placed_at, o.first_time)
            value = literal(1) if _without_pre(quantity) == "orders" else o[label(quantity)]
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

    def _per_order(self, units: FromClause, quantities: Sequence[Column]) -> FromClause:
        """Select one row per order of a unit: when it was placed, and its amounts in each window."""
        first, time, rows = units.c.first_time, order_event.c.event_time, order_event.c
        placed, amount = rows.kind == "placed", self._amount(order_event)
        columns: list[ColumnElement[Any]] = [func.min(case((placed, time), else_=null())).label("placed_at")]
        for quantity in quantities:
            name, when = _without_pre(quantity), self._within(quantity, time, first)
            if name != "orders":
                summed = [*when, placed] if name == "gmv_gross" else when
                columns.append(func.sum(case((and_(*summed), amount), else_=0)).label(label(quantity)))
        joined = units.join(order_event, self._reach(units, order_event, quantities))
        return (
            select(
                units.c.unit_id,
                units.c.first_time,
                *columns,
                func.min(rows.currency).label("currency_first"),
                func.max(rows.currency).label("currency_last"),
            )
            .select_from(joined)
            .group_by(units.c.unit_id, units.c.first_time, rows.order_id)
            .cte("per_order")
        )

    def _amount(self, rows: Any) -> ColumnElement[Any]:
        """Return the amount in minor units, in the base currency if there are rates."""
        if self.rates is None:
            amount: ColumnElement[Any] = rows.c.amount_minor
            return amount
        rates = self.rates
        factor = case(*((rows.c.currency == name, rates.factor(name)) for name in rates.currencies), else_=0.0)
        return cast(rows.c.amount_minor, Double) * cast(factor, Double)


def check_quantity(quantity: Column) -> None:
    """Check that the tables have a column, and that its filters and window apply.

    Raises:
        MetricError: The column cannot have this filter or window.
        MissingColumnError: The tables have no such column, or events have no such filter.
    """
    if quantity.name.startswith(ATTRIBUTE):
        if quantity.window or quantity.where:
            raise MetricError(f"{quantity}: an attribute has no window and no filters. Remove them: it has no events.")
        return
    if quantity.name not in COLUMNS:
        raise MissingColumnError(quantity.name, COLUMNS, "The experiment's tables")
    if quantity.window and _is_pre(quantity):
        raise MetricError(f"{quantity} has a window after exposure, but {quantity.name} counts the time before it.")
    if quantity.where and _without_pre(quantity) in LEDGER:
        raise MetricError(f"{quantity}: orders cannot be filtered, because no order names the event that led to it.")
    for condition in quantity.where:
        if condition.column not in FILTERS:
            raise MissingColumnError(condition.column, FILTERS, "An event")


def _is_pre(quantity: Column) -> bool:
    return quantity.name.endswith("_pre")


def _without_pre(quantity: Column) -> str:
    return quantity.name.removesuffix("_pre")


def _number(text: ColumnElement[str]) -> ColumnElement[float]:
    """Return a recorded value as a number; 0 where nothing was recorded."""
    words = [(text == "true", literal(1.0)), (text == "false", literal(0.0)), (text.is_(None), literal(0.0))]
    return case(*words, else_=cast(text, Double))
