"""Rows that the sink hands to the store, and what makes one of them unfit for its tables.

`EventRow` has the fields of the `Event` message; a row is unfit when the tables, or another SQL engine than
the one in use, would refuse it. It is judged alone, so that one bad row never costs its batch.
"""

from typing import Any, Final

import msgspec

from experiments.attributes import MAX_RECORDED, Attribute, fault
from experiments.kernel import unit_bytes
from experiments.text_rules import text_fault

ENGAGEMENTS: Final = ("impression", "click", "save", "add_to_cart")
ORDER_KINDS: Final = {
    "order": "placed",
    "cancellation": "cancelled",
    "refund": "refunded",
    "chargeback": "charged_back",
}
"""Kinds of message that become rows of the ledger `order_event`, and the ledger's names for them."""

_MAX_KEY_BYTES: Final = 1024  # as for unit ids: what an index of PostgreSQL takes, with room to spare
_INT64: Final = 2**63


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `event_time` is microseconds since the Unix epoch, UTC; `amount_minor` is not negative for
    refunds either. `attributes`, of an exposure only, are those of the unit when it was exposed.
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


def problem(row: EventRow) -> str | None:
    """Why no table can take this row, in a few words; None when one can. Knows nothing of experiments."""
    if isinstance(unit := unit_bytes(row.unit_id), str):
        return f"unit_id: {unit}"
    if not row.event_id:
        return "event_id is empty"
    if len(row.event_id.encode("utf-8", "replace")) > _MAX_KEY_BYTES:
        return f"event_id is longer than {_MAX_KEY_BYTES} bytes"
    if not 0 <= row.event_time < _INT64:
        return f"event_time {row.event_time} is not microseconds since 1970 in 64 bits"
    for name in ("event_id", "experiment", "product_id", "order_id", "currency", "surface", "query"):
        value = getattr(row, name)
        if value is not None and (fault := text_fault(value)):
            return f"{name} {fault}"
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
        if reason := fault(name) or fault(value):
            return f"attribute {ascii(name)[:80]} {reason}"
    return None


def _order_problem(row: EventRow) -> str | None:
    if not row.order_id:
        return f"{row.kind} without order_id"
    if row.amount_minor is None or not 0 <= row.amount_minor < _INT64:  # 0: a voucher paid for all
        return f"{row.kind} needs an amount_minor of 0 or more in 64 bits, got {row.amount_minor}"
    if row.currency is None or not (len(row.currency) == 3 and row.currency.isascii() and row.currency.isupper()):
        return f"currency {row.currency!r} is not an ISO 4217 code such as 'EUR'"
    return None


def exposure_values(row: EventRow, ingested_at: int) -> dict[str, Any]:
    """The row as a row of `exposure`; one set of attributes has one text."""
    return {
        "event_id": row.event_id,
        "experiment": row.experiment,
        "config_version": row.config_version,
        "arm": row.arm,
        "unit_id": row.unit_id,
        "event_time": row.event_time,
        "ingested_at": ingested_at,
        "attributes": msgspec.json.encode(row.attributes or {}, order="sorted").decode("utf-8"),
    }


def engagement_values(row: EventRow, ingested_at: int) -> dict[str, Any]:
    """The row as a row of `event`."""
    return {
        "event_id": row.event_id,
        "kind": row.kind,
        "unit_id": row.unit_id,
        "event_time": row.event_time,
        "product_id": row.product_id,
        "surface": row.surface,
        "query": row.query,
        "ingested_at": ingested_at,
    }


def order_values(row: EventRow, ingested_at: int) -> dict[str, Any]:
    """The row as a row of the signed ledger `order_event`: money that goes back to the shopper is
    negative.
    """
    amount = row.amount_minor or 0
    return {
        "event_id": row.event_id,
        "kind": ORDER_KINDS[row.kind],
        "order_id": row.order_id,
        "unit_id": row.unit_id,
        "event_time": row.event_time,
        "product_id": row.product_id,
        "amount_minor": amount if row.kind == "order" else -amount,
        "currency": row.currency,
        "ingested_at": ingested_at,
    }
