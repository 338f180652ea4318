"""What the model reads of a product, and the hash that tells whether it changed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from feature_repo.rows import EMBEDDING_DIM, MAX_IMAGES, TEXT_FIELDS
from inference.arrays import Float32Array, FloatArray
from inference.errors import InputError

__all__ = [
    "MAX_IMAGES",
    "TEXT_FIELDS",
    "VECTOR_DIM",
    "ProductInput",
    "check_images",
    "content_hash",
    "stack_images",
]

VECTOR_DIM: Final = EMBEDDING_DIM
"""Length of an image vector and of an embedding."""


_size = struct.Struct("<Q").pack


class ProductInput(msgspec.Struct, frozen=True, gc=False):
    """One product as the model reads it."""

    id: str
    text: Mapping[str, str]  # by field name, see TEXT_FIELDS
    images: Float32Array  # [n <= 20, 256], unit vectors


def content_hash(text: Mapping[str, str], image_hashes: Sequence[str], visual_version: str) -> str:
    """Return a hash of the model's inputs. It changes exactly when they change.

    Args:
        text: Text fields by name.
        image_hashes: Hashes of the images' bytes.
        visual_version: Version of the visual encoder.

    Returns:
        32 hexadecimal digits.
    """
    parts = [visual_version, *[text.get(name, "") for name in TEXT_FIELDS], *image_hashes]
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    framed = b"".join([piece for part in raw for piece in (_size(len(part)), part)])
    return hashlib.sha256(framed).hexdigest()[:32]


def check_images(owner: str, vectors: FloatArray) -> None:
    """Check that an array can be the image vectors of a product.

    Args:
        owner: Whose vectors they are, for the message.
        vectors: The array.

    Raises:
        InputError: If the shape is not `[n <= 20, 256]`, or a number is NaN or infinite.
    """
    if vectors.ndim != 2 or vectors.shape[1] != VECTOR_DIM:
        raise InputError(f"image vectors of {owner} have shape {vectors.shape}, must be [n, {VECTOR_DIM}]")
    if len(vectors) > MAX_IMAGES:
        raise InputError(f"{owner} has {len(vectors)} images; at most {MAX_IMAGES} are allowed")
    if not np.isfinite(vectors).all():
        raise InputError(f"image vectors of {owner} hold NaN or infinity")


def stack_images(images: Sequence[FloatArray]) -> tuple[Float32Array, np.ndarray[Any, np.dtype[np.int32]]]:
    """Pad the image vectors of `B` products to one array.

    Args:
        images: The image vectors of each product, `[n, 256]`.

    Returns:
        The padded vectors `[B, max(n, 1), 256]` float32 and the number of images of each product `[B]` int32.

    Raises:
        InputError: See `check_images`.
    """
    for row, vectors in enumerate(images):
        check_images(f"product {row} of the batch", vectors)
    counts = np.fromiter((len(i) for i in images), np.int32, len(images))
    out = np.zeros((len(images), max(1, int(counts.max(initial=0))), VECTOR_DIM), np.float32)
    for row, vectors in enumerate(images):
        out[row, : len(vectors)] = vectors
    return out, counts
