"""The status of every view: how fresh and how complete its features are, by event time.

A job that runs on time over a feed that stopped yesterday reports no error, but the age of the newest event grows. All
figures are of the newest row of each product (in `user_recent`, of each shopper) in the history, by DuckDB over
Parquet, in bounded memory. Rates and vector lengths are of a sample of those rows. What differs between two model
versions is in `feature_repo.monitoring.canary`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Final, NamedTuple

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.definitions import CREATED_TIME, DELETED, EVENT_TIME, VERSION
from feature_repo.errors import HistoryError, InvalidFeatureError
from feature_repo.history.parts import PartGoneError, readable
from feature_repo.history.writer import History
from feature_repo.store import ProductFeatureStore
from feature_repo.times import MICROSECONDS_PER_SECOND, from_microseconds, to_microseconds

SAMPLE: Final = 20_000
"""Products whose features are checked."""
AGE_EDGES: Final = (60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
"""Upper edges of the ages in `ViewStatus.age_counts`, in seconds."""
_MEMORY: Final = "384MB"
_TRIES: Final = 3
_BINS: Final = 30


class Norms(msgspec.Struct, frozen=True, kw_only=True):
    """Lengths of the sampled vectors of a view.

    Attributes:
        smallest: The smallest finite length.
        mean: The mean of the finite lengths.
        largest: The largest finite length.
        not_finite: Vectors with NaN or infinity.
        counts: Histogram of the finite lengths, from `smallest` to `largest`.
    """

    smallest: float
    mean: float
    largest: float
    not_finite: int
    counts: list[int] = []


class ViewStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of one view. Ages are in seconds; None without a product.

    Attributes:
        view: The name of the view.
        parts: Parts of the history.
        bytes: Bytes of the history.
        history_rows: Rows of the history, all versions.
        products: Live products in the history.
        deleted: Deleted products in the history.
        online_rows: Rows in the online store, tombstones included.
        newest_event: The newest event time, deletions included.
        age_s: The age of the newest event: how far the view is behind.
        age_p50_s: The median age of the live products' last changes.
        age_p90_s: The 90th percentile of those ages.
        age_p99_s: The 99th percentile of those ages.
        age_counts: Live products by the age of their last change: below each of `AGE_EDGES`, and above.
        sampled: Sampled live products.
        empty_rates: By feature, the share of sampled products where it is null, '' or [].
        norms: Lengths of the sampled vectors, if the view can be searched.
        schema_drift: Parts whose columns are not the view's, one sentence each.
    """

    view: str
    parts: int
    bytes: int
    history_rows: int
    products: int
    deleted: int
    online_rows: int
    newest_event: datetime | None
    age_s: float | None
    age_p50_s: float | None
    age_p90_s: float | None
    age_p99_s: float | None
    age_counts: list[int] = []
    sampled: int
    empty_rates: dict[str, float]
    norms: Norms | None
    schema_drift: list[str]


def watch(
    store: ProductFeatureStore, *, now: datetime, views: Sequence[str] = (), sample: int = SAMPLE
) -> list[ViewStatus]:
    """Collect the status of views.

    Args:
        store: The feature store.
        now: The time that ages count to.
        views: The full names of the views; none stands for all views.
        sample: The number of products whose features are checked, about.

    Raises:
        InvalidFeatureError: A view is unknown.
        HistoryError: A part cannot be read.
    """
    names = store.view_names()
    if unknown := [name for name in views if name not in names]:
        raise InvalidFeatureError(f"Unknown views {unknown}: the views are {', '.join(names)}.")
    return [_status(store, name, now, sample) for name in views or names]


def _status(store: ProductFeatureStore, name: str, now: datetime, sample: int) -> ViewStatus:
    view, history = store.view(name), store.history(name)
    files = _check_parts(name, history)
    figures = _figures(name, history, files.columns if files.rows else set(), to_microseconds(now), sample)
    times = (figures.newest_us, *figures.quantiles_us)
    ages = [None if at is None else (to_microseconds(now) - at) / MICROSECONDS_PER_SECOND for at in times]
    return ViewStatus(
        view=name,
        parts=files.parts,
        bytes=files.bytes,
        history_rows=files.rows,
        products=figures.live,
        deleted=figures.deleted,
        online_rows=store.online.count(store.config, view),
        newest_event=None if figures.newest_us is None else from_microseconds(figures.newest_us),
        age_s=ages[0],
        age_p50_s=ages[1],
        age_p90_s=ages[2],
        age_p99_s=ages[3],
        age_counts=figures.age_counts,
        sampled=figures.sample.num_rows,
        empty_rates={f: _empty_rate(figures.sample[f]) for f in figures.sample.schema.names if f != history.key},
        norms=next((_norms(figures.sample[f.name]) for f in view.features if f.vector_index), None),
        schema_drift=files.drift,
    )


# The files.


class _Files(NamedTuple):
    parts: int
    bytes: int
    rows: int
    columns: set[str]  # that some part has
    drift: list[str]


def _check_parts(name: str, history: History) -> _Files:
    parts = history.parts()
    size = rows = 0
    columns: set[str] = set()
    drift = []
    for part in parts:
        try:
            with readable(part):
                size += part.stat().st_size
                with pq.ParquetFile(part) as file:
                    rows += file.metadata.num_rows
                    columns.update(file.schema_arrow.names)
                    drift += _drift(f"{name}: {part.name}", history.schema, file.schema_arrow)
        except PartGoneError:  # the rows are in another part now
            continue
    return _Files(len(parts), size, rows, columns, drift)


def _drift(part: str, expected: pa.Schema, schema: pa.Schema) -> list[str]:
    sentences = []
    if missing := sorted(set(expected.names) - set(schema.names)):
        sentences.append(f"{part} lacks {', '.join(missing)}")
    if extra := sorted(set(schema.names) - set(expected.names)):
        sentences.append(f"{part} has {', '.join(extra)}, which the view does not have")
    for field in expected:
        if field.name in schema.names and not _is_same_type(schema.field(field.name).type, field.type):
            sentences.append(f"{part} has {field.name} as {schema.field(field.name).type}, the view as {field.type}")
    return sentences


def _is_same_type(left: pa.DataType, right: pa.DataType) -> bool:
    """Whether two types are equal, however Parquet's writers name the items of lists."""
    if pa.types.is_list(left) and pa.types.is_list(right):
        return _is_same_type(left.value_type, right.value_type)
    return bool(left == right)


# The newest row of each key.


class _Figures(NamedTuple):
    live: int
    deleted: int
    newest_us: int | None
    quantiles_us: tuple[int | None, int | None, int | None]  # event times of the 50th, 90th and 99th percentile of age
    age_counts: list[int]
    sample: pa.Table


def _figures(name: str, history: History, columns: set[str], now_us: int, sample: int) -> _Figures:
    """Compute the figures of a view; `columns` are those that some part has."""
    payload = [n for n in history.schema.names if n not in (VERSION, DELETED, EVENT_TIME, CREATED_TIME)]
    if not columns:
        empty = history.schema.empty_table().select(payload)
        return _Figures(0, 0, None, (None, None, None), [0] * (len(AGE_EDGES) + 1), empty)
    for attempt in range(1, _TRIES + 1):
        try:
            return _query(history, payload, columns, now_us, sample)
        except duckdb.Error as error:
            # Compaction may remove a part after DuckDB has listed it.
            if attempt == _TRIES or not isinstance(error, duckdb.IOException):
                raise HistoryError(f"The history of {name} cannot be read: {error}.") from error
    raise AssertionError("the last attempt returns or raises")


def _query(history: History, payload: Sequence[str], columns: set[str], now_us: int, sample: int) -> _Figures:
    with closing(duckdb.connect()) as connection:
        connection.execute(f"set memory_limit = '{_MEMORY}'")
        connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
        ages = ", ".join(
            f"count(*) filter (not deleted and {now_us} - us >= {round(edge * MICROSECONDS_PER_SECOND)})"
            for edge in AGE_EDGES
        )
        live, deleted, newest_us, p50, p90, p99, *older = connection.execute(
            f"""with newest as (select deleted, epoch_us(event_timestamp) as us {_newest_rows(history)})
            select count(*) filter (not deleted), count(*) filter (deleted), max(us),
                cast(quantile_disc(us, 0.5) filter (not deleted) as bigint),
                cast(quantile_disc(us, 0.1) filter (not deleted) as bigint),
                cast(quantile_disc(us, 0.01) filter (not deleted) as bigint), {ages}
            from newest"""
        ).fetchall()[0]
        step = max(1, -(-(live + deleted) // sample))
        sampled = _newest_rows(history, f"where hash({history.key}) % {step} = 0")
        names = ", ".join(f'"{name}"' if name in columns else f'null as "{name}"' for name in payload)
        rows = connection.sql(f"select {names} from (select * {sampled}) where not deleted").to_arrow_table()
    counts = [left - right for left, right in zip((live, *older), (*older, 0), strict=True)]
    return _Figures(live, deleted, newest_us, (p50, p90, p99), counts, rows)


def _newest_rows(history: History, where: str = "") -> str:
    """Return the `from` clause of the newest row of each key."""
    return f"""
        from read_parquet('{history.folder}/*.parquet', union_by_name = true) {where}
        qualify row_number() over (partition by {history.key} order by version desc, created_timestamp desc) = 1
    """


# The sample.


def _empty_rate(column: pa.ChunkedArray) -> float:
    if not len(column):
        return 0.0
    empty = column.null_count
    if pa.types.is_string(column.type):
        empty += pc.sum(pc.equal(pc.utf8_length(column), 0)).as_py() or 0
    elif pa.types.is_list(column.type):
        empty += pc.sum(pc.equal(pc.list_value_length(column), 0)).as_py() or 0
    return float(empty / len(column))


def _norms(column: pa.ChunkedArray) -> Norms | None:
    lists = column.drop_null().combine_chunks()
    if not isinstance(lists, pa.Array):
        lists = pa.concat_arrays(lists.chunks or [pa.array([], lists.type)])
    if not len(lists):
        return None
    offsets = lists.offsets.to_numpy()
    numbers = lists.values.to_numpy(zero_copy_only=False).astype(np.float64)
    starts = offsets[:-1][np.diff(offsets) > 0]
    if not len(starts):
        return None
    lengths = np.sqrt(np.add.reduceat(np.square(numbers), starts))
    finite = lengths[np.isfinite(lengths)]
    if not len(finite):
        return Norms(smallest=0.0, mean=0.0, largest=0.0, not_finite=len(lengths))
    return Norms(
        smallest=float(finite.min()),
        mean=float(finite.mean()),
        largest=float(finite.max()),
        not_finite=len(lengths) - len(finite),
        counts=np.histogram(finite, bins=_BINS)[0].tolist(),
    )
