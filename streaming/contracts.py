"""The messages on Kafka: typed, validated while decoding, and nothing else.

    catalog.updates      ProductUpdate    key = product id   (one product's updates stay in order)
    product.embeddings   ProductVector    key = <model version>/<product id>   (compacted; a null value deletes)
    events               Event            key = unit id
    <topic>.dlq          original bytes   key = original     (see dead_letters.py)

JSON on the wire: batches are compressed (lz4), so its size is no handicap, and every language reads it. A vector
travels as base64 of little-endian float16, which decodes six times faster than JSON numbers. The contract's
version is the `SCHEMA_HEADER` of each record. Fields that the contract does not name are kept out and counted, so that
a producer may be ahead of its readers.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from streaming.currency import DECIMALS, shown, to_minor
from streaming.errors import ContractError

T = TypeVar("T")

SCHEMA_HEADER = "sagelift-schema"
SCHEMA_VERSION = b"1"

MAX_IMAGES = 20
VECTOR_DIM = 256
MAX_MESSAGE_BYTES = 1_000_000
# A version or an event time further ahead than this is a broken clock or unit; it would block all later updates.
MAX_AHEAD = timedelta(days=1)
_EPOCH = datetime.fromtimestamp(0, UTC)

# `$` would let a newline at the end pass.
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+(?![\s\S])"
ProductId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_NO_CONTROLS)]
UnitId = Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_CONTROLS)]
Version = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Instant = Annotated[datetime, Meta(tz=True)]
Short = Annotated[str, Meta(max_length=1_000)]
Url = Annotated[str, Meta(max_length=2_000)]


class Price(Struct, frozen=True, gc=False):
    """What a product costs: `amount` in major units as a decimal, `currency` by ISO 4217."""

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

    `version` grows with each change of a product: the source's sequence number, or its event time in microseconds.
    `upsert` states the whole product, `patch` only what changed (a field left out keeps its value), `delete`
    removes it. An attribute that is null or "" is empty. `refresh_images` says that the product's image links show
    something else than before; otherwise a link that is known is not fetched again.
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
_NUL = b"\\u0000"
_TEXTS = tuple(a for a in ATTRIBUTES if a not in ("price", "availability"))  # and lists of texts


class ProductVector(Struct, frozen=True, kw_only=True, gc=False):
    """A product's embedding under one model version, as published on `product.embeddings`.

    `vector` is base64 of 256 little-endian float16, unit length. `content_hash` covers the model's inputs.
    `source_time` is the broker's timestamp of the update that caused it, in milliseconds since the epoch, so that
    every reader can tell how fresh it is.
    """

    id: ProductId
    version: Version
    model_version: Short
    content_hash: Short
    vector: str
    source_time: int

    @staticmethod
    def pack(vector: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> str:
        """`[256]` floats -> the wire form."""
        return base64.b64encode(vector.astype("<f2").tobytes()).decode("ascii")

    def unpack(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The vector as `[256]` float32.

        Raises:
            ContractError: not base64 of 256 float16.
        """
        try:
            raw = base64.b64decode(self.vector, validate=True)
        except ValueError:
            raise ContractError("vector", "must be base64") from None
        if len(raw) != 2 * VECTOR_DIM:
            raise ContractError("vector", f"must hold {VECTOR_DIM} float16, holds {len(raw)} bytes")
        return np.frombuffer(raw, "<f2").astype(np.float32)


EventKind = Literal[
    "exposure", "impression", "click", "save", "add_to_cart", "order", "cancellation", "refund", "chargeback"
]
Surface = Literal["user", "image", "search"]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True, forbid_unknown_fields=True):
    """Something that happened in the shop. `event_id` is deterministic, so that a retry is no second event.

    `query` is what the surface was asked with: the text of a search, the product id of an image query. `attributes`
    are those that an exposure's experiment records, as they were then.
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

_encoder = msgspec.json.Encoder(decimal_format="string")
_update_decoder = msgspec.json.Decoder(ProductUpdate)
_vector_decoder = msgspec.json.Decoder(ProductVector)
_event_decoder = msgspec.json.Decoder(Event)


_FRAMED = (
    "it is in the wire format of a schema registry (magic byte 0), and none is configured: set "
    "SAGELIFT_SCHEMA_REGISTRY__URL"
)


def encode(message: ProductUpdate | ProductVector | Event) -> bytes:
    """The message as it goes on the wire."""
    return _encoder.encode(message)


def decode_update(raw: bytes | None, *, now: datetime, unknown: Counter[str] | None = None) -> ProductUpdate:
    """Decode and validate one record of `catalog.updates`.

    Args:
        unknown: counts the names of fields that the contract does not have, and that were kept out.

    Raises:
        ContractError: names the field and the rule.
    """
    update = _decode(_update_decoder, raw, unknown)
    _check_times(update, now)
    if raw and _NUL in raw:  # else there is none: JSON has no other way to write it
        _check_texts(update)
    _check_rest(update)
    return update


def decode_vector(raw: bytes) -> ProductVector:
    """Decode one record of `product.embeddings` (not a deletion, which has no value)."""
    return _decode(_vector_decoder, raw)


def decode_event(raw: bytes | None, *, now: datetime, unknown: Counter[str] | None = None) -> Event:
    """Decode and validate one record of `events`; `unknown` as for `decode_update`.

    Raises:
        ContractError: names the field and the rule.
    """
    event = _decode(_event_decoder, raw, unknown)
    for name in REQUIRED_BY_KIND[event.kind]:
        if getattr(event, name) is None:
            raise ContractError(name, f"is required for kind {event.kind!r}")
    if event.currency is not None and event.currency not in DECIMALS:
        raise ContractError("currency", f"{event.currency!r} is not an active ISO 4217 code")
    _check_time(event.event_time, now)
    return event


def check_update(update: ProductUpdate, *, now: datetime) -> None:
    """The rules that types cannot state.

    Raises:
        ContractError: names the field and the rule.
    """
    _check_times(update, now)
    _check_texts(update)
    _check_rest(update)


def _check_times(update: ProductUpdate, now: datetime) -> None:
    _check_time(update.event_time, now)
    if update.version > (now + MAX_AHEAD).timestamp() * 1e6:
        raise ContractError(
            "version",
            f"{update.version} lies in the far future: use a sequence number or the event time in microseconds",
        )


def _check_texts(update: ProductUpdate) -> None:
    for name in _TEXTS:
        value = getattr(update, name)
        texts = (value,) if isinstance(value, str) else value if isinstance(value, list) else ()
        if any("\x00" in text for text in texts):
            raise ContractError(name, "holds a NUL character; remove it at the source")


def _check_rest(update: ProductUpdate) -> None:
    if isinstance(update.price, Price):
        _check_price(update.price)
    if update.op == "upsert" and not update.title:
        raise ContractError("title", "an upsert states the whole product and needs a title; use op 'patch' otherwise")


def _check_time(at: datetime, now: datetime) -> None:
    if at > now + MAX_AHEAD:
        raise ContractError("event_time", f"{at.isoformat()} is more than a day ahead of the clock")
    if at < _EPOCH:
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


def _decode(decoder: msgspec.json.Decoder[T], raw: bytes | None, unknown: Counter[str] | None = None) -> T:
    if raw is None:
        raise ContractError("", "the record has no value")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ContractError("", f"the record has {len(raw)} bytes, at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            if not str(error).startswith("Object contains unknown field"):
                raise
            return decoder.decode(_known_fields_only(decoder.type, raw, Counter() if unknown is None else unknown))
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise ContractError(path.strip("`.") if path else "", message) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if raw[:1] == b"\x00" and len(raw) > 5:
            raise ContractError("", _FRAMED) from None
        raise ContractError("", f"not JSON: {error}") from None
    except RecursionError:
        raise ContractError("", "nested too deeply") from None


def _known_fields_only(contract: Any, raw: bytes, unknown: Counter[str]) -> bytes:
    """The message without the fields that the contract does not name: the slow way, taken only when there are some."""
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    known = {name: value for name, value in fields.items() if name in contract.__struct_fields__}
    unknown.update(name[:100] for name in fields.keys() - known.keys())
    return msgspec.json.encode(known)


def image_links(update: ProductUpdate) -> list[str] | None:
    """The update's images in order, the main one first; None when the update says nothing about images.

    A patch of only one of the two image attributes states all images anew.
    """
    if update.image_link is UNSET and update.additional_image_link is UNSET:
        return None
    main = [update.image_link] if isinstance(update.image_link, str) and update.image_link else []
    more: Sequence[str] = update.additional_image_link if isinstance(update.additional_image_link, list) else ()
    return [*main, *(link for link in more if link)]
