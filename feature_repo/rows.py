"""The rows that the feature store takes and returns, and the rules that they must keep.

This module is the one definition of the text fields, the number of images and the embedding dimension. Importing it is
light: it imports neither Feast nor Arrow.

A row never refers to itself, so the garbage collector need not track it (`gc=False`): there are millions of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.errors import InvalidFeatureError

EMBEDDING_DIM: Final = 256
"""Dimension of an ItemSage embedding and of an image vector."""
MAX_IMAGES: Final = 20
"""Images of one product that ItemSage reads."""

TEXT_FIELDS: Final = (
    "title",
    "description",
    "domain",
    "link",
    "google_product_category",
    "product_type",
    "brand",
    "color",
    "material",
    "pattern",
    "size",
    "size_type",
)
"""The text attributes of a product that ItemSage reads."""

_MAX_INT64: Final = 2**63 - 1


class ProductFeatures(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """All features of one product as of one version. A deleted product has its version and nothing else."""

    id: str
    version: int  # 0 to 2**63 - 1; the newest wins
    event_time: datetime  # with a zone; stored in microseconds
    deleted: bool = False
    text: dict[str, str] = msgspec.field(default_factory=lambda: dict.fromkeys(TEXT_FIELDS, ""))
    image_urls: list[str] = msgspec.field(default_factory=list)
    image_hashes: list[str] = msgspec.field(default_factory=list)  # one per URL, '' where the image could not be read
    image_vectors: NDArray[np.float32] = msgspec.field(
        default_factory=lambda: np.zeros((0, EMBEDDING_DIM), np.float32)
    )  # [n, 256], one per hash that is not ''
    visual_version: str = ""
    amount_minor: int | None = None
    currency: str | None = None
    availability: str | None = None


class ProductEmbedding(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One product's embedding by one model version; `version` is the version of the features that it was made from."""

    id: str
    version: int
    event_time: datetime
    model_version: str
    content_hash: str
    vector: NDArray[np.float32]  # [256]
    deleted: bool = False


class EmbeddingState(NamedTuple):
    """What a stored embedding was made from, without its vector."""

    version: int
    content_hash: str
    deleted: bool


class OfferRow(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """Price and availability of one product as of one version, without its text and images."""

    id: str
    version: int
    event_time: datetime
    deleted: bool = False
    amount_minor: int | None = None
    currency: str | None = None
    availability: str | None = None


class Deletion(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """A product, or a user, that is deleted as of this version."""

    id: str
    version: int
    event_time: datetime


Row = ProductFeatures | OfferRow | ProductEmbedding | Deletion

ALL_VIEWS: Final = ("text", "images", "offer")
"""Short names of the views of a product's features."""


def check_features(rows: Sequence[ProductFeatures], views: Sequence[str]) -> None:
    """Check rows for some of the views text, images, offer.

    Raises:
        InvalidFeatureError: A row breaks a rule.
    """
    for row in rows:
        check_identity(row)
        if row.deleted:
            continue
        if "text" in views:
            _check_text(row)
        if "images" in views:
            _check_images(row)
        if "offer" in views:
            _check_offer(row)


def check_offers(rows: Sequence[OfferRow]) -> None:
    """Check rows for the offer view.

    Raises:
        InvalidFeatureError: A row breaks a rule.
    """
    for row in rows:
        check_identity(row)
        if not row.deleted:
            _check_offer(row)


def check_embeddings(rows: Sequence[ProductEmbedding], model_version: str) -> None:
    """Check rows for the view of a model version.

    Raises:
        InvalidFeatureError: A row breaks a rule.
    """
    for row in rows:
        check_identity(row)
        if row.model_version != model_version:
            _refuse(
                row, f"has model_version {row.model_version!r} and is written as {model_version!r}: use one of them"
            )
        if row.deleted:
            continue
        _check_string(row, "content_hash", row.content_hash)
        _check_vectors(row, "vector", row.vector, (EMBEDDING_DIM,))


def check_identity(row: Row) -> None:
    """Check id, version and event time of a row.

    Raises:
        InvalidFeatureError: One of them breaks a rule.
    """
    if not isinstance(row.id, str) or not row.id:
        raise InvalidFeatureError(f"A product's id must be a text of at least one character, not {row.id!r}.")
    _check_string(row, "id", row.id)
    _check_int(row, "version", row.version, 0)
    if not isinstance(row.event_time, datetime) or row.event_time.utcoffset() is None:
        _refuse(row, f"has event_time {row.event_time!r}: give a datetime with a time zone")


def _check_text(row: ProductFeatures) -> None:
    if row.text.keys() != _TEXT_FIELD_SET:
        missing = sorted(_TEXT_FIELD_SET - row.text.keys())
        unknown = sorted(row.text.keys() - _TEXT_FIELD_SET)
        _refuse(row, f"has text that lacks {missing} and has unknown {unknown}: give every field, '' where empty")
    for name, value in row.text.items():
        if type(value) is not str or not value.isascii():  # rare: no call for the other values
            _check_string(row, name, value)


def _check_images(row: ProductFeatures) -> None:
    for name in ("image_urls", "image_hashes"):
        values = getattr(row, name)
        if not isinstance(values, list):
            _refuse(row, f"has {name} of type {type(values).__name__}: give a list of texts")
        if len(values) > MAX_IMAGES:
            _refuse(row, f"has {len(values)} {name}: at most {MAX_IMAGES} are kept, leave the rest out")
        for value in values:
            _check_string(row, name, value)
    _check_string(row, "visual_version", row.visual_version)
    if len(row.image_hashes) != len(row.image_urls):
        both = f"{len(row.image_urls)} image_urls and {len(row.image_hashes)} image_hashes"
        _refuse(row, f"has {both}: give a hash for each, '' where the image could not be read")
    n = sum(map(bool, row.image_hashes))
    _check_vectors(row, "image_vectors", row.image_vectors, (n, EMBEDDING_DIM))
    if n and not row.visual_version:
        _refuse(row, "has image vectors but no visual_version: name the encoder that made them")


def _check_offer(row: ProductFeatures | OfferRow) -> None:
    if row.amount_minor is not None:
        _check_int(row, "amount_minor", row.amount_minor, -_MAX_INT64 - 1)
    for name, value in (("currency", row.currency), ("availability", row.availability)):
        if value is not None:
            _check_string(row, name, value)


def _check_vectors(row: Row, name: str, vectors: object, shape: tuple[int, ...]) -> None:
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.shape != shape:
        kind = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        _refuse(row, f"has {name} {kind}: give a float32 array of shape {shape}")
    if not np.isfinite(vectors).all():
        _refuse(row, f"has NaN or infinity in {name}: leave the product out and check what computed it")


def _check_int(row: Row, name: str, value: object, low: int) -> None:
    if type(value) is not int or not low <= value <= _MAX_INT64:
        _refuse(row, f"has {name} {value!r}: give an int from {low} to {_MAX_INT64}")


def _check_string(row: Row, name: str, value: object) -> None:
    if not isinstance(value, str):
        _refuse(row, f"has {name} {value!r}: give a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _refuse(row, f"has {name} {value!r}, which is not valid Unicode: replace its lone surrogates")


def _refuse(row: Row, why: str) -> NoReturn:
    raise InvalidFeatureError(f"Product {row.id!r} {why}.")


_TEXT_FIELD_SET: Final = frozenset(TEXT_FIELDS)
