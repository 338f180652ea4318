"""Materialization of a history of 256-d embeddings, against Feast's engine and bare SQLite; memory and kill -9.

Each run is a process of its own over one history, into an empty online store, so peaks of memory are its own.

* `materialize_rate`: rows/s, including reading back and comparing every row, against Feast's local engine into the same
  store, which compares nothing; the goal is at least 2 times. Feast holds the history in memory (about 20 kB per row),
  so its engine gets a quarter of the rows; the row's name says how many.
* `materialize_floor`: rows/s against a bare sqlite3 client that only inserts the same bytes, in transactions of the
  same length and durability.
* `materialize_cpu`: rows per CPU second, which other programs disturb less.
* `materialize_memory`: peak of the process; at most 1,500 MB.
* `materialize_memory_growth`: this peak against the peak at a quarter of the rows; at most 1.15 times.
* `materialize_rewritten`: rows that were written twice after kill -9 at about half; at most one shard.

A million rows need 4 GB of disk and about ten minutes on two idle cores; `--rows 100000` is a quick try.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, Say, compared, figure

ROWS = 1_000_000
RUNS = 3
PART = 50_000
MODEL = "bench"
VIEW = f"product_embedding_{MODEL}"


def rows(say: Say, rows: int = ROWS) -> list[Row]:
    """Measure all figures; `rows` is the number of products in the history."""
    results_by_kind: dict[str, list[dict[str, float]]] = {"ours": [], "feast": [], "bare": [], "quarter": []}
    with tempfile.TemporaryDirectory(prefix="materialize-") as folder:
        sizes = {"ours": rows, "feast": rows // 4, "bare": rows, "quarter": rows // 4}
        histories = {size: Path(folder, str(size)) for size in (rows, rows // 4)}
        for size, state in histories.items():
            say(f"writing a history of {size:,} products")
            _in_a_process("write", state, size)
        for number in range(RUNS):
            for kind, results in results_by_kind.items():
                say(f"run {number + 1} of {RUNS}: {kind}")
                results.append(_run(kind, histories[sizes[kind]], sizes[kind]))
                say(f"  {results[-1]['rate']:,.0f} rows/s, peak {results[-1]['peak_mb']:,.0f} MB")
        say("kill -9 at half")
        shard, rewritten = _killed_at_half(histories[rows], rows)
    rates, cpu_rates, peaks = (
        {kind: [result[name] for result in results] for kind, results in results_by_kind.items()}
        for name in ("rate", "cpu_rate", "peak_mb")
    )
    feast = f"feast_local_engine_at_{rows // 4}_rows"
    return [
        compared("materialize_rate", "rows/s", rates["ours"], feast, rates["feast"], at_least=2.0),
        compared("materialize_cpu", "rows/CPU s", cpu_rates["ours"], feast, cpu_rates["feast"]),
        compared("materialize_floor", "rows/s", rates["ours"], "bare_sqlite_insert", rates["bare"]),
        figure("materialize_memory", "MB", peaks["ours"], at_most=1500),
        figure(f"materialize_memory_feast_at_{rows // 4}_rows", "MB", peaks["feast"]),
        compared(
            "materialize_memory_growth", "MB", peaks["ours"], "quarter_of_the_rows", peaks["quarter"], at_most=1.15
        ),
        figure("materialize_rewritten", "rows", float(rewritten), at_most=shard),
    ]


def _write_history(state: Path, rows: int) -> None:
    import pyarrow as pa

    from feature_repo.store import ProductFeatureStore

    random = np.random.default_rng(1)
    now = datetime.now(UTC)
    with ProductFeatureStore.open(state) as store:
        store.ensure_model_version(MODEL)
        past = store.history(VIEW)
        for start in range(0, rows, PART):
            n = min(PART, rows - start)
            vectors = random.normal(size=(n, 256)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            columns = {
                "product_id": [f"product-{(start + i) * 7919 % 10_000_019:08d}" for i in range(n)],
                "event_timestamp": [now] * n,
                "created_timestamp": [now] * n,
                "vector": pa.ListArray.from_arrays(
                    pa.array(np.arange(n + 1, dtype=np.int32) * 256), pa.array(vectors.reshape(-1))
                ),
                "content_hash": [f"{start + i:064x}" for i in range(n)],
                "model_version": [MODEL] * n,
                "version": [1] * n,
                "deleted": [False] * n,
            }
            past.append(pa.table(columns, schema=past.schema))


def _run(kind: str, state: Path, rows: int) -> dict[str, float]:
    """Run one process on an empty store; return {"rate": rows/s, "cpu_rate": rows per CPU second, "peak_mb"}."""
    _empty(state)
    figures: dict[str, float] = json.loads(_in_a_process("ours" if kind == "quarter" else kind, state).splitlines()[-1])
    if (online := _online_rows(state, kind)) != rows:
        raise RuntimeError(f"the {kind} run left {online} rows online, not {rows}")
    _empty(state)
    return figures


def _in_a_process(kind: str, state: Path, *more: int) -> str:
    output = subprocess.run([*_child(kind, state), *map(str, more)], capture_output=True, text=True, check=False)
    if output.returncode:
        raise RuntimeError(f"the {kind} run failed: {output.stderr[-2000:]}")
    return output.stdout


def _child(kind: str, state: Path) -> list[str]:
    code = "import sys; from benchmarks.materialize import child; child(*sys.argv[1:])"
    return [sys.executable, "-c", code, kind, str(state)]


def _empty(state: Path) -> None:
    for path in [*(state / "feast").glob("online.db*"), *(state / "feast").glob("bare.db*")]:
        path.unlink()


def _online_rows(state: Path, kind: str) -> int:
    name, table = ("bare.db", "bare") if kind == "bare" else ("online.db", f"sagelift_{VIEW}")
    connection = sqlite3.connect(state / "feast" / name)
    try:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])
    finally:
        connection.close()


def _killed_at_half(state: Path, rows: int) -> tuple[int, int]:
    """Return the rows of a shard, and the rows that the second run wrote although the killed one had written them."""
    from feature_repo.jobs.materialize import SHARD_ROWS, materialize
    from feature_repo.store import ProductFeatureStore

    _empty(state)
    with subprocess.Popen(_child("killed", state), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == b"half":
                process.send_signal(signal.SIGKILL)
                break
    before = _online_rows(state, "ours")
    with ProductFeatureStore.open(state) as store:
        (resumed,) = materialize(store, views=[VIEW]).views
    if resumed.outcome != "done" or not resumed.resumed:
        raise RuntimeError(f"the run after kill -9 did not resume: {resumed}")
    return SHARD_ROWS, before + resumed.written + resumed.kept - rows


def child(kind: str, state: str, *more: str) -> None:
    """Run in the child process: do the work and print one line of JSON."""
    from feature_repo.store import ProductFeatureStore

    if kind == "write":
        return _write_history(Path(state), int(more[0]))
    with ProductFeatureStore.open(Path(state)) as store:
        before = time.process_time()
        seconds, rows = {"ours": _ours, "feast": _feast, "bare": _bare, "killed": _killed}[kind](store)
    cpu = time.process_time() - before
    print(json.dumps({"rate": rows / seconds, "cpu_rate": rows / cpu, "peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    """Return the peak of this process's memory. With `getrusage` a child starts with the peak of its parent."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024


def _ours(store: Any) -> tuple[float, int]:
    from feature_repo.jobs.materialize import materialize

    started = time.perf_counter()
    summary = materialize(store, views=[VIEW])
    seconds = time.perf_counter() - started
    if summary.exit_code:
        raise RuntimeError(str(summary))
    return seconds, summary.views[0].products


def _killed(store: Any) -> tuple[float, int]:
    from feature_repo.jobs.materialize import Progress, materialize

    def tell(progress: Progress) -> None:
        if progress.done >= progress.total // 2:
            print("half", flush=True)

    materialize(store, views=[VIEW], progress=tell)
    raise RuntimeError("the run was not killed")


def _feast(store: Any) -> tuple[float, int]:
    import contextlib
    import os
    import warnings

    warnings.simplefilter("ignore")
    now = datetime.now(UTC)
    started = time.perf_counter()
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        store.feast.materialize(now - timedelta(days=1), now + timedelta(days=1), feature_views=[VIEW])
    seconds = time.perf_counter() - started
    return seconds, store.feast.provider.online_store.count(store.feast.config, store.view(VIEW))


def _bare(store: Any) -> tuple[float, int]:
    """Time the inserts only; the bytes are made before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from feature_repo.history.arrow_rows import online_rows
    from feature_repo.jobs.materialize import SHARD_ROWS

    connection = sqlite3.connect(store.home / "bare.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute(
        "create table bare (entity_key blob primary key, event_us integer, version integer, deleted integer, "
        "vector blob, content_hash blob, model_version blob)"
    )
    seconds, count = 0.0, 0
    for part in store.history(VIEW).parts():
        for batch in pq.ParquetFile(part).iter_batches(SHARD_ROWS):
            rows = online_rows(pa.Table.from_batches([batch]), store.view(VIEW))
            bound = [(row.key, row.event_us, row.version, row.deleted, *row.values) for row in rows]
            started = time.perf_counter()
            connection.execute("begin immediate")
            connection.executemany("insert or replace into bare values (?, ?, ?, ?, ?, ?, ?)", bound)
            connection.execute("commit")
            seconds += time.perf_counter() - started
            count += len(bound)
    connection.close()
    return seconds, count
