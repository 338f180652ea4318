"""The products of a training set, packed in flat arrays for fast batches.

On disk they are NumPy arrays, which are mapped into memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from inference.arrays import Float32Array, Int64Array
from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS, VECTOR_DIM, ProductInput, check_images
from inference.tokenizer import Tokenizer

_ARRAYS = ("image_counts", "images", "field_lengths", "tokens")


class PackedProducts:
    """The inputs of `P` products in flat arrays. A batch takes two gathers and no loop over products.

    Args:
        products: The products.
        tokenizer: Makes the token ids.

    Attributes:
        ids: The products' ids.
        index: The row number of each product id.
        vocabulary: Number of ids of the tokenizer.
        image_counts: `[P]` int64, number of images of each product.
        field_lengths: `[P, 12]` int64, number of tokens of each text field.

    Raises:
        InputError: If a product occurs twice or its images are invalid (see `check_images`).
    """

    def __init__(self, products: Sequence[ProductInput], tokenizer: Tokenizer) -> None:
        for product in products:
            check_images(f"product {product.id!r}", product.images)
        tokens, lengths = tokenizer.encode_flat([p.text for p in products])
        self._set(
            [p.id for p in products],
            tokenizer.size,
            image_counts=np.fromiter((len(p.images) for p in products), np.int64, len(products)),
            images=np.concatenate([np.zeros((1, VECTOR_DIM)), *(p.images for p in products)], dtype=np.float32),
            field_lengths=lengths.astype(np.int64),
            tokens=np.concatenate([np.zeros(1, np.int32), tokens]),
        )

    def _set(self, ids: list[str], vocabulary: int, **arrays: np.ndarray) -> None:
        """Set all attributes. `images` and `tokens` are flat, with one padding element in front."""
        self.ids, self.vocabulary = ids, vocabulary
        self.index = {p: i for i, p in enumerate(ids)}
        if len(self.index) != len(ids):
            duplicate = next(p for p, n in Counter(ids).items() if n > 1)
            raise InputError(f"product {duplicate!r} occurs twice in the training set")
        self.image_counts, self._images = arrays["image_counts"], arrays["images"]
        self.field_lengths, self._tokens = arrays["field_lengths"], arrays["tokens"]
        self._image_starts = np.cumsum(self.image_counts) - self.image_counts
        self._token_counts = self.field_lengths.sum(1)
        self._token_starts = np.cumsum(self._token_counts) - self._token_counts

    def save(self, folder: Path) -> None:
        """Write `products.json` and four `.npy` files into a folder. Not atomic: nobody may read the folder yet."""
        (folder / "products.json").write_bytes(msgspec.json.encode({"vocabulary": self.vocabulary, "ids": self.ids}))
        arrays = (self.image_counts, self._images, self.field_lengths, self._tokens)
        for name, array in zip(_ARRAYS, arrays, strict=True):
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> PackedProducts:
        """Read what `save` wrote. Images and tokens stay on disk until a batch needs them.

        Raises:
            ArtifactError: If a file is missing or truncated, or the files do not belong together.
        """
        packed = cls.__new__(cls)
        try:
            about = msgspec.json.decode((folder / "products.json").read_bytes())
            arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in _ARRAYS}
            packed._set(about["ids"], about["vocabulary"], **arrays)
        except (OSError, EOFError, ValueError, TypeError, KeyError, msgspec.MsgspecError) as error:
            raise ArtifactError(f"{folder} is not a complete training set: {error}") from None
        lengths = (len(packed), 1 + packed.image_counts.sum(), len(packed), 1 + packed._token_counts.sum())
        if tuple(len(arrays[name]) for name in _ARRAYS) != lengths:
            raise ArtifactError(f"{folder} is not a complete training set: its files do not belong together")
        return packed

    def __len__(self) -> int:
        return len(self.ids)

    def batch(
        self, rows: Int64Array, *, images: bool = True, text: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the arguments of `ItemSage.forward` for some products.

        Args:
            rows: `[B]`, row numbers of the products.
            images: Whether to include the images; false for an ablation.
            text: Whether to include the text; false for an ablation.
        """
        counts = self.image_counts[rows] if images else np.zeros(len(rows), np.int64)
        lengths = self.field_lengths[rows] if text else np.zeros_like(self.field_lengths[rows])
        image_at = _gather(self._image_starts[rows], counts)
        token_at = _gather(self._token_starts[rows], lengths.sum(1))
        return (
            torch.from_numpy(self._images[image_at]),
            torch.from_numpy(counts),
            torch.from_numpy(self._tokens[token_at]),
            torch.from_numpy(lengths),
        )

    def titles(self) -> list[Int64Array]:
        """Return the token ids of each product's title."""
        length = self.field_lengths[:, TEXT_FIELDS.index("title")]
        return [self._tokens[1 + s : 1 + s + n] for s, n in zip(self._token_starts, length, strict=True)]

    def main_images(self) -> tuple[Float32Array, np.ndarray[Any, np.dtype[np.bool_]]]:
        """Return each product's first image vector `[P, 256]`, zeros without images, and which products have one."""
        has = self.image_counts > 0
        return self._images[np.where(has, self._image_starts + 1, 0)], has

    def summed_images(self) -> Float32Array:
        """Return the *Sum* baseline `[P, 256]`: summed image vectors of unit length; zeros without images."""
        return sum_images(
            [self._images[s + 1 : s + 1 + n] for s, n in zip(self._image_starts, self.image_counts, strict=True)]
        )


def sum_images(images: Sequence[Float32Array]) -> Float32Array:
    """Return the *Sum* baseline `[B, 256]`: the summed image vectors of each product, of unit length.

    Args:
        images: The image vectors of each product, `[n, 256]`.
    """
    total = np.zeros((len(images), VECTOR_DIM), np.float32)
    for row, vectors in enumerate(images):
        total[row] = vectors.sum(0)
    unit: Float32Array = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return unit


def _gather(starts: Int64Array, counts: Int64Array) -> Int64Array:
    """Return positions in a flat array with a padding element in front: `[B, max(count, 1)]`, 0 for padding."""
    column = np.arange(max(1, int(counts.max(initial=0))))
    return np.where(column < counts[:, None], starts[:, None] + 1 + column, 0)
