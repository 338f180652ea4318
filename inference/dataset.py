"""The training set: products packed for fast batches, and engagements as (query, product, task) pairs.

A task is a query kind and an engagement ("image/click"). The tasks share every batch; they differ only in the frozen
encoder that embeds the query (ItemSage §3.3). On disk a training set is one folder: products as NumPy arrays that are
mapped into memory, pairs as Parquet.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS, VECTOR_DIM, Float32Array, ProductInput, check_images
from inference.tokenizer import Tokenizer

QueryKind = Literal["image", "search"]
QUERY_KINDS: tuple[QueryKind, ...] = ("image", "search")
TASKS = tuple(f"{kind}/{action}" for kind in QUERY_KINDS for action in ("click", "save", "add_to_cart", "checkout"))
"""The paper's eight tasks."""

IntArray = np.ndarray[Any, np.dtype[np.int64]]


class Engagement(msgspec.Struct, frozen=True):
    """`count` engagements of one kind with one product, after one query.

    `query` is the text of a search, or the product id whose main image was the image query.
    """

    kind: QueryKind
    query: str
    product_id: str
    action: str
    count: int = 1


_ARRAYS = ("image_counts", "images", "field_lengths", "tokens")


class PackedProducts:
    """The products' inputs in flat arrays, so that a batch is two gathers and no loop over products."""

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
        """`images` and `tokens` are flat, with a pad element in front."""
        self.ids, self.vocabulary = ids, vocabulary
        self.index = {p: i for i, p in enumerate(ids)}
        if len(self.index) != len(ids):
            twice = next(p for p, n in Counter(ids).items() if n > 1)
            raise InputError(f"product {twice!r} occurs twice in the training set")
        self.image_counts, self._images = arrays["image_counts"], arrays["images"]
        self.field_lengths, self._tokens = arrays["field_lengths"], arrays["tokens"]
        self._image_starts = np.cumsum(self.image_counts) - self.image_counts
        self._token_counts = self.field_lengths.sum(1)
        self._token_starts = np.cumsum(self._token_counts) - self._token_counts

    def save(self, folder: Path) -> None:
        """Write `products.json` and four `.npy` files into a folder that nobody reads yet."""
        (folder / "products.json").write_bytes(msgspec.json.encode({"vocabulary": self.vocabulary, "ids": self.ids}))
        arrays = (self.image_counts, self._images, self.field_lengths, self._tokens)
        for name, array in zip(_ARRAYS, arrays, strict=True):
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> PackedProducts:
        """Read what `save` wrote; images and tokens stay on disk until a batch asks for them.

        Raises:
            ArtifactError: a file is missing, truncated, or the files do not fit together.
        """
        packed = cls.__new__(cls)
        try:
            about = msgspec.json.decode((folder / "products.json").read_bytes())
            arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in _ARRAYS}
            packed._set(about["ids"], about["vocabulary"], **arrays)
        except (OSError, EOFError, ValueError, TypeError, KeyError, msgspec.MsgspecError) as error:
            raise ArtifactError(f"{folder} is no complete training set: {error}") from None
        whole = (len(packed), 1 + packed.image_counts.sum(), len(packed), 1 + packed._token_counts.sum())
        if tuple(len(arrays[name]) for name in _ARRAYS) != whole:
            raise ArtifactError(f"{folder} is no complete training set: its files do not belong together")
        return packed

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: IntArray, *, images: bool = True, text: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `ItemSage.forward` for these rows; without images or without text for ablations."""
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

    def titles(self) -> list[IntArray]:
        """The token ids of each product's title."""
        length = self.field_lengths[:, TEXT_FIELDS.index("title")]
        return [self._tokens[1 + s : 1 + s + n] for s, n in zip(self._token_starts, length, strict=True)]

    def main_images(self) -> tuple[Float32Array, np.ndarray[Any, np.dtype[np.bool_]]]:
        """The first image's vector of each product `[P, 256]` (zeros without one), and who has one `[P]`."""
        has = self.image_counts > 0
        return self._images[np.where(has, self._image_starts + 1, 0)], has

    def summed_images(self) -> Float32Array:
        """The *Sum* baseline `[P, 256]`: image vectors summed, unit length; zeros for a product without images."""
        return sum_images(
            [self._images[s + 1 : s + 1 + n] for s, n in zip(self._image_starts, self.image_counts, strict=True)]
        )


def sum_images(images: Sequence[Float32Array]) -> Float32Array:
    """The *Sum* baseline: `[n_i, 256]` image vectors per product -> `[B, 256]`, summed and of unit length."""
    total = np.zeros((len(images), VECTOR_DIM), np.float32)
    for row, vectors in enumerate(images):
        total[row] = vectors.sum(0)
    unit: Float32Array = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return unit


class Pairs:
    """Engagements as index arrays, split by hash into training and held-out pairs.

    Left out: engagements with products that are not in the catalogue, and image queries by a product that is not there,
    has no image, or is the engaged product itself.

    Attributes:
        tasks: the names of the known tasks.
        queries: the distinct (kind, query), `query` `[N]` indexes it.
        product, task, count: `[N]` each; `task` indexes `tasks`.
        held_out: `[N]` bool. The split is by (query, product), so that no pair is on both sides.
        query_product: `[Q]`, the product whose image the query is, -1 for a search.

    Raises:
        InputError: an unknown task, a count below 1, or no usable engagement at all.
    """

    def __init__(
        self,
        engagements: Sequence[Engagement],
        packed: PackedProducts,
        held_out_share: float = 0.1,
        tasks: Sequence[str] = TASKS,
    ) -> None:
        number = {task: i for i, task in enumerate(tasks)}
        for e in engagements:
            if f"{e.kind}/{e.action}" not in number or e.count < 1:
                raise InputError(
                    f"{e!r} is no engagement: kind and action must be one of {', '.join(tasks)}, count at least 1"
                )
        has_image = packed.image_counts > 0
        usable = [
            e
            for e in engagements
            if e.product_id in packed.index
            and (
                e.kind == "search"
                or ((q := packed.index.get(e.query)) is not None and has_image[q] and e.query != e.product_id)
            )
        ]
        if not usable:
            raise InputError(
                f"none of the {len(engagements)} engagements is about a product of the catalogue after a usable query; "
                "publish the catalogue and collect clicks first"
            )
        self.tasks = tuple(tasks)
        self.queries: list[tuple[QueryKind, str]] = sorted({(e.kind, e.query) for e in usable})
        asked = [packed.index[q] if kind == "image" else -1 for kind, q in self.queries]
        self.query_product = np.array(asked, np.int64)
        position = {q: i for i, q in enumerate(self.queries)}
        self.query = np.array([position[e.kind, e.query] for e in usable], np.int64)
        self.product = np.array([packed.index[e.product_id] for e in usable], np.int64)
        self.task = np.array([number[f"{e.kind}/{e.action}"] for e in usable], np.int64)
        self.count = np.array([e.count for e in usable], np.int64)
        self.held_out = np.array([_share(e.kind, e.query, e.product_id) < held_out_share for e in usable])
        if self.held_out.all():  # a handful of pairs: better to train on them
            self.held_out[:] = False

    def save(self, folder: Path) -> None:
        """Write `pairs.parquet` and `queries.parquet` into a folder that nobody reads yet."""
        import pyarrow as pa
        from pyarrow import parquet

        task = pa.DictionaryArray.from_arrays(self.task.astype(np.int32), list(self.tasks))
        columns = {"query": self.query, "product": self.product, "count": self.count, "held_out": self.held_out}
        parquet.write_table(pa.table({**columns, "task": task}), folder / "pairs.parquet")
        # Half a surrogate pair is no UTF-8; it is part of no word either, so that nothing is lost.
        texts = [text.encode("utf-8", "replace").decode() for _, text in self.queries]
        queries = {"kind": [kind for kind, _ in self.queries], "text": texts, "product": self.query_product}
        parquet.write_table(pa.table(queries), folder / "queries.parquet")

    @classmethod
    def load(cls, folder: Path) -> Pairs:
        """Read what `save` wrote.

        Raises:
            ArtifactError: a file is missing or truncated.
        """
        import pyarrow as pa
        from pyarrow import parquet

        pairs = cls.__new__(cls)
        try:
            table = parquet.read_table(folder / "pairs.parquet").combine_chunks()
            queries = parquet.read_table(folder / "queries.parquet")
            pairs.query, pairs.product, pairs.count = (table[c].to_numpy() for c in ("query", "product", "count"))
            pairs.held_out = table["held_out"].to_numpy()
            task = table["task"].combine_chunks()
            pairs.tasks = tuple(task.dictionary.to_pylist())
            pairs.task = task.indices.to_numpy().astype(np.int64)
            pairs.queries = list(zip(queries["kind"].to_pylist(), queries["text"].to_pylist(), strict=True))
            pairs.query_product = queries["product"].to_numpy()
        except (OSError, KeyError, AttributeError, pa.ArrowInvalid) as error:
            raise ArtifactError(f"{folder} is no complete training set: {error}") from None
        return pairs

    @property
    def training(self) -> IntArray:
        """Row numbers of the training pairs."""
        return np.flatnonzero(~self.held_out)


def _gather(starts: IntArray, counts: IntArray) -> IntArray:
    """Positions in a flat array with a pad element in front: `[B, max(count, 1)]`, 0 where there is nothing."""
    column = np.arange(max(1, int(counts.max(initial=0))))
    return np.where(column < counts[:, None], starts[:, None] + 1 + column, 0)


def _share(*parts: str) -> float:
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
