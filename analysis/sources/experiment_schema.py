"""The tables of an experiment, and the columns that metrics can name.

All times are BIGINT microseconds since the Unix epoch, UTC.

    first_exposure(experiment, unit_id, arm, first_time)        arm is `__multiple__` once a unit was seen in two arms
    first_exposure_attribute(experiment, unit_id, name, value)  attributes recorded at first exposure, as text
    exposure(experiment, config_version, ...)                   read only for the versions that were live
    event(kind, unit_id, event_time, ingested_at, ...)          impression | click | save | add_to_cart
    order_event(kind, order_id, unit_id, event_time, amount_minor, currency, ingested_at, ...)
                                                                signed ledger: placed > 0; cancelled, refunded,
                                                                charged_back < 0
"""

from sqlalchemy import BigInteger, Integer, String, column, table

from analysis.filters import ColumnTypes

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
FILTERS = ("surface", "query", "product_id")  # columns of events that a metric can filter by
FILTER_TYPES: ColumnTypes = dict.fromkeys(FILTERS, ("text", "a text"))

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
