"""Counts of shoppers' engagements after each query, from the stored events: the training log of a recommender.

An order has no query. It is credited to the unit's last click on the same product before the order.
"""

from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Engine, Select, and_, func, literal, select, true, union_all

from experiments.tables import engagement, order_event


class EngagementCount(msgspec.Struct, frozen=True):
    """Engagements of one kind with a product after a query.

    Attributes:
        surface: Where the query was asked.
        query: What was asked.
        product_id: The product.
        action: What the shoppers did.
        count: How often.
    """

    surface: Literal["user", "image", "search"]
    query: str
    product_id: str
    action: Literal["click", "save", "add_to_cart", "checkout"]
    count: int


def engagement_counts(engine: Engine, until_us: int | None = None) -> list[EngagementCount]:
    """Count the engagements that have a surface and a query. No user-level row leaves the database.

    Args:
        engine: Engine of the database.
        until_us: Time in microseconds UTC: count only events that had happened and had arrived by then. None: all.

    Returns:
        The counts, sorted by all fields but the count.
    """
    counted = union_all(_engagements(until_us), _checkouts(until_us)).subquery()
    keys = (counted.c.surface, counted.c.query, counted.c.product_id, counted.c.action)
    statement = select(*keys, func.count()).group_by(*keys).order_by(*keys)
    with engine.connect() as connection:
        return [EngagementCount(*row) for row in connection.execute(statement)]


def _had_arrived(table: Any, until_us: int | None) -> ColumnElement[bool]:
    """Return the condition that a row (of the columns `table`) had happened and had arrived."""
    return true() if until_us is None else and_(table.event_time <= until_us, table.ingested_at <= until_us)


def _engagements(until_us: int | None) -> Select[tuple[str, str, str, str]]:
    table = engagement.c
    return select(table.surface, table.query, table.product_id, table.kind.label("action")).where(
        table.kind.in_(("click", "save", "add_to_cart")),
        table.surface.is_not(None),
        table.query.is_not(None),
        _had_arrived(table, until_us),
    )


def _checkouts(until_us: int | None) -> Select[tuple[str, str, str, str]]:
    order, click = order_event.c, engagement.alias("click").c
    last = (
        select(click.event_id)
        .where(
            click.kind == "click",
            click.unit_id == order.unit_id,
            click.product_id == order.product_id,
            click.event_time <= order.event_time,
            _had_arrived(click, until_us),
        )
        .order_by(click.event_time.desc(), click.event_id)
        .limit(1)
        .correlate(order_event)
        .scalar_subquery()
    )
    source = engagement.alias("source")
    return (
        select(source.c.surface, source.c.query, source.c.product_id, literal("checkout").label("action"))
        .select_from(order_event)
        .join(source, source.c.event_id == last)
        .where(
            order.kind == "placed",
            source.c.surface.is_not(None),
            source.c.query.is_not(None),
            _had_arrived(order, until_us),
        )
    )
