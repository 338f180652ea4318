"""Product updates that the contract refuses, each with the field and the rule of its error."""

from __future__ import annotations

import json
from typing import Any

from streaming.contracts import MAX_MESSAGE_BYTES
from tests.streaming.builders import NOW

VALID_UPDATE: dict[str, Any] = {"id": "p1", "version": 7, "event_time": "2026-05-01T00:00:00Z", "title": "Oak table"}


def raw(**fields: Any) -> bytes:
    """A valid update with other fields; `...` leaves a field out."""
    return json.dumps({k: v for k, v in {**VALID_UPDATE, **fields}.items() if v is not ...}).encode()


def cost(amount: Any, currency: Any = "EUR") -> dict[str, Any]:
    """The field of a price."""
    return {"price": {"amount": amount, "currency": currency}}


def literally(value: bytes, field: bytes = b"title") -> bytes:
    """An update with this text as the value of a field."""
    return b'{"id":"p1","version":7,"event_time":"2026-05-01T00:00:00Z","title":"t","%s":%s}' % (field, value)


INVALID_UPDATES: dict[str, tuple[bytes | None, str, str]] = {
    "no value": (None, "", "no value"),
    "empty": (b"", "", "not JSON"),
    "broken JSON": (b'{"id": "p1", ', "", "not JSON"),
    "not UTF-8": (literally(b'"\xff\xfe"'), "", "not JSON"),
    "a surrogate half in UTF-8": (literally(b'"\xed\xa0\x80"'), "", "not JSON"),
    "a lone surrogate": (literally(rb'"\ud800"'), "", "not JSON"),
    "a lone surrogate in the id": (raw(id="\udc80p"), "", "not JSON"),
    "nested without end": (literally(b"[" * 200_000 + b"]" * 200_000, b"x"), "", "nested too deeply"),
    "an array": (b"[]", "", "Expected `object`"),
    "null": (b"null", "", "Expected `object`"),
    "larger than the limit": (raw(description="x" * MAX_MESSAGE_BYTES), "", "at most 1000000 are allowed"),
    "no id": (raw(id=...), "", "missing required field `id`"),
    "an empty id": (raw(id=""), "id", "length >= 1"),
    "an id of another type": (raw(id=7), "id", "Expected `str`"),
    "an id with NUL": (raw(id="p\x001"), "id", "matching regex"),
    "an id with a newline at its end": (raw(id="p1\n"), "id", "matching regex"),
    "an absurdly long id": (raw(id="p" * 129), "id", "length <= 128"),
    "no version": (raw(version=...), "", "missing required field `version`"),
    "version 0": (raw(version=0), "version", ">= 1"),
    "a negative version": (raw(version=-1), "version", ">= 1"),
    "a fractional version": (raw(version=1.5), "version", "Expected `int`"),
    "a version as text": (raw(version="7"), "version", "Expected `int`"),
    "a version beyond 64 bits": (raw(version=2**63), "version", "<="),
    "a version of many digits": (literally(b"9" * 100_000, b"version"), "version", "out of range"),
    "a version from the far future": (raw(version=int((NOW.timestamp() + 2 * 86_400) * 1e6)), "version", "far future"),
    "a version in nanoseconds": (raw(version=int(NOW.timestamp() * 1e9)), "version", "far future"),
    "an event time from the far future": (raw(event_time="2026-05-05T12:00:01Z"), "event_time", "more than a day"),
    "an event time before the epoch": (raw(event_time="0001-01-01T00:00:00+14:00"), "event_time", "before 1970"),
    "an event time without a zone": (raw(event_time="2026-05-01T00:00:00"), "event_time", "timezone"),
    "an event time that is none": (raw(event_time="yesterday"), "event_time", "RFC3339"),
    "an unknown op": (raw(op="replace"), "op", "Invalid enum value"),
    "a title of another type": (raw(title=7), "title", "Expected `str | null`"),
    "an absurdly long title": (raw(title="x" * 1001), "title", "length <= 1000"),
    "an upsert without a title": (raw(title=...), "title", "needs a title"),
    "an upsert with an empty title": (raw(title=""), "title", "needs a title"),
    "NUL in a text": (raw(brand="a\x00b"), "brand", "NUL"),
    "NUL in a list": (raw(product_type=["a", "b\x00"]), "product_type", "NUL"),
    "NUL in an image link": (raw(additional_image_link=["a\x00"]), "additional_image_link", "NUL"),
    "500 images": (raw(additional_image_link=["http://x/i.png"] * 500), "additional_image_link", "length <= 19"),
    "an image that is no link": (raw(additional_image_link=["a", 7]), "additional_image_link[1]", "Expected `str`"),
    "a negative price": (raw(**cost("-1")), "price.amount", ">= 0"),
    "a price that is no number": (raw(**cost("NaN")), "price.amount", "finite"),
    "a signalling NaN": (raw(**cost("sNaN")), "price.amount", "finite"),
    "a price as words": (raw(**cost("ten")), "price.amount", "Invalid decimal string"),
    "an absurd price": (raw(**cost("1e13")), "price.amount", "at most 1e12"),
    "a price that would fill the memory": (raw(**cost("1e999999999")), "price.amount", "at most 1e12"),
    "a price beyond the smallest coin": (raw(**cost("0.001")), "price", "more decimals than EUR"),
    "a price that only rounding would save": (raw(**cost("1." + "0" * 30 + "1")), "price", "more decimals than EUR"),
    "an unknown currency": (raw(**cost("1", "XYZ")), "price", "ISO 4217"),
    "a currency in lower case": (raw(**cost("1", "eur")), "price.currency", "regex"),
    "a currency with a newline": (raw(**cost("1", "EUR\n")), "price", "ISO 4217"),
    "a price without currency": (raw(price={"amount": "1"}), "price", "missing required field `currency`"),
    "an unknown availability": (raw(availability="maybe"), "availability", "Invalid enum value"),
}
"""Value, field and rule of each refused update; the field is empty where the rule is about the whole message."""
