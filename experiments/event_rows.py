"""An event as the store takes it, the rules that it must meet, and the one conversion to a row of SQL.

`EventRow` has the fields of the `Event` message of the topic `events`; `streaming.events.conversion` converts one to
the other. Each row is checked alone, so that one bad row never costs its batch.
"""

from typing import Any, Final

import msgspec
from sqlalchemy import Table

from experiments import tables
from experiments.attributes import MAX_RECORDED, Attribute, value_problem
from experiments.kernel import unit_bytes
from experiments.text_rules import text_problem

ENGAGEMENTS: Final = ("impression", "click", "save", "add_to_cart")
"""Kinds of event that become rows of the table `event`."""

ORDER_KINDS: Final = {
    "order": "placed",
    "cancellation": "cancelled",
    "refund": "refunded",
    "chargeback": "charged_back",
}
"""Kinds of event that become rows of the ledger `order_event`, and the ledger's names for them."""

_MAX_KEY_BYTES: Final = 1024  # as for unit ids: well below the longest key of a PostgreSQL index
_INT64: Final = 2**63


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event.

    Attributes:
        event_id: Unique id of the event; a second event with the same id is a duplicate.
        kind: exposure, or a kind of `ENGAGEMENTS` or `ORDER_KINDS`.
        unit_id: The unit that did it.
        event_time: Time in microseconds since the Unix epoch, UTC.
        experiment: Key of the experiment of an exposure.
        arm: Arm of an exposure.
        config_version: Version of the experiment of an exposure.
        product_id: The product.
        order_id: The order of an order event.
        amount_minor: Amount in minor units of the currency, 0 or more, for refunds too.
        currency: ISO 4217 code of the amount.
        surface: Where it happened: user, image or search.
        query: What the surface was asked with.
        attributes: The unit's recorded attributes at the time of an exposure.
    """

    event_id: str
    kind: str
    unit_id: str
    event_time: int
    experiment: str | None = None
    arm: str | None = None
    config_version: int | None = None
    product_id: str | None = None
    order_id: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    surface: str | None = None
    query: str | None = None
    attributes: dict[str, Attribute] | None = None


def row_problem(row: EventRow) -> str | None:
    """Return why no table can store this row, in a few words; None when one can. Does not check the experiment."""
    if isinstance(reason := unit_bytes(row.unit_id), str):
        return f"unit_id: {reason}"
    if not row.event_id:
        return "event_id is empty"
    if len(row.event_id.encode("utf-8", "replace")) > _MAX_KEY_BYTES:
        return f"event_id is longer than {_MAX_KEY_BYTES} bytes"
    if not 0 <= row.event_time < _INT64:
        return f"event_time {row.event_time} is not microseconds since 1970 in 64 bits"
    for name in ("event_id", "experiment", "product_id", "order_id", "currency", "surface", "query"):
        value = getattr(row, name)
        if value is not None and (problem := text_problem(value)):
            return f"{name} {problem}"
    if row.kind in ENGAGEMENTS:
        return None if row.product_id else f"{row.kind} without product_id"
    if row.kind in ORDER_KINDS:
        return _order_problem(row)
    if row.kind == "exposure":
        if row.attributes and (problem := _attributes_problem(row.attributes)):
            return problem
        complete = row.experiment and row.arm and row.config_version is not None
        return None if complete else "exposure without experiment, arm or config_version"
    return f"kind {row.kind!r} is not known"


def _attributes_problem(attributes: dict[str, Attribute]) -> str | None:
    if len(attributes) > MAX_RECORDED:
        return f"{len(attributes)} attributes; an exposure has at most {MAX_RECORDED}"
    for name, value in attributes.items():
        if problem := value_problem(name) or value_problem(value):
            return f"attribute {ascii(name)[:80]} {problem}"
    return None


def _order_problem(row: EventRow) -> str | None:
    if not row.order_id:
        return f"{row.kind} without order_id"
    if row.amount_minor is None or not 0 <= row.amount_minor < _INT64:  # 0: a voucher paid for everything
        return f"{row.kind} needs an amount_minor of 0 or more in 64 bits, got {row.amount_minor}"
    if row.currency is None or not (len(row.currency) == 3 and row.currency.isascii() and row.currency.isupper()):
        return f"currency {row.currency!r} is not an ISO 4217 code such as 'EUR'"
    return None


def table_row(row: EventRow, ingested_at: int) -> tuple[Table, dict[str, Any]]:
    """Convert an event to a row of its table.

    Args:
        row: An event without a `row_problem`.
        ingested_at: Time of the write in microseconds UTC.

    Returns:
        The table, and the values of its columns. In the ledger `order_event`, money that goes back to the shopper is
        negative. Equal attributes of exposures have the same JSON text.
    """
    common = {
        "event_id": row.event_id,
        "unit_id": row.unit_id,
        "event_time": row.event_time,
        "ingested_at": ingested_at,
    }
    if row.kind == "exposure":
        return tables.exposure, common | {
            "experiment": row.experiment,
            "config_version": row.config_version,
            "arm": row.arm,
            "attributes": msgspec.json.encode(row.attributes or {}, order="sorted").decode("utf-8"),
        }
    if row.kind in ENGAGEMENTS:
        return tables.engagement, common | {
            "kind": row.kind,
            "product_id": row.product_id,
            "surface": row.surface,
            "query": row.query,
        }
    amount = row.amount_minor or 0
    return tables.order_event, common | {
        "kind": ORDER_KINDS[row.kind],
        "order_id": row.order_id,
        "product_id": row.product_id,
        "amount_minor": amount if row.kind == "order" else -amount,
        "currency": row.currency,
    }
