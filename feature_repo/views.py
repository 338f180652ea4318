"""Convert products to rows of each view and back: values of the online store, Arrow columns of the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from feature_repo import values
from feature_repo.definitions import IMAGES_VIEW, JOIN_KEY, OFFER_VIEW, TEXT_VIEW, USER_KEY, USER_VIEW
from feature_repo.online_row import OnlineRow
from feature_repo.recent import UserRecent
from feature_repo.rows import EMBEDDING_DIM, TEXT_FIELDS, Deletion, OfferRow, ProductEmbedding, ProductFeatures
from feature_repo.times import from_microseconds, to_microseconds

_FLOATS: Final = pa.list_(pa.float32())
_NO_TEXT: Final = dict.fromkeys(TEXT_FIELDS, "")
_NO_VECTORS: Final = np.zeros((0, EMBEDDING_DIM), np.float32)


class ViewFormat(NamedTuple):
    """The payload of one view, feature by feature in the order of its definition.

    Attributes:
        types: The Arrow type of each feature.
        encode: Converts a live row of the view's class to serialized values.
        columns: Converts rows, None for deleted ones, to Arrow arrays.
        key: The column of the entity key.
    """

    types: dict[str, pa.DataType]
    encode: Callable[[Any], list[bytes]]
    columns: Callable[[Sequence[Any]], list[pa.Array]]
    key: str = JOIN_KEY


Row = ProductFeatures | OfferRow | ProductEmbedding | UserRecent | Deletion


class EncodedRows(NamedTuple):
    """Rows of one view, in the form of its online table and in the form of its history."""

    online: list[OnlineRow]
    history: pa.Table


def encode(view_name: str, rows: Sequence[Row], schema: pa.Schema, created: datetime) -> EncodedRows:
    """Convert rows to both forms of a view.

    Args:
        view_name: The full name of the view.
        rows: Rows of the view's class, or deletions.
        schema: The schema of the view's history.
        created: When the rows are written, with its zone.
    """
    form = format_of(view_name)
    return EncodedRows([online_row(form, row) for row in rows], history_table(form, schema, rows, created))


def online_row(form: ViewFormat, row: Row) -> OnlineRow:
    """Return the row of the online store; a deleted row has no features."""
    deleted = isinstance(row, Deletion) or row.deleted
    payload = [None] * len(form.types) if deleted else form.encode(row)
    return OnlineRow(
        values.encode_key(row.id, form.key), row.version, deleted, to_microseconds(row.event_time), payload
    )


def history_table(form: ViewFormat, schema: pa.Schema, rows: Sequence[Row], created: datetime) -> pa.Table:
    """Return the history's table of these rows, all with one created time."""
    times = pa.array([to_microseconds(row.event_time) for row in rows], pa.int64())
    deleted = [isinstance(row, Deletion) or row.deleted for row in rows]
    if all(deleted):
        payload = [pa.nulls(len(rows), kind) for kind in form.types.values()]
    else:
        payload = form.columns([None if gone else row for row, gone in zip(rows, deleted, strict=True)])
    return pa.Table.from_arrays(
        [
            pa.array([row.id for row in rows], pa.string()),
            times.cast(schema.field("event_timestamp").type),
            pa.array([created.astimezone(UTC)] * len(rows), schema.field("created_timestamp").type),
            *payload,
            pa.array([row.version for row in rows], pa.int64()),
            pa.array(deleted, pa.bool_()),
        ],
        schema=schema,
    )


def product_features(
    product_id: str, text: OnlineRow | None, images: OnlineRow | None, offer: OnlineRow | None
) -> ProductFeatures | None:
    """Join a product's rows in the three views; None if all are missing."""
    newest = None
    deleted = False
    for row in (text, images, offer):
        if row is not None:
            deleted |= row.deleted
            if newest is None or row.version > newest.version:
                newest = row
    if newest is None:
        return None
    product = ProductFeatures(
        id=product_id,
        version=newest.version,
        event_time=from_microseconds(newest.event_us),
        deleted=deleted,
        text=_text(text) if text and not deleted else dict(_NO_TEXT),
        image_vectors=_NO_VECTORS,
    )
    if images and not deleted:
        urls, hashes, vectors, visual_version = images.values
        product.image_urls = values.decode_strings(urls)
        product.image_hashes = values.decode_strings(hashes)
        product.image_vectors = values.decode_vectors(vectors)
        product.visual_version = values.decode_string(visual_version)
    if offer and not deleted:
        amount, currency, availability = offer.values
        product.amount_minor = values.decode_optional_int(amount)
        product.currency = values.decode_optional_string(currency)
        product.availability = values.decode_optional_string(availability)
    return product


def _text(row: OnlineRow) -> dict[str, str]:
    return dict(zip(TEXT_FIELDS, map(values.decode_string, row.values), strict=True))


def product_offer(product_id: str, row: OnlineRow) -> OfferRow:
    """Return a product's offer; a deleted one has its version only."""
    amount, currency, availability = row.values
    return OfferRow(
        id=product_id,
        version=row.version,
        event_time=from_microseconds(row.event_us),
        deleted=row.deleted,
        amount_minor=values.decode_optional_int(amount),
        currency=values.decode_optional_string(currency),
        availability=values.decode_optional_string(availability),
    )


def product_embedding(product_id: str, model_version: str, row: OnlineRow) -> ProductEmbedding:
    """Return a product's embedding; a tombstone has a vector of zeros."""
    vector, content_hash, _ = row.values
    return ProductEmbedding(
        id=product_id,
        version=row.version,
        event_time=from_microseconds(row.event_us),
        model_version=model_version,
        content_hash=values.decode_string(content_hash),
        vector=values.decode_vector(vector) if vector else np.zeros(EMBEDDING_DIM, np.float32),
        deleted=row.deleted,
    )


def user_recent(user_id: str, row: OnlineRow) -> UserRecent:
    """Return a shopper's recent products; a tombstone has no products, only the time of the deletion."""
    product_ids, event_times = row.values
    return UserRecent(
        id=user_id,
        version=row.version,
        event_time=from_microseconds(row.event_us),
        deleted=row.deleted,
        product_ids=tuple(values.decode_strings(product_ids)),
        event_times=tuple(values.decode_ints(event_times)),
    )


def format_of(view_name: str) -> ViewFormat:
    """Return the format of a view by its full name; any name but the fixed ones belongs to a model version."""
    return FIXED_FORMATS.get(view_name, EMBEDDING_FORMAT)


def _text_columns(rows: Sequence[ProductFeatures | None]) -> list[pa.Array]:
    return [pa.array([row and row.text[name] for row in rows], pa.string()) for name in TEXT_FIELDS]


def _images_columns(rows: Sequence[ProductFeatures | None]) -> list[pa.Array]:
    matrices = [row.image_vectors for row in rows if row]
    flat = np.concatenate(matrices)
    vectors = pa.ListArray.from_arrays(
        pa.array(np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1]), pa.array(flat.reshape(-1))
    )
    # A null in the offsets makes a null list, so that deleted rows need no vectors.
    ends = np.cumsum([len(row.image_vectors) if row else 0 for row in rows])
    starts = [int(e) - (len(row.image_vectors) if row else 0) for e, row in zip(ends, rows, strict=True)]
    offsets = [start if row else None for start, row in zip(starts, rows, strict=True)]
    return [
        pa.array([row and row.image_urls for row in rows], pa.list_(pa.string())),
        pa.array([row and row.image_hashes for row in rows], pa.list_(pa.string())),
        pa.ListArray.from_arrays(pa.array([*offsets, len(flat)], pa.int32()), vectors),
        pa.array([row and row.visual_version for row in rows], pa.string()),
    ]


def _encode_images(row: ProductFeatures) -> list[bytes]:
    return [
        values.encode_strings(row.image_urls),
        values.encode_strings(row.image_hashes),
        values.encode_vectors(row.image_vectors),
        values.encode_string(row.visual_version),
    ]


def _offer_columns(rows: Sequence[ProductFeatures | OfferRow | None]) -> list[pa.Array]:
    return [
        pa.array([row and row.amount_minor for row in rows], pa.int64()),
        pa.array([row and row.currency for row in rows], pa.string()),
        pa.array([row and row.availability for row in rows], pa.string()),
    ]


def _encode_offer(row: ProductFeatures | OfferRow) -> list[bytes]:
    return [
        values.encode_optional_int(row.amount_minor),
        values.encode_optional_string(row.currency),
        values.encode_optional_string(row.availability),
    ]


def _embedding_columns(rows: Sequence[ProductEmbedding | None]) -> list[pa.Array]:
    flat = np.concatenate([row.vector for row in rows if row])
    ends = np.cumsum([len(row.vector) if row else 0 for row in rows])
    offsets = [int(e) - len(row.vector) if row else None for e, row in zip(ends, rows, strict=True)]
    return [
        pa.ListArray.from_arrays(pa.array([*offsets, len(flat)], pa.int32()), pa.array(flat)),
        pa.array([row and row.content_hash for row in rows], pa.string()),
        pa.array([row and row.model_version for row in rows], pa.string()),
    ]


def _encode_embedding(row: ProductEmbedding) -> list[bytes]:
    return [
        values.encode_vector(row.vector),
        values.encode_string(row.content_hash),
        values.encode_string(row.model_version),
    ]


def _recent_columns(rows: Sequence[UserRecent | None]) -> list[pa.Array]:
    return [
        pa.array([row and row.product_ids for row in rows], pa.list_(pa.string())),
        pa.array([row and row.event_times for row in rows], pa.list_(pa.int64())),
    ]


def _encode_recent(row: UserRecent) -> list[bytes]:
    return [values.encode_strings(row.product_ids), values.encode_ints(row.event_times)]


PRODUCT_FORMATS: Final = {
    TEXT_VIEW: ViewFormat(
        dict.fromkeys(TEXT_FIELDS, pa.string()),
        lambda row: [values.encode_string(row.text[name]) for name in TEXT_FIELDS],
        _text_columns,
    ),
    IMAGES_VIEW: ViewFormat(
        {
            "urls": pa.list_(pa.string()),
            "hashes": pa.list_(pa.string()),
            "vectors": pa.list_(_FLOATS),
            "visual_version": pa.string(),
        },
        _encode_images,
        _images_columns,
    ),
    OFFER_VIEW: ViewFormat(
        {"amount_minor": pa.int64(), "currency": pa.string(), "availability": pa.string()},
        _encode_offer,
        _offer_columns,
    ),
}
EMBEDDING_FORMAT: Final = ViewFormat(
    {"vector": _FLOATS, "content_hash": pa.string(), "model_version": pa.string()},
    _encode_embedding,
    _embedding_columns,
)
USER_FORMAT: Final = ViewFormat(
    {"product_ids": pa.list_(pa.string()), "event_times": pa.list_(pa.int64())},
    _encode_recent,
    _recent_columns,
    key=USER_KEY,
)
FIXED_FORMATS: Final = {**PRODUCT_FORMATS, USER_VIEW: USER_FORMAT}
