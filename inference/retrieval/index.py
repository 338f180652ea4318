"""The candidate index: approximate nearest neighbours in memory, changed in place, of one model version only.

The graph is usearch's HNSW (`graph`). An exact search over the same vectors measures its recall. Linking a vector into
the graph takes up to a millisecond. A follower of a stream of changes can therefore leave vectors unlinked
(`upsert_many` with `link=False`, then `link`): searches compare with each of them, so that they are found at once.

Memory: about 2.0 kB per product with 256 dimensions (measured as resident memory with 60,000 products). The vector in
float16 takes 0.5 kB here and 0.5 kB in the graph; the links take 0.4 kB (8 bytes x connectivity); id, version and
attributes take 0.3 kB; the rest is room to grow. While `compact` runs, the graph exists twice.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from inference.arrays import Float16Array, Float32Array
from inference.errors import InputError
from inference.inputs import VECTOR_DIM
from inference.retrieval import search
from inference.retrieval.candidates import Candidates
from inference.retrieval.filters import Attributes, Filter
from inference.retrieval.graph import HnswSettings, new_graph
from inference.retrieval.locks import FairLock
from inference.retrieval.rebuild import Rebuild
from inference.retrieval.rows import ProductRows, unit_queries, unit_rows
from inference.retrieval.storage import Saved, load, save
from inference.retrieval.unlinked import Unlinked

# Products written per hold of the locks; searches run in between. Each product takes about a third of a millisecond of
# one thread. On one thread larger chunks gain little, and a search would wait longer.
_CHUNK, _CHUNK_OF_ONE_THREAD = 512, 4


class RetrievalIndex:
    """Unit vectors of products under one model version. Threads may read and write it at the same time.

    Each product has its catalogue version: an older vector never replaces a newer one, and a removed product stays
    removed until a newer vector arrives. Attributes for filters have their own versions.

    Args:
        model_version: The version of the model that made the vectors; vectors of another version are refused.
        dim: Length of a vector.
        settings: Parameters of the graph; None for the defaults.

    Attributes:
        model_version: See the arguments.
        dim: See the arguments.
        settings: Parameters of the graph.
        position: How far the source of the products is applied, by partition: set when a saved index is loaded or an
            index is built from the topics or the feature store; empty otherwise. A follower resumes there.
        search_cost: When a filtered search walks the graph.
    """

    def __init__(self, model_version: str, *, dim: int = VECTOR_DIM, settings: HnswSettings | None = None) -> None:
        self.model_version = model_version
        self.dim = dim
        self.settings = settings or HnswSettings()
        self.position: dict[str, int] = {}
        self.search_cost = search.SearchCost()
        self._rows = ProductRows(dim)
        self._graph = new_graph(self.dim, self.settings)
        self._unlinked = Unlinked()
        self._removed_nodes = 0  # since the graph was built
        self._rebuild: Rebuild | None = None  # while `compact` runs
        # A change takes both locks, in this order. Code that only needs a stable index (saving, measuring recall) takes
        # the first lock, so that searches continue. The second lock exists because usearch allows one caller at a time;
        # a batch of queries uses several threads inside that call.
        self._changing = threading.RLock()
        self._lock = FairLock()
        self._compacting = threading.Lock()

    def __len__(self) -> int:
        return len(self._graph) + len(self._unlinked)

    def __contains__(self, product_id: str) -> bool:
        with self._lock:
            return self._rows.find(product_id) is not None

    # ------------------------------------------------------------------------------------------------- changes

    def upsert(self, product_id: str, version: int, vector: Float32Array, *, model_version: str | None = None) -> bool:
        """Add or replace one product.

        Args:
            product_id: The product.
            version: The product's catalogue version.
            vector: `[dim]`; it is scaled to unit length.
            model_version: The version of the model that made the vector; None skips the check.

        Returns:
            Whether it was taken; false if the index has a newer version.

        Raises:
            InputError: If the vector has another shape, NaN, infinity or length zero, or comes from another model.
        """
        self._check_model(model_version)
        if vector.shape != (self.dim,):
            raise self._invalid_vector(product_id, vector.shape)
        return self._upsert([product_id], [version], vector[None], threads=1, link=True)[0]

    def upsert_many(
        self,
        product_ids: Sequence[str],
        versions: Sequence[int],
        vectors: Float32Array,
        *,
        model_version: str | None = None,
        threads: int = 0,
        link: bool = True,
    ) -> list[bool]:
        """Add or replace many products. Searches continue; with one thread they wait for a few products at most.

        If a product occurs several times, its highest version is taken, and among equal versions the last one.

        Args:
            product_ids: `N` products.
            versions: The catalogue version of each product.
            vectors: `[N, dim]`; they are scaled to unit length.
            model_version: The version of the model that made the vectors; None skips the check.
            threads: Number of threads; 0 for all cores.
            link: Whether to link the vectors into the graph. Otherwise searches find them at once, but only `link`
                puts them into the graph.

        Returns:
            For each product, whether it was taken: whether neither the index nor this call has a newer version.

        Raises:
            InputError: As for `upsert`; names the first invalid product. Then no product is added.
        """
        self._check_model(model_version)
        if vectors.shape != (len(product_ids), self.dim) or len(versions) != len(product_ids):
            raise InputError(
                f"{len(product_ids)} products need as many versions, and vectors of length {self.dim}; got "
                f"{len(versions)} versions and vectors of shape {vectors.shape}"
            )
        newest: dict[str, int] = {}
        for at, (product_id, version) in enumerate(zip(product_ids, versions, strict=True)):
            if (best := newest.get(product_id)) is None or version >= versions[best]:
                newest[product_id] = at
        chosen = list(newest.values())
        if len(newest) < len(product_ids):
            vectors = vectors[chosen]
        newer = self._upsert(list(newest), [versions[at] for at in chosen], vectors, threads, link)
        taken = dict(zip(chosen, newer, strict=True))
        return [taken.get(at, False) for at in range(len(product_ids))]

    def extend(
        self,
        products: Iterable[tuple[str, int, Float32Array]],
        *,
        model_version: str | None = None,
        threads: int = 0,
        batch: int = 10_000,
    ) -> int:
        """Add products from an iterable, for instance to rebuild a lost index.

        Args:
            products: (id, version, vector) of each product.
            model_version: As for `upsert_many`.
            threads: As for `upsert_many`.
            batch: Number of products added at once.

        Returns:
            The number of products that were taken.

        Raises:
            InputError: As for `upsert`. Earlier batches stay.
        """
        rest = iter(products)
        added = 0
        while page := list(islice(rest, batch)):
            for product_id, _, vector in page:
                if vector.shape != (self.dim,):
                    raise self._invalid_vector(product_id, vector.shape)
            ids, versions, vectors = zip(*page, strict=True)
            taken = self.upsert_many(ids, versions, np.stack(vectors), model_version=model_version, threads=threads)
            added += sum(taken)
        return added

    @property
    def unlinked(self) -> int:
        """Number of vectors that are not in the graph yet; searches compare with each of them."""
        return len(self._unlinked)

    def link(self, seconds: float = math.inf, keep: int = 0) -> None:
        """Link vectors into the graph, the longest waiting first. Searches wait for a few vectors at most.

        Args:
            seconds: Stop after this time.
            keep: Stop when this many vectors are left.
        """
        end = time.monotonic() + seconds
        while len(self._unlinked) > keep and time.monotonic() < end:
            with self._changing, self._lock:
                rows = self._unlinked.first(_CHUNK_OF_ONE_THREAD)
                if not rows:  # a concurrent `save` has linked them
                    return
                self._graph.add(np.array(rows), self._rows.vectors[rows], threads=1)
                self._unlinked.discard(rows)

    def remove(self, product_id: str, version: int) -> bool:
        """Remove one product; return false if the index holds a newer version."""
        with self._changing, self._lock:
            row = self._rows.row(product_id)
            if version < self._rows.versions[row]:
                return False
            self._rows.versions[row] = version
            if self._rows.held[row]:
                self._take_out([row])
                self._rows.held[row] = False
                self._note([row])
            self._rows.mark_removed(row)
            return True

    def set_attributes(self, product_id: str, version: int, attributes: Attributes) -> bool:
        """Replace the attributes that filters read; return false if the index holds a newer version of them.

        They may arrive before the product's vector, and they are kept while the product is removed.
        """
        with self._changing, self._lock:
            return self._rows.attributes.set(self._rows.row(product_id), version, attributes)

    def forget_removed(self, keep: int) -> int:
        """Forget all but the last `keep` removed products and reuse their rows; return how many were forgotten.

        If an older vector of a forgotten product arrives later, it is taken as new. Removed products with attributes
        are kept: they are in the catalogue, and their vector may return.
        """
        with self._changing, self._lock:
            return self._rows.forget_removed(keep)

    def clear(self) -> None:
        """Remove everything, as in a new index. Waits for a running `compact`."""
        with self._compacting, self._changing, self._lock:
            self._rows, self._graph = ProductRows(self.dim), new_graph(self.dim, self.settings)
            self._removed_nodes, self.position = 0, {}
            self._unlinked.clear()

    @contextmanager
    def changes_paused(self) -> Iterator[None]:
        """Prevent changes by other threads during the block; their searches continue."""
        with self._changing:
            yield

    def vectors(self, product_ids: Sequence[str]) -> dict[str, Float32Array]:
        """Return the stored vectors `[dim]` of these products; products that the index does not have are absent."""
        with self._lock:
            rows = {p: row for p in product_ids if (row := self._rows.find(p)) is not None}
            vectors = self._rows.vectors[list(rows.values())].astype(np.float32)
        return dict(zip(rows, vectors, strict=True))

    # -------------------------------------------------------------------------------------------------- search

    def search(
        self,
        queries: Float32Array,
        k: int = 10,
        *,
        exact: bool = False,
        where: Filter | None = None,
        threads: int = 1,
    ) -> list[Candidates]:
        """Return the `k` nearest products of each query, fewer if fewer products pass the filter.

        Args:
            queries: `[B, dim]` of any length. A zero vector finds nothing.
            k: Number of products, at least 1.
            exact: Whether to compare with every product instead of walking the graph.
            where: Return only products that pass this filter.
            threads: Number of threads that share a batch; 0 for all cores.

        Raises:
            InputError: If `queries` has another shape, NaN or infinity, or `k` is below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim or not np.isfinite(queries).all():
            raise InputError(f"queries must be finite numbers of shape [B, {self.dim}]; have shape {queries.shape}")
        if k < 1:
            raise InputError(f"k ({k}) must be at least 1")
        # Aligned too: usearch refuses unaligned arrays, such as views into the bytes of a stored feature.
        queries = np.require(queries, np.float32, ["C", "A"])
        nonzero = np.flatnonzero(queries.any(1))
        units = unit_queries(queries[nonzero])
        answers = [Candidates([], []) for _ in range(len(queries))]
        for row, answer in zip(nonzero, self._search(units, k, exact, where, threads), strict=True):
            answers[row] = answer
        return answers

    def agreement(self, query: Float32Array, k: int, where: Filter | None = None) -> tuple[int, int]:
        """Count how many of one query's `k` nearest products the approximate search finds.

        Both searches see the same products: changes wait, other searches do not. Products at the same distance as the
        last of the nearest products count as found.

        Args:
            query: `[dim]`.
            k: Number of products.
            where: Filter of both searches.

        Returns:
            The number of products found, and the number of nearest products by exact search.
        """
        with self.changes_paused():
            rows = np.flatnonzero(search.passing_rows(self._rows, where))
            vectors = self._rows.vectors[: len(rows)] if len(rows) == len(self._rows) else self._rows.vectors[rows]
            (true,) = search.compare(self._rows, search.Request(unit_queries(query[None]), k), rows, vectors)
            (approximate,) = self.search(query[None], k, where=where)
        bound = true.scores[-1] - 1e-5 if true.scores else 0.0
        return sum(score >= bound for score in approximate.scores), len(true.ids)

    def check(self, where: Filter) -> None:
        """Refuse a filter on a currency or a category that no product ever had: it is a mistake, not an empty result.

        Raises:
            InputError: Names the value and the existing ones.
        """
        with self._lock:
            self._rows.attributes.check(where)

    def _search(
        self, queries: Float32Array, k: int, exact: bool, where: Filter | None, threads: int
    ) -> list[Candidates]:
        if not len(queries):
            return []
        request = search.Request(queries, k, 1 if len(queries) == 1 else threads)
        with self._lock:
            source = search.Source(self._rows, self._graph, self._unlinked)
            exact = exact or len(self) <= self.settings.exact_up_to
            if where is None:
                return search.search_all(source, request, exact=exact)
            return search.search_filtered(source, request, where, exact=exact, cost=self.search_cost)

    # ------------------------------------------------------------------------------------------------- upkeep

    @property
    def wear(self) -> float:
        """Number of nodes removed from the graph since it was built, per product in the index.

        A replaced product's node is linked again in place, which costs a little recall (`docs/research/log.md`). The
        node of a removed product stays until another product takes it. Run `compact` if `wear` passes about 2 or the
        recall monitor shows a loss.
        """
        with self._lock:
            return self._removed_nodes / max(1, len(self))

    @property
    def row_count(self) -> int:
        """Number of rows, including free rows and those of removed products; the memory grows with it."""
        with self._lock:
            return len(self._rows)

    @property
    def compacting(self) -> bool:
        """Whether `compact` is running."""
        return self._rebuild is not None

    def compact(self, *, threads: int = 0, on_progress: Callable[[int], None] = lambda linked: None) -> None:
        """Build a new graph from the vectors and replace the old one with it.

        Searches and changes continue; changed rows are recorded and applied to the new graph. Waits for another
        running `compact`.

        Args:
            threads: Number of threads; 0 for all cores.
            on_progress: Called after each chunk of the work with the number of products linked so far. No lock is
                held then.
        """
        with self._compacting:
            with self._changing:
                rebuild = self._rebuild = Rebuild(
                    self._rows, new_graph(self.dim, self.settings), self._changing, threads
                )
                rows = np.flatnonzero(self._rows.held)
            try:
                rebuild.link(rows, on_progress)
                with self._changing:
                    rebuild.catch_up()
                    with self._lock:
                        self._graph, self._removed_nodes = rebuild.graph, 0
                        self._unlinked.clear()  # the new graph has every held row
            finally:
                self._rebuild = None

    # -------------------------------------------------------------------------------------------- saving, loading

    def save(self, folder: Path, position: Mapping[str, int] | None = None) -> None:
        """Write the index into a folder. A concurrent reader, or one after a crash, finds the last complete save.

        Changes wait while the state is captured; the files are written and checked afterwards. usearch does not let
        other Python threads run while it writes its graph: requests stop for about 1 ms per 1,000 products.

        Args:
            folder: The folder; created if missing.
            position: How far the source of the products is applied, by partition (for instance topic offsets). A
                reader of the saved index continues there. It must not be ahead of what was applied when `save` was
                called; older is safe.
        """

        def capture(graph_file: Path) -> Saved:
            self.link()  # link most vectors first, while changes need not wait
            with self._changing:
                self.link()
                self._graph.save(str(graph_file))
                rows = self._rows.snapshot()
                return Saved(self.model_version, self.settings, dict(position or {}), self._removed_nodes, rows)

        save(folder, capture)

    @classmethod
    def load(cls, folder: Path, model_version: str, *, dim: int = VECTOR_DIM) -> RetrievalIndex:
        """Read what `save` wrote; `position` is where a reader continues.

        Args:
            folder: The folder.
            model_version: The version that the index must have.
            dim: The length that the vectors must have.

        Raises:
            ArtifactError: If no index is saved there, or it is truncated, altered, or of another model version or
                vector length.
        """
        saved, graph = load(folder, model_version, dim)
        index = cls(model_version, dim=dim, settings=saved.settings)
        index._rows, index.position, index._removed_nodes = saved.rows, saved.position, saved.removed_nodes
        index._graph.load(graph)
        return index

    # ------------------------------------------------------------------------------------------------- inside

    def _upsert(
        self, product_ids: Sequence[str], versions: Sequence[int], vectors: Float32Array, threads: int, link: bool
    ) -> list[bool]:
        units, bad = unit_rows(vectors)
        if bad.any():
            raise self._invalid_vector(product_ids[int(bad.argmax())], vectors.shape[1:])
        size = _CHUNK_OF_ONE_THREAD if threads == 1 and link else _CHUNK
        taken: list[bool] = []
        for start in range(0, len(product_ids), size):
            chunk = slice(start, start + size)
            taken += self._upsert_chunk(product_ids[chunk], versions[chunk], units[chunk], threads, link)
        return taken

    def _upsert_chunk(
        self, ids: Sequence[str], versions: Sequence[int], units: Float16Array, threads: int, link: bool
    ) -> list[bool]:
        """Upsert distinct products under one hold of the locks; return which were not older than the stored ones."""
        with self._changing, self._lock:
            table = self._rows
            rows = np.fromiter(map(table.row, ids), np.int64, len(ids))
            newer = np.asarray(versions, np.int64) >= table.versions[rows]
            rows, units = rows[newer], units[newer]
            table.versions[rows] = np.asarray(versions, np.int64)[newer]
            held = table.held[rows]
            # The same vector again (a replay, a change of text without effect) leaves the graph as it is.
            moved = ~held | (table.vectors[rows] != units).any(1)
            new = rows[moved]
            if len(new):
                self._take_out(rows[moved & held].tolist())
                table.vectors[new] = units[moved]
                if link:
                    self._graph.add(new, units[moved], threads=threads)
                else:
                    self._unlinked.add(new.tolist())
                table.held[new] = True
                self._note(new.tolist())
            return newer.tolist()  # type: ignore[no-any-return]

    def _take_out(self, rows: Sequence[int]) -> None:
        """Take held rows out of the graph or out of the unlinked ones."""
        linked = [row for row in rows if row not in self._unlinked]
        if linked:
            self._graph.remove(np.array(linked))
            self._removed_nodes += len(linked)
        if len(linked) < len(rows):
            self._unlinked.discard(rows)

    def _note(self, rows: Iterable[int]) -> None:
        if self._rebuild is not None:
            self._rebuild.note(rows)

    def _check_model(self, model_version: str | None) -> None:
        if model_version is not None and model_version != self.model_version:
            raise InputError(
                f"a vector of model version {model_version!r} cannot be added to the index of version "
                f"{self.model_version!r}: build a separate index and switch to it"
            )

    def _invalid_vector(self, product_id: str, shape: tuple[int, ...]) -> InputError:
        return InputError(
            f"the vector of product {product_id!r} must be {self.dim} finite numbers, not all zero; has shape {shape}"
        )
