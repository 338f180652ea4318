"""How fresh and how whole the features are: by event time, not by when a job ran.

A job that runs on time over a feed that stopped yesterday says nothing wrong; the age of the newest event does. All
figures are of the newest row of each product in the history, by DuckDB over Parquet, in bounded memory; rates and norms
are of a sample of products.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.definitions import DELETED, JOIN_KEY, VERSION
from feature_repo.errors import HistoryError
from feature_repo.materialize import view_names, view_of
from feature_repo.stores.base import from_microseconds, microseconds

SAMPLE: Final = 20_000  # products
_MEMORY: Final = "384MB"
_TRIES: Final = 3
_MICROSECONDS: Final = 1e6


class Norms(msgspec.Struct, frozen=True, kw_only=True):
    """Lengths of the sampled vectors of a view that is searched."""

    smallest: float
    mean: float
    largest: float
    not_finite: int


class ViewStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One view. Ages are in seconds, of live products; None where there are none."""

    view: str
    parts: int
    bytes: int
    history_rows: int
    products: int
    deleted: int
    online_rows: int  # tombstones included, as products + deleted
    newest_event: datetime | None
    age_s: float | None  # of the newest event, deletions included: how far the view is behind
    age_p50_s: float | None  # of the products' last changes
    age_p90_s: float | None
    age_p99_s: float | None
    sampled: int
    empty_rates: dict[str, float]  # feature -> share of sampled live products where it is null, '' or []
    norms: Norms | None
    schema_drift: list[str]  # parts whose columns are not the view's, one sentence each


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """What is too much; None and {} ask nothing."""

    max_age: timedelta | None = None
    max_empty: Mapping[str, float] = {}
    norm_tolerance: float | None = None


def watch(store: Any, *, now: datetime, views: Sequence[str] = (), sample: int = SAMPLE) -> list[ViewStatus]:
    """The state of `views` (all, if none are named) of a `ProductFeatureStore`.

    Raises:
        HistoryError: a part cannot be read.
    """
    return [_status(store, name, now, sample) for name in views or view_names(store)]


def findings(statuses: Sequence[ViewStatus], thresholds: Thresholds) -> list[str]:
    """What passes a threshold, one sentence each; views without products are not judged by age."""
    found = []
    for status in statuses:
        found += _judge(status, thresholds)
    return found


def to_prometheus(statuses: Sequence[ViewStatus]) -> str:
    """The figures in Prometheus' text format, for the node exporter's textfile collector."""
    lines = []
    for name, help in _METRICS.items():
        lines += [f"# HELP sagelift_features_{name} {help}", f"# TYPE sagelift_features_{name} gauge"]
        for status in statuses:
            value = getattr(status, name)
            if value is not None:
                lines.append(f'sagelift_features_{name}{{view="{status.view}"}} {value}')
    lines += ["# HELP sagelift_features_empty_rate Share of live products without this feature."]
    lines += ["# TYPE sagelift_features_empty_rate gauge"]
    for status in statuses:
        for feature, rate in status.empty_rates.items():
            lines.append(f'sagelift_features_empty_rate{{view="{status.view}",feature="{feature}"}} {rate:g}')
    return "\n".join(lines) + "\n"


_METRICS: Final = {
    "age_s": "Seconds since the newest event.",
    "age_p50_s": "Median age of the products' last changes in seconds.",
    "age_p90_s": "90th percentile of the age of the products' last changes in seconds.",
    "age_p99_s": "99th percentile of the age of the products' last changes in seconds.",
    "products": "Live products in the history.",
    "deleted": "Deleted products in the history.",
    "online_rows": "Rows in the online store, tombstones included.",
    "history_rows": "Rows in the history, all versions.",
    "parts": "Parquet parts of the history.",
    "bytes": "Bytes of the history.",
}


def _judge(status: ViewStatus, thresholds: Thresholds) -> list[str]:
    found = []
    limit = thresholds.max_age
    if limit is not None and status.age_s is not None and status.age_s > limit.total_seconds():
        found.append(f"{status.view}: the newest event is {timedelta(seconds=round(status.age_s))} old, over {limit}")
    for feature, most in thresholds.max_empty.items():
        rate = status.empty_rates.get(feature)
        if rate is not None and rate > most:
            found.append(f"{status.view}: {feature} is empty in {rate:.1%} of the products, over {most:.1%}")
    if thresholds.norm_tolerance is not None and status.norms is not None:
        worst = max(abs(status.norms.smallest - 1), abs(status.norms.largest - 1))
        if worst > thresholds.norm_tolerance:
            found.append(
                f"{status.view}: a vector's length is off 1 by {worst:.3g}, over {thresholds.norm_tolerance:g}"
            )
        if status.norms.not_finite:
            found.append(f"{status.view}: {status.norms.not_finite} vectors hold NaN or infinity")
    found += status.schema_drift
    return found


def _status(store: Any, name: str, now: datetime, sample: int) -> ViewStatus:
    view, history = view_of(store, name), store.history(name)
    parts = history.parts()
    drift = []
    history_rows = size = 0
    for part in parts:
        try:
            size += part.stat().st_size
            with pq.ParquetFile(part) as file:
                history_rows += file.metadata.num_rows
                drift += _drift(f"{name}: {part.name}", history.schema, file.schema_arrow)
        except FileNotFoundError:  # compacted since it was listed; the rows are in another part
            continue
        except (pa.ArrowException, OSError) as error:
            raise HistoryError(f"{part} cannot be read ({error}). Move it away.") from error
    figures, rows = _figures(history, name, history_rows, sample)
    live, deleted, newest, *quantiles = figures
    ages = [None if q is None else (microseconds(now) - q) / _MICROSECONDS for q in (newest, *quantiles)]
    return ViewStatus(
        view=name,
        parts=len(parts),
        bytes=size,
        history_rows=history_rows,
        products=live,
        deleted=deleted,
        online_rows=store.feast.provider.online_store.count(store.feast.config, view),
        newest_event=None if newest is None else from_microseconds(newest),
        age_s=ages[0],
        age_p50_s=ages[1],
        age_p90_s=ages[2],
        age_p99_s=ages[3],
        sampled=rows.num_rows,
        empty_rates={f: _empty_rate(rows[f]) for f in rows.schema.names if f != JOIN_KEY},
        norms=next((_norms(rows[f.name]) for f in view.features if f.vector_index), None),
        schema_drift=drift,
    )


def _figures(history: Any, name: str, history_rows: int, sample: int) -> tuple[Any, Any]:
    """(live, deleted, newest event, 50th, 10th and 1st percentile of live products' events) and the sampled rows."""
    payload = [n for n in history.schema.names if n not in (VERSION, DELETED, "event_timestamp", "created_timestamp")]
    if not history_rows:
        return (0, 0, None, None, None, None), history.schema.empty_table().select(payload)
    newest = f"""
        from read_parquet('{history.folder}/*.parquet', union_by_name = true) {{}}
        qualify row_number() over (partition by product_id order by version desc, created_timestamp desc) = 1
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return _query(newest, payload, sample)
        except duckdb.Error as error:
            # Compaction may take a part away after DuckDB has listed it.
            if attempt == _TRIES or not isinstance(error, duckdb.IOException):
                raise HistoryError(f"The history of {name} cannot be read: {error}.") from error
    raise AssertionError("the last attempt returns or raises")


def _query(newest: str, payload: Sequence[str], sample: int) -> tuple[Any, Any]:
    connection = duckdb.connect()
    try:
        connection.execute(f"set memory_limit = '{_MEMORY}'")
        connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
        figures = connection.execute(
            f"""with newest as (select deleted, epoch_us(event_timestamp) as us {newest.format("")})
            select count(*) filter (not deleted), count(*) filter (deleted), max(us),
                cast(quantile_disc(us, 0.5) filter (not deleted) as bigint),
                cast(quantile_disc(us, 0.1) filter (not deleted) as bigint),
                cast(quantile_disc(us, 0.01) filter (not deleted) as bigint)
            from newest"""
        ).fetchall()[0]
        every = max(1, -(-(figures[0] + figures[1]) // sample))
        chosen = newest.format(f"where hash(product_id) % {every} = 0")
        columns = ", ".join(f'"{column}"' for column in payload)
        rows = connection.sql(f"select {columns} from (select * {chosen}) where not deleted").to_arrow_table()
    finally:
        connection.close()
    return figures, rows


def _drift(part: str, wanted: Any, found: Any) -> list[str]:
    told = []
    if missing := sorted(set(wanted.names) - set(found.names)):
        told.append(f"{part} lacks {', '.join(missing)}")
    if extra := sorted(set(found.names) - set(wanted.names)):
        told.append(f"{part} has {', '.join(extra)}, which the view has not")
    for field in wanted:
        if field.name in found.names and not _alike(found.field(field.name).type, field.type):
            told.append(f"{part} has {field.name} as {found.field(field.name).type}, the view as {field.type}")
    return told


def _alike(left: Any, right: Any) -> bool:
    """Whether two types are equal, whatever Parquet's writers call the items of lists."""
    if pa.types.is_list(left) and pa.types.is_list(right):
        return _alike(left.value_type, right.value_type)
    return bool(left == right)


def _empty_rate(column: Any) -> float:
    if not len(column):
        return 0.0
    empty = column.null_count
    if pa.types.is_string(column.type):
        empty += pc.sum(pc.equal(pc.utf8_length(column), 0)).as_py() or 0
    elif pa.types.is_list(column.type):
        empty += pc.sum(pc.equal(pc.list_value_length(column), 0)).as_py() or 0
    return float(empty / len(column))


def _norms(column: Any) -> Norms | None:
    column = column.drop_null().combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    if not len(column):
        return None
    offsets = column.offsets.to_numpy()
    numbers = column.values.to_numpy(zero_copy_only=False).astype(np.float64)
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
    )
