"""How fresh and how whole the features are: by event time, not by when a job ran.

A job that runs on time over a feed that stopped yesterday says nothing wrong; the age of the newest event does. All
figures are of the newest row of each product (in `user_recent` of each shopper) in the history, by DuckDB over Parquet,
in bounded memory; rates and norms are of a sample of them. What changes from one model version to the next is seen on a
canary set: `feature_repo.monitoring.canary`.
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

from feature_repo.definitions import CREATED_TIME, DELETED, EVENT_TIME, VERSION, join_key_of, view_named
from feature_repo.errors import HistoryError, InvalidFeatureError
from feature_repo.monitoring.canary import CanaryDrift, CanaryLimits
from feature_repo.monitoring.canary import findings as canary_findings
from feature_repo.times import from_microseconds, to_microseconds

SAMPLE: Final = 20_000  # products
AGE_EDGES: Final = (60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)  # seconds
_MEMORY: Final = "384MB"
_TRIES: Final = 3
_BINS: Final = 30
_FIGURES: Final = 6
_MICROSECONDS: Final = 1e6


class Norms(msgspec.Struct, frozen=True, kw_only=True):
    """Lengths of the sampled vectors of a view that is searched."""

    smallest: float
    mean: float
    largest: float
    not_finite: int
    counts: list[int] = []  # histogram of the finite ones, from `smallest` to `largest`


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
    age_counts: list[int] = []  # live products by the age of their last change: below each of `AGE_EDGES`, and above
    sampled: int
    empty_rates: dict[str, float]  # feature -> share of sampled live products where it is null, '' or []
    norms: Norms | None
    schema_drift: list[str]  # parts whose columns are not the view's, one sentence each


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """What is too much; None and {} ask nothing."""

    max_age: timedelta | None = None
    max_empty: Mapping[str, float] = {}
    norm_tolerance: float | None = None
    canary: CanaryLimits = CanaryLimits()


def watch(store: Any, *, now: datetime, views: Sequence[str] = (), sample: int = SAMPLE) -> list[ViewStatus]:
    """The state of `views` (all, if none are named) of a `ProductFeatureStore`.

    Raises:
        InvalidFeatureError: there is no such view.
        HistoryError: a part cannot be read.
    """
    known = store.view_names()
    if unknown := [name for name in views if name not in known]:
        raise InvalidFeatureError(f"Unknown views {unknown}: there are {', '.join(known)}.")
    return [_status(store, name, now, sample) for name in views or known]


def findings(statuses: Sequence[ViewStatus], thresholds: Thresholds, canary: CanaryDrift | None = None) -> list[str]:
    """What passes a threshold, one sentence each; views without products are not judged by age."""
    found = []
    for status in statuses:
        found += _judge(status, thresholds)
    return found + (canary_findings(canary, thresholds.canary) if canary else [])


def to_prometheus(statuses: Sequence[ViewStatus], canary: CanaryDrift | None = None) -> str:
    """The figures in Prometheus' text format, for the node exporter's textfile collector."""
    lines: list[str] = []
    for name, help in _METRICS.items():
        lines += [f"# HELP sagelift_features_{name} {help}", f"# TYPE sagelift_features_{name} gauge"]
        for status in statuses:
            value = getattr(status, name)
            if value is not None:
                lines.append(f'sagelift_features_{name}{{view="{status.view}"}} {value}')
    _add(
        lines,
        "empty_rate",
        "Share of live products without this feature.",
        [({"view": s.view, "feature": f}, rate) for s in statuses for f, rate in s.empty_rates.items()],
    )
    normed = [(s.view, s.norms) for s in statuses if s.norms]
    _add(
        lines,
        "vector_length",
        "Length of the sampled vectors.",
        [
            ({"view": view, "of": of}, getattr(norms, of))
            for view, norms in normed
            for of in ("smallest", "mean", "largest")
        ],
    )
    _add(
        lines,
        "vectors_not_finite",
        "Sampled vectors with NaN or infinity.",
        [({"view": v}, n.not_finite) for v, n in normed],
    )
    _add(
        lines,
        "schema_drift",
        "Differences between the columns of parts and of the view.",
        [({"view": s.view}, len(s.schema_drift)) for s in statuses],
    )
    if canary:
        versions = {"old": canary.old, "new": canary.new}
        for name, help in _CANARY_METRICS.items():
            _add(lines, f"canary_{name}", help, [(versions, getattr(canary, name))])
    return "\n".join(lines) + "\n"


def _add(lines: list[str], name: str, help: str, values: Sequence[tuple[Mapping[str, str], float]]) -> None:
    if values:
        lines += [f"# HELP sagelift_features_{name} {help}", f"# TYPE sagelift_features_{name} gauge"]
    for labels, value in values:
        told = ",".join(f'{label}="{text}"' for label, text in labels.items())
        lines.append(f"sagelift_features_{name}{{{told}}} {value:.10g}")


_CANARY_METRICS: Final = {
    "products": "Products of the canary set that have a vector in both model versions.",
    "centroid_shift": "1 - cosine between the means of both versions' vectors.",
    "overlap": "Mean share of a product's nearest neighbours that both versions agree on.",
    "overlap_p10": "Share of nearest neighbours that one product in ten keeps at most.",
}
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
    view, history = view_named(store.home, name), store.history(name)
    parts = history.parts()
    drift, columns = [], set[str]()
    history_rows = size = 0
    for part in parts:
        try:
            size += part.stat().st_size
            with pq.ParquetFile(part) as file:
                history_rows += file.metadata.num_rows
                columns.update(file.schema_arrow.names)
                drift += _drift(f"{name}: {part.name}", history.schema, file.schema_arrow)
        except FileNotFoundError:  # compacted since it was listed; the rows are in another part
            continue
        except (pa.ArrowException, OSError) as error:
            raise HistoryError(f"{part} cannot be read ({error}). Move it away.") from error
    figures, counts, rows = _figures(history, name, columns if history_rows else set(), now, sample)
    live, deleted, newest, *quantiles = figures
    ages = [None if q is None else (to_microseconds(now) - q) / _MICROSECONDS for q in (newest, *quantiles)]
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
        age_counts=counts,
        sampled=rows.num_rows,
        empty_rates={f: _empty_rate(rows[f]) for f in rows.schema.names if f != join_key_of(name)},
        norms=next((_norms(rows[f.name]) for f in view.features if f.vector_index), None),
        schema_drift=drift,
    )


def _figures(history: Any, name: str, there: set[str], now: datetime, sample: int) -> tuple[Any, list[int], Any]:
    """(live, deleted, newest event, 50th, 10th and 1st percentile of live products' events), live products by age, and
    the sampled rows; `there`: the columns that some part has."""
    payload = [n for n in history.schema.names if n not in (VERSION, DELETED, EVENT_TIME, CREATED_TIME)]
    if not there:
        return (0, 0, None, None, None, None), [0] * (len(AGE_EDGES) + 1), history.schema.empty_table().select(payload)
    newest = f"""
        from read_parquet('{history.folder}/*.parquet', union_by_name = true) {{}}
        qualify row_number() over (partition by {join_key_of(name)} order by version desc, created_timestamp desc) = 1
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return _query(newest, payload, there, to_microseconds(now), sample)
        except duckdb.Error as error:
            # Compaction may take a part away after DuckDB has listed it.
            if attempt == _TRIES or not isinstance(error, duckdb.IOException):
                raise HistoryError(f"The history of {name} cannot be read: {error}.") from error
    raise AssertionError("the last attempt returns or raises")


def _query(
    newest: str, payload: Sequence[str], there: set[str], now_us: int, sample: int
) -> tuple[Any, list[int], Any]:
    connection = duckdb.connect()
    try:
        connection.execute(f"set memory_limit = '{_MEMORY}'")
        connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
        least = ", ".join(
            f"count(*) filter (not deleted and {now_us} - us >= {round(edge * _MICROSECONDS)})" for edge in AGE_EDGES
        )
        found = connection.execute(
            f"""with newest as (select deleted, epoch_us(event_timestamp) as us {newest.format("")})
            select count(*) filter (not deleted), count(*) filter (deleted), max(us),
                cast(quantile_disc(us, 0.5) filter (not deleted) as bigint),
                cast(quantile_disc(us, 0.1) filter (not deleted) as bigint),
                cast(quantile_disc(us, 0.01) filter (not deleted) as bigint), {least}
            from newest"""
        ).fetchall()[0]
        figures, older = found[:_FIGURES], found[_FIGURES:]
        every = max(1, -(-(figures[0] + figures[1]) // sample))
        chosen = newest.format(f"where hash({payload[0]}) % {every} = 0")
        columns = ", ".join(f'"{name}"' if name in there else f'null as "{name}"' for name in payload)
        rows = connection.sql(f"select {columns} from (select * {chosen}) where not deleted").to_arrow_table()
    finally:
        connection.close()
    counts = [left - right for left, right in zip((figures[0], *older), (*older, 0), strict=True)]
    return figures, counts, rows


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
        counts=np.histogram(finite, bins=_BINS)[0].tolist(),
    )
