"""Engagements as (query, product, task) index arrays, split into training and held-out pairs.

On disk they are Parquet files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inference.arrays import Int64Array
from inference.errors import ArtifactError, InputError
from inference.training.engagements import TASKS, Engagement, QueryKind
from inference.training.packed import PackedProducts


class Pairs:
    """`N` engagements with usable queries and products, split by hash into training and held-out pairs.

    An engagement is left out if its product is not in the catalogue. An image query is also left out if its product is
    not in the catalogue, has no image or is the engaged product itself.

    Args:
        engagements: All engagements.
        packed: The catalogue.
        held_out_share: Share of the pairs that is held out.
        tasks: Names of the tasks that the engagements may belong to.

    Attributes:
        tasks: Names of the tasks.
        queries: The `Q` distinct queries as (kind, query).
        query: `[N]`, index into `queries`.
        product: `[N]`, row number of the engaged product.
        task: `[N]`, index into `tasks`.
        count: `[N]`, number of engagements.
        held_out: `[N]` bool. The split is by (query, product): no pair is on both sides.
        query_product: `[Q]`, row number of the product whose image is the query; -1 for a search.

    Raises:
        InputError: If a task is unknown, a count is below 1, or no engagement is usable.
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
                    f"{e!r} is not a valid engagement: kind and action must be one of {', '.join(tasks)}, and count at "
                    "least 1"
                )
        usable = [e for e in engagements if _usable(e, packed)]
        if not usable:
            raise InputError(
                f"none of the {len(engagements)} engagements has a product of the catalogue and a usable query; "
                "publish the catalogue and collect clicks first"
            )
        self.tasks = tuple(tasks)
        self.queries: list[tuple[QueryKind, str]] = sorted({(e.kind, e.query) for e in usable})
        query_products = [packed.index[q] if kind == "image" else -1 for kind, q in self.queries]
        self.query_product = np.array(query_products, np.int64)
        position = {q: i for i, q in enumerate(self.queries)}
        self.query = np.array([position[e.kind, e.query] for e in usable], np.int64)
        self.product = np.array([packed.index[e.product_id] for e in usable], np.int64)
        self.task = np.array([number[f"{e.kind}/{e.action}"] for e in usable], np.int64)
        self.count = np.array([e.count for e in usable], np.int64)
        self.held_out = np.array([_hash_share(e.kind, e.query, e.product_id) < held_out_share for e in usable])
        if self.held_out.all():  # there are only a few pairs: train on them
            self.held_out[:] = False

    def save(self, folder: Path) -> None:
        """Write `pairs.parquet` and `queries.parquet` into a folder. Not atomic: nobody may read the folder yet."""
        import pyarrow as pa
        from pyarrow import parquet

        task = pa.DictionaryArray.from_arrays(self.task.astype(np.int32), list(self.tasks))
        columns = {"query": self.query, "product": self.product, "count": self.count, "held_out": self.held_out}
        parquet.write_table(pa.table({**columns, "task": task}), folder / "pairs.parquet")
        # A lone surrogate is not valid UTF-8. It is part of no word either, so nothing is lost.
        texts = [text.encode("utf-8", "replace").decode() for _, text in self.queries]
        queries = {"kind": [kind for kind, _ in self.queries], "text": texts, "product": self.query_product}
        parquet.write_table(pa.table(queries), folder / "queries.parquet")

    @classmethod
    def load(cls, folder: Path) -> Pairs:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If a file is missing or truncated.
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
            raise ArtifactError(f"{folder} is not a complete training set: {error}") from None
        return pairs

    @property
    def training(self) -> Int64Array:
        """Row numbers of the training pairs."""
        return np.flatnonzero(~self.held_out)


def _usable(engagement: Engagement, packed: PackedProducts) -> bool:
    if engagement.product_id not in packed.index:
        return False
    if engagement.kind == "search":
        return True
    row = packed.index.get(engagement.query)
    return row is not None and bool(packed.image_counts[row]) and engagement.query != engagement.product_id


def _hash_share(*parts: str) -> float:
    """Return a number from 0 to 1 that depends on the texts only."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
