"""The messages on Kafka and the headers of their records: typed, and validated after decoding.

    Topic                Message          Key
    catalog.updates      ProductUpdate    product id   (keeps the updates of one product in order)
    product.embeddings   ProductVector    <model version>/<product id>   (compacted; a null value deletes)
    product.offers       ProductOffer     product id   (compacted; a null value deletes)
    events               Event            unit id
    <topic>.dlq          original bytes   original key, with `DeadLetterHeaders`

Messages are JSON by default: every language can read it, and compression of batches (lz4) keeps it small. A vector is
base64 of little-endian float16, which decodes six times faster than JSON numbers. `SCHEMA_HEADER` carries the
version of the contract. A decoder drops and counts fields that the contract does not name, so that producers can be
upgraded before their readers (`streaming.kafka.codec`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from feature_repo.rows import EMBEDDING_DIM as VECTOR_DIM
from feature_repo.rows import MAX_IMAGES
from feature_repo.times import EPOCH
from streaming.currency import DECIMALS, shown, to_minor
from streaming.errors import ContractError

SCHEMA_HEADER = "sagelift-schema"
"""Header of every record: the version of its contract."""
SCHEMA_VERSION = b"1"
VERSION_HEADER = "sagelift-version"
"""Header of a tombstone on a compacted topic: the product version of the deletion, in decimal digits."""
ERROR_HEADERS = "__connect.errors."
"""Prefix of a dead letter's headers about the failure. Kafka Connect uses the same prefix."""
KEPT_ERROR_HEADERS = ("attempts", "first.time")
"""Error headers, without the prefix, that a replayed message keeps, so that its next failure continues the count."""
TRUNCATED_HEADER = "sagelift-truncated-from"
"""Header of a dead letter whose value was cut: the original size in bytes. The source topic holds the whole value."""

MAX_MESSAGE_BYTES = 1_000_000
# A version or an event time further ahead comes from a broken clock or a wrong unit, and would block later updates.
MAX_AHEAD = timedelta(days=1)

# `$` would accept a newline at the end.
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+(?![\s\S])"
ProductId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_NO_CONTROLS)]
UnitId = Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_CONTROLS)]
Version = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Instant = Annotated[datetime, Meta(tz=True)]
Short = Annotated[str, Meta(max_length=1_000)]
Url = Annotated[str, Meta(max_length=2_000)]
Digits = Annotated[str, Meta(pattern=r"^[0-9]+$")]


class Price(Struct, frozen=True, gc=False):
    """The price of a product: `amount` in major units as a decimal, `currency` as an ISO 4217 code."""

    amount: Decimal
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]

    @property
    def amount_minor(self) -> int:
        """The amount in minor units (cents)."""
        return to_minor(self.amount, self.currency)


Availability = Literal["in_stock", "out_of_stock", "preorder", "backorder"]


class ProductUpdate(
    Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """One change of one product, with the attributes of a Google Merchant Center product.

    `version` grows with each change of a product: a sequence number of the source, or the event time in microseconds.
    `upsert` states the whole product, `patch` only what changed (an omitted field keeps its value), `delete` removes
    the product. An attribute that is null or "" is empty. `refresh_images` states that the images have changed although
    their links have not; without it, the consumer does not fetch a link twice.
    """

    id: ProductId
    version: Version
    event_time: Instant
    op: Literal["upsert", "patch", "delete"] = "upsert"
    title: Annotated[str, Meta(max_length=1_000)] | None | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=50_000)] | None | UnsetType = UNSET
    link: Url | None | UnsetType = UNSET
    image_link: Url | None | UnsetType = UNSET
    additional_image_link: Annotated[list[Url], Meta(max_length=MAX_IMAGES - 1)] | None | UnsetType = UNSET
    google_product_category: Short | None | UnsetType = UNSET
    product_type: Annotated[list[Short], Meta(max_length=10)] | None | UnsetType = UNSET
    brand: Short | None | UnsetType = UNSET
    color: Short | None | UnsetType = UNSET
    material: Short | None | UnsetType = UNSET
    pattern: Short | None | UnsetType = UNSET
    size: Short | None | UnsetType = UNSET
    size_type: Short | None | UnsetType = UNSET
    price: Price | None | UnsetType = UNSET
    availability: Availability | None | UnsetType = UNSET
    refresh_images: bool = False


ATTRIBUTES: tuple[str, ...] = tuple(
    f for f in ProductUpdate.__struct_fields__ if f not in ("id", "version", "event_time", "op", "refresh_images")
)
_NAMES_OF_TEXTS = tuple(name for name in ATTRIBUTES if name not in ("price", "availability"))  # or lists of texts
_texts_of = attrgetter(*_NAMES_OF_TEXTS)
_NO_TEXTS = (UNSET,) * len(_NAMES_OF_TEXTS)


class ProductVector(Struct, frozen=True, kw_only=True, gc=False):
    """The embedding of a product under one model version, as published on `product.embeddings`.

    `vector` is base64 of 256 little-endian float16, unit length. `content_hash` covers the inputs of the model.
    `source_time` is the broker's timestamp of the update that caused the message, in milliseconds since the epoch;
    with it every reader can measure freshness.
    """

    id: ProductId
    version: Version
    model_version: Short
    content_hash: Short
    vector: str
    source_time: int

    @staticmethod
    def pack(vector: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> str:
        """Encode `[256]` floats as the `vector` field."""
        return base64.b64encode(vector.astype("<f2").tobytes()).decode("ascii")

    def unpack(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the vector as `[256]` float32.

        Raises:
            ContractError: The field is not base64 of 256 float16.
        """
        try:
            raw = base64.b64decode(self.vector, validate=True)
        except ValueError:
            raise ContractError("vector", "must be base64") from None
        if len(raw) != 2 * VECTOR_DIM:
            raise ContractError("vector", f"must be {VECTOR_DIM} float16, has {len(raw)} bytes")
        return np.frombuffer(raw, "<f2").astype(np.float32)


class ProductOffer(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The filter attributes of a product, as published on `product.offers`.

    `amount_minor` is in minor units (cents). `product_type` is a path such as "Home > Lighting > Lamps".
    `source_time` is the broker's timestamp of the update that caused the message, in milliseconds since the epoch.
    """

    id: ProductId
    version: Version
    amount_minor: int | None = None
    currency: str | None = None
    product_type: str = ""
    availability: str | None = None
    source_time: int


EventKind = Literal[
    "exposure", "impression", "click", "save", "add_to_cart", "order", "cancellation", "refund", "chargeback"
]
Surface = Literal["user", "image", "search"]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True, forbid_unknown_fields=True):
    """One event in the shop. `event_id` is deterministic, so that a retry does not add a second event.

    `query` is the request to the surface: the text of a search, the product id of an image query. `attributes` are
    the unit's attributes that the experiment of an exposure records, with their values at the time of the exposure.
    """

    event_id: Annotated[str, Meta(min_length=1, max_length=128)]
    kind: EventKind
    unit_id: UnitId
    event_time: Instant
    experiment: Short | None = None
    arm: Short | None = None
    config_version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    product_id: ProductId | None = None
    order_id: Short | None = None
    amount_minor: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] | None = None
    surface: Surface | None = None
    query: Annotated[str, Meta(max_length=2_000)] | None = None
    attributes: Annotated[dict[str, str | int | float | bool], Meta(max_length=20)] | None = None


REQUIRED_BY_KIND: dict[str, tuple[str, ...]] = {
    "exposure": ("experiment", "arm", "config_version"),
    "impression": ("product_id", "surface"),
    "click": ("product_id", "surface"),
    "save": ("product_id", "surface"),
    "add_to_cart": ("product_id", "surface"),
    "order": ("order_id", "amount_minor", "currency"),
    "cancellation": ("order_id", "amount_minor", "currency"),
    "refund": ("order_id", "amount_minor", "currency"),
    "chargeback": ("order_id", "amount_minor", "currency"),
}

Message = ProductUpdate | ProductVector | ProductOffer | Event
"""A message of any topic."""
MESSAGES: tuple[type[Message], ...] = (ProductUpdate, ProductVector, ProductOffer, Event)


class DeadLetterHeaders(Struct, rename=lambda name: ERROR_HEADERS + name.replace("_", ".")):
    """Headers of a record on `<topic>.dlq`, as UTF-8 text; its key, value and other headers are the original's.

    They give the failed record's place, the consumer group, the stage, the error, the number of attempts and the times.
    """

    topic: str
    partition: Digits
    offset: Digits
    consumer_group: str
    stage: str
    exception_class_name: str
    exception_message: Annotated[str, Meta(max_length=1_000)]
    attempts: Digits
    time: str
    first_time: str
    truncated_from: Digits | UnsetType = msgspec.field(default=UNSET, name=TRUNCATED_HEADER)


def check_update(update: ProductUpdate, *, now: datetime) -> None:
    """Check the rules of an update that its types cannot express.

    Args:
        update: A decoded update.
        now: The present time, aware.

    Raises:
        ContractError: The update breaks a rule; the error names the field and the rule.
    """
    _check_time(update.event_time, now)
    if update.version > (now + MAX_AHEAD).timestamp() * 1e6:
        raise ContractError(
            "version",
            f"{update.version} lies in the far future: use a sequence number or the event time in microseconds",
        )
    _check_texts(update)
    if isinstance(update.price, Price):
        _check_price(update.price)
    if update.op == "upsert" and not update.title:
        raise ContractError("title", "an upsert states the whole product and needs a title; use op 'patch' otherwise")


def check_event(event: Event, *, now: datetime) -> None:
    """Check the rules of an event that its types cannot express.

    Args:
        event: A decoded event.
        now: The present time, aware.

    Raises:
        ContractError: The event breaks a rule; the error names the field and the rule.
    """
    for name in REQUIRED_BY_KIND[event.kind]:
        if getattr(event, name) is None:
            raise ContractError(name, f"is required for kind {event.kind!r}")
    if event.currency is not None and event.currency not in DECIMALS:
        raise ContractError("currency", f"{event.currency!r} is not an active ISO 4217 code")
    _check_time(event.event_time, now)


def _check_texts(update: ProductUpdate) -> None:
    values = _texts_of(update)
    if values == _NO_TEXTS:  # an update of price and availability: most updates, so this must be quick
        return
    if "\x00" in "".join(["".join(value) if type(value) is list else value for value in values if value]):
        name = next(
            name for name, value in zip(_NAMES_OF_TEXTS, values, strict=True) if value and "\x00" in "".join(value)
        )
        raise ContractError(name, "contains a NUL character; remove it at the source")


def _check_time(at: datetime, now: datetime) -> None:
    if at > now + MAX_AHEAD:
        raise ContractError("event_time", f"{at.isoformat()} is more than a day ahead of the clock")
    if at < EPOCH:
        raise ContractError("event_time", f"{at.isoformat()} lies before 1970")


def _check_price(price: Price) -> None:
    if not price.amount.is_finite() or price.amount < 0:
        raise ContractError("price.amount", f"{shown(price.amount)} must be a finite number >= 0")
    if price.amount > 10**12:
        raise ContractError("price.amount", f"{shown(price.amount)} must be at most 1e12")
    try:
        price.amount_minor  # noqa: B018  (raises for an unknown currency or too many decimals)
    except ValueError as error:
        raise ContractError("price", str(error)) from None


def image_links(update: ProductUpdate) -> list[str] | None:
    """Return the image links of an update, the main one first; None if the update does not state its images.

    A patch that states only one of the two image attributes replaces all images.
    """
    if update.image_link is UNSET and update.additional_image_link is UNSET:
        return None
    main = [update.image_link] if isinstance(update.image_link, str) and update.image_link else []
    more: Sequence[str] = update.additional_image_link if isinstance(update.additional_image_link, list) else ()
    return [*main, *(link for link in more if link)]
