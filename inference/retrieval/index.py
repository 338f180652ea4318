"""The candidates index: approximate nearest neighbours in memory, changed in place, of one model version only.

HNSW from usearch (`graph.py`). `exact` search over the same vectors is the judge of its recall. To link a vector into
the graph takes up to a millisecond; who follows a stream of changes lets vectors wait for that (`upsert_many` with
`link=False`, then `link`): searches compare those one by one, so that they are found at once.

Memory: about 2.0 kB per product of 256 dimensions (measured as resident memory, 60,000 products). Of these the vector
in float16 takes 0.5 kB here and 0.5 kB in the graph, the links 0.4 kB (8 bytes x connectivity), id, version
and attributes 0.3 kB, the rest is room to grow. While `compact` runs, the graph is there twice.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inference.arrays import BoolArray, Float16Array, Float32Array, Int64Array
from inference.errors import InputError
from inference.inputs import VECTOR_DIM
from inference.retrieval.filters import Attributes, Filter
from inference.retrieval.graph import HnswSettings, Matches, nearest_rows, new_graph
from inference.retrieval.rows import ProductRows, unit_queries, unit_rows
from inference.retrieval.storage import Saved, load, save

# Writers of many products let searches in after so many; each costs about a third of a millisecond and thread. On one
# thread little is gained by more at once, and a search waits less.
_CHUNK, _CHUNK_OF_ONE_THREAD = 512, 4
# A filtered search that walks the graph reads so many times k / selectivity neighbours: far from the query the graph is
# less exact than near it (recall 0.95 at 1.5 times, 0.98 and more at 3).
_OVERSAMPLING = 3
# Reading one neighbour takes about as long as comparing so many vectors with the query: 13 against 0.2 microseconds.
_VECTORS_PER_NEIGHBOUR = 60
_COMPARISONS_AT_ONCE = 4_000_000  # 16 bytes each while they are sorted


class _Turns:
    """A lock taken in turn: a thread that wants it again at once waits for who stands in line. Not reentrant."""

    def __init__(self) -> None:
        self._line, self._lock = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._line:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Candidates(NamedTuple):
    """The nearest products of one query: ids and cosines, the best first."""

    ids: list[str]
    scores: list[float]


class RetrievalIndex:
    """Products' unit vectors under one model version. Safe to read and write from several threads.

    Each product carries its catalogue version: an older vector never replaces a newer one, and a removal leaves a
    mark that an older vector cannot pass. Attributes to filter by have versions of their own.

    Args:
        model_version: of the model that made the vectors; those of another are refused.
        dim: length of a vector.
    """

    def __init__(self, model_version: str, *, dim: int = VECTOR_DIM, settings: HnswSettings | None = None) -> None:
        self.model_version = model_version
        self.dim = dim
        self.settings = settings or HnswSettings()
        self.position: dict[str, int] = {}  # how far its source is applied, where it was loaded with one
        self._rows = ProductRows(dim)
        self._graph = new_graph(self.dim, self.settings)
        self._waiting: dict[int, None] = {}  # rows that are held but not in the graph, in the order of their coming
        self._waiting_vectors: tuple[Int64Array, Float16Array] | None = None  # of those, once a search has asked
        self._taken_out = 0  # nodes, since the graph was built
        self._journal: set[int] | None = None  # rows changed while the graph is rebuilt
        # Changes take both locks, in this order. Who must only see that nothing changes (saving, the judge of recall)
        # takes the first, and searches go on. The second is because usearch lets one caller at a time into an index; a
        # batch uses several threads inside.
        self._changing = threading.RLock()
        self._lock = _Turns()
        self._compacting = threading.Lock()

    def __len__(self) -> int:
        return len(self._graph) + len(self._waiting)

    def __contains__(self, product_id: str) -> bool:
        with self._lock:
            return self._rows.holds(product_id) is not None

    # ------------------------------------------------------------------------------------------------- changes

    def upsert(self, product_id: str, version: int, vector: Float32Array, *, model_version: str | None = None) -> bool:
        """Add or replace one product; false when the index holds a newer version.

        Raises:
            InputError: another length than `dim`, NaN, infinity, zero length, or another model's vector.
        """
        self._check_model(model_version)
        if vector.shape != (self.dim,):
            raise self._misplaced(product_id, vector.shape)
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
        """Add or replace many products on several threads (0: all cores).

        Searches go on meanwhile; on one thread they wait for a few products at most. When a product comes several
        times, its highest version counts, the last of equals.

        Args:
            vectors: `[N, dim]`.
            link: false: they are found at once, but only `link` puts them into the graph.

        Returns:
            For each whether it was taken: not when the index holds a newer version, or this call brings one.

        Raises:
            InputError: as for `upsert`, naming the first product that cannot be placed; then none is added.
        """
        self._check_model(model_version)
        if vectors.shape != (len(product_ids), self.dim) or len(versions) != len(product_ids):
            raise InputError(
                f"{len(product_ids)} products need as many versions and vectors of {self.dim}; "
                f"there are {len(versions)} versions and vectors of shape {vectors.shape}"
            )
        newest: dict[str, int] = {}
        for at, (product_id, version) in enumerate(zip(product_ids, versions, strict=True)):
            if (held := newest.get(product_id)) is None or version >= versions[held]:
                newest[product_id] = at
        chosen = list(newest.values())
        if len(newest) < len(product_ids):
            vectors = vectors[chosen]
        newer = self._upsert(list(newest), [versions[at] for at in chosen], vectors, threads, link)
        taken = dict(zip(chosen, newer, strict=True))
        return [taken.get(at, False) for at in range(len(product_ids))]

    @property
    def waiting(self) -> int:
        """Vectors that are compared one by one because they are not in the graph yet."""
        return len(self._waiting)

    def link(self, seconds: float = math.inf, keep: int = 0) -> None:
        """Put waiting vectors into the graph, those first that came first, until `keep` are left or the time is up.

        On one thread; searches wait for a few vectors at most.
        """
        end = time.monotonic() + seconds
        while len(self._waiting) > keep and time.monotonic() < end:
            with self._changing, self._lock:
                rows = list(islice(self._waiting, _CHUNK_OF_ONE_THREAD))
                if not rows:  # a `save` linked them meanwhile
                    return
                self._graph.add(np.array(rows), self._rows.vectors[rows], threads=1)
                self._wait_no_longer(rows)

    def extend(
        self,
        products: Iterable[tuple[str, int, Float32Array]],
        *,
        model_version: str | None = None,
        threads: int = 0,
        batch: int = 10_000,
    ) -> int:
        """`upsert_many` from (id, version, vector) one after the other; how many were taken.

        An empty index extended by all that is live is the rebuild of a lost one.
        """
        rest = iter(products)
        added = 0
        while page := list(islice(rest, batch)):
            for product_id, _, vector in page:
                if vector.shape != (self.dim,):
                    raise self._misplaced(product_id, vector.shape)
            ids, versions, vectors = zip(*page, strict=True)
            taken = self.upsert_many(ids, versions, np.stack(vectors), model_version=model_version, threads=threads)
            added += sum(taken)
        return added

    def remove(self, product_id: str, version: int) -> bool:
        """Remove one product; false when the index holds a newer version."""
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
        """Replace what a product is filtered by; false when a newer version's attributes are there.

        They may come before the product's vector, and are kept while it is removed.
        """
        with self._changing, self._lock:
            return self._rows.attributes.set(self._rows.row(product_id), version, attributes)

    def forget_removed(self, keep: int) -> int:
        """Forget all but the last `keep` removed products, and use their places again; how many were forgotten.

        A forgotten product's older vector is taken as new, if one still comes. Those with attributes are kept: they are
        in the catalogue, and their vector may come back.
        """
        with self._changing, self._lock:
            return self._rows.forget_removed(keep)

    def clear(self) -> None:
        """Forget all products, to build the index anew. Waits for a `compact` that is under way."""
        with self._compacting, self._changing, self._lock:
            self._rows, self._graph = ProductRows(self.dim), new_graph(self.dim, self.settings)
            self._taken_out, self.position = 0, {}
            self._wait_no_longer(list(self._waiting))

    def vectors(self, product_ids: Sequence[str]) -> dict[str, Float32Array]:
        """The stored vectors `[256]` of those of the products that the index holds."""
        with self._lock:
            held = {p: row for p in product_ids if (row := self._rows.holds(p)) is not None}
            found = self._rows.vectors[list(held.values())].astype(np.float32)
        return dict(zip(held, found, strict=True))

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
        """The `k` nearest products of each query, fewer when the index holds fewer (or fewer that pass the filter).

        Args:
            queries: `[B, 256]`; a zero vector (a query that says nothing) finds nothing.
            k: at least 1.
            exact: compare with every product instead of walking the graph.
            where: find only products that pass.
            threads: that share a batch; 0: all cores.

        Raises:
            InputError: another shape, NaN or infinity, k below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim or not np.isfinite(queries).all():
            raise InputError(f"queries must be finite numbers of shape [B, {self.dim}]; have shape {queries.shape}")
        if k < 1:
            raise InputError(f"k ({k}) must be at least 1")
        # Aligned too: usearch refuses arrays such as those that look into the bytes of a stored feature.
        queries = np.require(queries, np.float32, ["C", "A"])
        speaking = np.flatnonzero(queries.any(1))
        units = unit_queries(queries[speaking])
        answers = [Candidates([], []) for _ in range(len(queries))]
        for row, answer in zip(speaking, self._search(units, k, exact, where, threads), strict=True):
            answers[row] = answer
        return answers

    def agreement(self, query: Float32Array, k: int, where: Filter | None = None) -> tuple[int, int]:
        """Of one query's `k` nearest products by exact search, how many the approximate finds, and how many there are.

        Both see the same products: changes wait, other searches do not. A product as near as the last of the nearest
        counts as one of them.
        """
        with self._changing:
            rows = np.flatnonzero(self._passing(where))
            vectors = self._rows.vectors[: len(rows)] if len(rows) == len(self._rows) else self._rows.vectors[rows]
            (true,) = self._compare(unit_queries(query[None]), k, rows, vectors, threads=1)
            (found,) = self.search(query[None], k, where=where)
        bound = true.scores[-1] - 1e-5 if true.scores else 0.0
        return sum(score >= bound for score in found.scores), len(true.ids)

    def check(self, where: Filter) -> None:
        """Refuse a filter on a currency or a category that no product ever had: a mistake, not an empty shelf.

        Raises:
            InputError: names the value, and what there is.
        """
        with self._lock:
            self._rows.attributes.check(where)

    def _search(
        self, queries: Float32Array, k: int, exact: bool, where: Filter | None, threads: int
    ) -> list[Candidates]:
        if not len(queries):
            return []
        threads = 1 if len(queries) == 1 else threads
        with self._lock:
            exact = exact or len(self) <= self.settings.exact_up_to
            if where is None:
                answers = [Candidates([], []) for _ in queries]
                if size := len(self._graph):
                    found = Matches(self._graph.search(queries, min(k, size), exact=exact, threads=threads))
                    answers = [
                        self._named(found.keys[at, :n], found.distances[at, :n]) for at, n in enumerate(found.counts)
                    ]
                return self._with_waiting(queries, k, answers) if self._waiting else answers
            passing = self._passing(where)
            pool = np.flatnonzero(passing)
            if exact or len(pool) <= k:
                return self._compare(queries, k, pool, self._rows.vectors[pool], threads)
            return self._walk(queries, k, pool, passing, threads)

    def _passing(self, where: Filter | None) -> BoolArray:
        """Which rows hold a product that passes."""
        held = self._rows.held[: len(self._rows)]
        return held if where is None else self._rows.attributes.matching(where, len(self._rows)) & held

    def _walk(
        self, queries: Float32Array, k: int, pool: Int64Array, passing: BoolArray, threads: int
    ) -> list[Candidates]:
        """Read more neighbours than asked for and keep those that pass; four times as many where that was too few.

        Where that costs more than comparing with all that pass, they are compared: at a low selectivity from the start
        (at 100,000 products and k = 10 up to 13 %), else where a query lies far from everything that passes.
        """
        size = len(self)
        answers: list[Candidates | None] = [None] * len(queries)
        pending = np.arange(len(queries))
        fetch = math.ceil(_OVERSAMPLING * k * size / len(pool)) + k
        while len(pending) and len(self._graph) and fetch * _VECTORS_PER_NEIGHBOUR < len(pool):
            found = Matches(self._graph.search(queries[pending], min(fetch, len(self._graph)), threads=threads))
            for at, query in enumerate(pending):
                keys = found.keys[at, : found.counts[at]]
                good = np.flatnonzero(passing[keys])[:k]
                if len(good) == k:
                    named = self._named(keys[good], found.distances[at, good])
                    (answers[query],) = self._with_waiting(queries[query][None], k, [named], passing)
            pending = np.array([query for query in pending if answers[query] is None], np.int64)
            fetch *= 4
        if len(pending):
            rest = self._compare(queries[pending], k, pool, self._rows.vectors[pool], threads)
            for query, answer in zip(pending, rest, strict=True):
                answers[query] = answer
        return [answer for answer in answers if answer is not None]

    def _compare(
        self, queries: Float32Array, k: int, rows: Int64Array, vectors: Float16Array, threads: int
    ) -> list[Candidates]:
        """The `k` nearest of these rows, by comparing with each."""
        answers: list[Candidates] = []
        at_once = max(1, _COMPARISONS_AT_ONCE // max(1, len(rows)))
        for start in range(0, len(queries), at_once):
            some = queries[start : start + at_once]
            if not len(rows):
                answers += [Candidates([], []) for _ in some]
                continue
            found = nearest_rows(vectors, some, min(k, len(rows)), threads)
            answers += [
                self._named(rows[found.keys[at, :n]], found.distances[at, :n]) for at, n in enumerate(found.counts)
            ]
        return answers

    def _with_waiting(
        self, queries: Float32Array, k: int, found: Sequence[Candidates], passing: BoolArray | None = None
    ) -> list[Candidates]:
        """The `k` best of what the graph has found and of the vectors that wait for it."""
        if not self._waiting:
            return list(found)
        if self._waiting_vectors is None:
            rows = np.fromiter(self._waiting, np.int64, len(self._waiting))
            self._waiting_vectors = rows, self._rows.vectors[rows]
        rows, vectors = self._waiting_vectors
        if passing is not None:
            rows, vectors = rows[passing[rows]], vectors[passing[rows]]
        return [
            _best(k, mine, theirs)
            for mine, theirs in zip(found, self._compare(queries, k, rows, vectors, threads=1), strict=True)
        ]

    def _named(self, rows: Any, distances: Any) -> Candidates:
        return Candidates(self._rows.names(rows.tolist()), (1.0 - distances).tolist())

    # ------------------------------------------------------------------------------------------------- upkeep

    @property
    def wear(self) -> float:
        """How far the graph is from a fresh one: nodes taken out since it was built, per product held.

        A replaced product's node is linked anew in place, which costs a little recall (`docs/research/log.md`); a removed
        one's stays until another product takes it. `compact` when it passes 2 or so, or when the recall monitor asks.
        """
        with self._lock:
            return self._taken_out / max(1, len(self))

    def compact(self, *, threads: int = 0) -> None:
        """Build the graph anew from the vectors, on several threads, and put it in the old one's place at once.

        Searches and changes go on meanwhile: what changes is noted and done again on the new graph. Waits for another
        `compact` that is under way.
        """
        with self._compacting:
            with self._changing:
                self._journal = set()
                rows = np.flatnonzero(self._rows.held)
            try:
                graph = new_graph(self.dim, self.settings)
                for start in range(0, len(rows), _CHUNK):
                    self._link(graph, rows[start : start + _CHUNK], threads)
                while len(changed := self._take_journal()) > _CHUNK:  # most of it while changes go on
                    self._relink(graph, changed, threads)
                with self._changing:
                    self._relink(graph, changed | self._take_journal(), threads)
                    with self._lock:
                        self._graph, self._taken_out = graph, 0
                        self._wait_no_longer(list(self._waiting))  # whatever is held is in the new graph
            finally:
                self._journal = None

    def _link(self, graph: Any, rows: Int64Array, threads: int) -> None:
        """Add those of the rows that are held now."""
        with self._changing:
            rows = rows[self._rows.held[rows]]
            vectors = self._rows.vectors[rows]
        if len(rows):
            graph.add(rows, vectors, threads=threads)

    def _relink(self, graph: Any, changed: set[int], threads: int) -> None:
        if changed:
            rows = np.fromiter(changed, np.int64, len(changed))
            graph.remove(rows[graph.contains(rows)])
            self._link(graph, rows, threads)

    def _take_journal(self) -> set[int]:
        with self._changing:
            taken, self._journal = self._journal or set(), set()
            return taken

    # -------------------------------------------------------------------------------------------- saving, loading

    def save(self, folder: Path, position: Mapping[str, int] | None = None) -> None:
        """Write the index into a folder; whoever loads it meanwhile, or after a crash, finds the last whole one.

        Changes wait while it is taken down, the files are written and checked after that. usearch does not let other
        Python threads run while it writes its graph: requests stand still for about 1 ms for each 1,000 products.

        Args:
            position: how far the source of the products is applied (topic offsets, say), so that a reader of the
                saved index goes on from there. At most what was applied when `save` was called: older is safe.
        """

        def take_down(graph_file: Path) -> Saved:
            self.link()  # most of them before changes have to wait
            with self._changing:
                self.link()
                self._graph.save(str(graph_file))
                return Saved(
                    self.model_version, self.settings, dict(position or {}), self._taken_out, self._rows.snapshot()
                )

        save(folder, take_down)

    @classmethod
    def load(cls, folder: Path, model_version: str, *, dim: int = VECTOR_DIM) -> RetrievalIndex:
        """Read what `save` wrote; `position` then says where to go on.

        Raises:
            ArtifactError: nothing is saved there, or it is truncated, altered, or of another model version or length.
        """
        saved, graph = load(folder, model_version, dim)
        index = cls(model_version, dim=dim, settings=saved.settings)
        index._rows, index.position, index._taken_out = saved.rows, saved.position, saved.taken_out
        index._graph.load(graph)
        return index

    # ------------------------------------------------------------------------------------------------- inside

    def _upsert(
        self, product_ids: Sequence[str], versions: Sequence[int], vectors: Float32Array, threads: int, link: bool
    ) -> list[bool]:
        units, bad = unit_rows(vectors)
        if bad.any():
            raise self._misplaced(product_ids[int(bad.argmax())], vectors.shape[1:])
        taken: list[bool] = []
        for chunk in _chunks(len(product_ids), _CHUNK_OF_ONE_THREAD if threads == 1 and link else _CHUNK):
            taken += self._upsert_chunk(product_ids[chunk], versions[chunk], units[chunk], threads, link)
        return taken

    def _upsert_chunk(
        self, ids: Sequence[str], versions: Sequence[int], units: Float16Array, threads: int, link: bool
    ) -> list[bool]:
        """Distinct products under one hold of the locks; which were not older than what is held."""
        with self._changing, self._lock:
            table = self._rows
            rows = np.fromiter(map(table.row, ids), np.int64, len(ids))
            newer = np.asarray(versions, np.int64) >= table.versions[rows]
            rows, units = rows[newer], units[newer]
            table.versions[rows] = np.asarray(versions, np.int64)[newer]
            held = table.held[rows]
            # The same vector again (a replay, a change of text that says the same) leaves the graph as it is.
            moved = ~held | (table.vectors[rows] != units).any(1)
            new = rows[moved]
            if len(new):
                self._take_out(rows[moved & held].tolist())
                table.vectors[new] = units[moved]
                if link:
                    self._graph.add(new, units[moved], threads=threads)
                else:
                    self._waiting.update(dict.fromkeys(new.tolist()))
                    self._waiting_vectors = None
                table.held[new] = True
                self._note(new.tolist())
            return newer.tolist()  # type: ignore[no-any-return]

    def _take_out(self, rows: Sequence[int]) -> None:
        """Rows that are held, out of the graph or of those that wait for it."""
        linked = [row for row in rows if row not in self._waiting]
        if linked:
            self._graph.remove(np.array(linked))
            self._taken_out += len(linked)
        if len(linked) < len(rows):
            self._wait_no_longer(rows)

    def _wait_no_longer(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._waiting.pop(row, None)
        self._waiting_vectors = None

    def _note(self, rows: Iterable[int]) -> None:
        if self._journal is not None:
            self._journal.update(rows)

    def _check_model(self, model_version: str | None) -> None:
        if model_version is not None and model_version != self.model_version:
            raise InputError(
                f"a vector of model version {model_version!r} has no place in the index of version "
                f"{self.model_version!r}: build an index of its own and switch to it"
            )

    def _misplaced(self, product_id: str, shape: tuple[int, ...]) -> InputError:
        return InputError(
            f"the vector of product {product_id!r} must be {self.dim} finite numbers, not all zero; has shape {shape}"
        )


def _best(k: int, mine: Candidates, theirs: Candidates) -> Candidates:
    """The `k` best of two answers to one query, in order; no product is in both."""
    scores = np.array(mine.scores + theirs.scores)
    ids = mine.ids + theirs.ids
    order = np.argsort(-scores, kind="stable")[:k].tolist()
    return Candidates([ids[at] for at in order], scores[order].tolist())


def _chunks(number: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, number, size))
