"""What the model sees of a product, and the hash that tells whether it changed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from inference.errors import InputError

TEXT_FIELDS: tuple[str, ...] = (
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
"""The twelve text fields of ItemSage, in the order of the model's slots (attributes of a Merchant Center feed)."""

_size = struct.Struct("<Q").pack

MAX_IMAGES = 20
VECTOR_DIM = 256

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
Float32Array = np.ndarray[Any, np.dtype[np.float32]]


class ProductInput(msgspec.Struct, frozen=True, gc=False):
    """One product as the model takes it: `text` by field name, `images` `[n <= 20, 256]` unit vectors."""

    id: str
    text: Mapping[str, str]
    images: Float32Array


def content_hash(text: Mapping[str, str], image_hashes: Sequence[str], visual_version: str) -> str:
    """Changes exactly when the model's inputs change: the text fields, the images' bytes, the visual encoder."""
    parts = [visual_version, *[text.get(name, "") for name in TEXT_FIELDS], *image_hashes]
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    framed = b"".join([piece for part in raw for piece in (_size(len(part)), part)])
    return hashlib.sha256(framed).hexdigest()[:32]


def check_images(owner: str, vectors: FloatArray) -> None:
    """Raise unless these can be a product's image vectors.

    Raises:
        InputError: another shape than `[n, 256]`, more than 20 images, NaN or infinity; names the `owner`.
    """
    if vectors.ndim != 2 or vectors.shape[1] != VECTOR_DIM:
        raise InputError(f"image vectors of {owner} have shape {vectors.shape}, must be [n, {VECTOR_DIM}]")
    if len(vectors) > MAX_IMAGES:
        raise InputError(f"{owner} has {len(vectors)} images; at most {MAX_IMAGES} are allowed")
    if not np.isfinite(vectors).all():
        raise InputError(f"image vectors of {owner} hold NaN or infinity")


def stack_images(images: Sequence[FloatArray]) -> tuple[Float32Array, np.ndarray[Any, np.dtype[np.int32]]]:
    """Ragged `[n_i, 256]` arrays -> padded `[B, max(n_i, 1), 256]` float32 and the counts `[B]` int32.

    Raises:
        InputError: see `check_images`.
    """
    for row, vectors in enumerate(images):
        check_images(f"product {row} of the batch", vectors)
    counts = np.fromiter((len(i) for i in images), np.int32, len(images))
    out = np.zeros((len(images), max(1, int(counts.max(initial=0))), VECTOR_DIM), np.float32)
    for row, vectors in enumerate(images):
        out[row, : len(vectors)] = vectors
    return out, counts
