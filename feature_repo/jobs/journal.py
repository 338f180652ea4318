"""What one materialisation has to do and has done, in a DuckDB file: it outlives kill -9, and memory stays bounded.

* `winner`: for each product the one row of the history that counts, by part and row number. Made from a few narrow
  columns; vectors and texts are not touched. Made anew at every start, so that compaction may move rows in between.
* `done`: the rows that are online, shard by shard, one transaction each, with checksums of what was written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from feature_repo.history.parts import MERGED_PARTS, in_key_order
from feature_repo.jobs.shards import DoneShard, Shard, WrittenShard

_MEMORY: Final = "256MB"  # DuckDB goes to its file beyond that
_DONE: Final = pa.schema(
    [
        ("shard", pa.int64()),
        ("id", pa.string()),
        ("version", pa.int64()),
        ("created_us", pa.int64()),
        ("checksum", pa.int64()),
    ]
)


class Plan(NamedTuple):
    """Rows of the history that were looked at, and what is left of them."""

    history_rows: int
    products: int
    remaining: int  # of those products, not yet done
    shards: range  # their numbers


class Journal:
    """One view's. Not for two processes at once: whoever opens it holds the view's lock."""

    def __init__(self, path: Path | None, request: str) -> None:
        """Open the journal at `path` (None: in memory); what it holds of another request is forgotten."""
        self._path = path
        self._parts: list[Path] = []
        self._connection = self._open()
        if self._value("select request from request") != request:
            self._connection.execute("delete from done")
            self._connection.execute("delete from request")
            self._connection.execute("insert into request values (?)", [request])

    def plan(
        self, parts: Sequence[Path], key: str, since_us: int | None, until_us: int | None, shard_rows: int
    ) -> Plan:
        """Find the rows to write: of each `key` the newest version, of equal ones that written last.

        A shard is a range of keys, so that it meets few pages of an online store's index: at a million rows, half
        the time of a shard that meets them all.

        Raises:
            duckdb.Error, HistoryError: a part cannot be read.
        """
        self._parts = list(parts)
        names = [str(part) for part in parts]
        runs, in_key_order = _runs(parts)
        run = self._connection.execute
        run(
            """create or replace table part as
            select unnest(?) as filename, unnest(range(?)) as part, unnest(?) as run, unnest(?) as in_key_order""",
            [names, len(names), runs, in_key_order],
        )
        rows = f"""
            select {key} as id, version, epoch_us(created_timestamp) as created_us, part.part, file_row_number as row
            from read_parquet(?, filename = true, file_row_number = true) as history join part using (filename)
            where epoch_us(event_timestamp) between coalesce(?, epoch_us(event_timestamp))
                and coalesce(?, epoch_us(event_timestamp))
        """
        window = [names, since_us, until_us]
        run(
            f"""create or replace table newest as {rows}
            qualify row_number() over (partition by id order by version desc, created_us desc, part desc, row desc) = 1
            """,
            window,
        )
        history_rows = self._value(f"select count(*) from ({rows})", window)
        first = self._value("select coalesce(max(shard) + 1, 0) from done")
        run(
            """create or replace table winner as
            with open as (from newest anti join done using (id, version, created_us)),
                placed as (
                    select part, row, row_number() over (order by run, if(in_key_order, id, ''), part, row) - 1 as place
                    from open join part using (part)
                )
            select part, row, ? + place // ? as shard from placed order by place""",
            [first, shard_rows],
        )
        products = self._value("select count(*) from newest")
        run("drop table newest")
        remaining = self._value("select count(*) from winner")
        return Plan(history_rows, products, remaining, range(first, first - (-remaining // shard_rows)))

    def shard(self, number: int) -> Shard:
        """The rows to write of this number."""
        query = "select part, row from winner where shard = ? order by part, row"
        found = self._connection.execute(query, [number]).fetchnumpy()
        parts, starts = np.unique(np.asarray(found["part"]), return_index=True)
        rows = np.split(np.asarray(found["row"], dtype=np.int64), starts[1:])
        return Shard(number, [(self._parts[part], some) for part, some in zip(parts.tolist(), rows, strict=True)])

    def done_rows(self) -> int:
        """Rows that were written, by this run and by those that it goes on from."""
        return int(self._value("select count(*) from done"))

    def record(self, shard: WrittenShard) -> None:
        """The checkpoint: these rows are online. Durable when this returns."""
        number = pa.array([shard.number] * len(shard.checksums), pa.int64())
        columns = [number, shard.ids, shard.versions, shard.created_us, pa.array(shard.checksums, pa.int64())]
        self._connection.register("shard_written", pa.Table.from_arrays(columns, schema=_DONE))
        self._connection.execute("insert into done select * from shard_written")
        self._connection.unregister("shard_written")

    def done_shards(self) -> Iterator[DoneShard]:
        """Every shard with the rows that nothing later of the same journal has replaced."""
        run = self._connection.execute
        run(
            """create or replace temp table last as select * from done qualify row_number() over
            (partition by id order by version desc, created_us desc, shard desc) = 1 order by shard"""
        )
        for (number,) in run("select distinct shard from last order by shard").fetchall():
            rows = run("select id, version, checksum from last where shard = ?", [number]).fetchnumpy()
            yield DoneShard(number, *(np.asarray(rows[name]).tolist() for name in ("id", "version", "checksum")))

    def close(self, *, forget: bool = False) -> None:
        """Close the file; with `forget`, when all is done, remove it."""
        self._connection.close()
        if forget and self._path is not None:
            for file in _files(self._path):
                file.unlink(missing_ok=True)

    def _open(self) -> Any:
        if self._path is None:
            return _connect(":memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(str(self._path))
        except duckdb.Error:  # torn, or of another DuckDB: what it says was done can be done again
            for file in _files(self._path):
                file.unlink(missing_ok=True)
            return _connect(str(self._path))

    def _value(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        # All rows are fetched: DuckDB refuses the next statement while a result is unfinished.
        rows = self._connection.execute(statement, list(parameters)).fetchall()
        return rows[0][0] if rows else None


def _runs(parts: Sequence[Path]) -> tuple[list[int], list[bool]]:
    """Which parts are gone through together by their keys, as one run; a part in another order is a run of its own."""
    ordered = [in_key_order(part) for part in parts]
    before = accumulate(ordered)  # such parts, the present one included
    runs = [
        n // MERGED_PARTS if yes else len(parts) + i for i, (yes, n) in enumerate(zip(ordered, before, strict=True))
    ]
    return runs, ordered


def _connect(path: str) -> Any:
    connection = duckdb.connect(path)
    connection.execute(f"set memory_limit = '{_MEMORY}'")
    if path == ":memory:":  # a file has its own beside it
        connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
    connection.execute("create table if not exists request (request varchar)")
    connection.execute(
        "create table if not exists done (shard bigint, id varchar, version bigint, created_us bigint, checksum bigint)"
    )
    return connection


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + ".wal")]
