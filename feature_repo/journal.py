"""What one materialisation has to do and has done, in a DuckDB file: it outlives kill -9, and memory stays bounded.

* `winner`: for each product the one row of the history that counts, by part and row number. Made from a few narrow
  columns; vectors and texts are not touched. Made anew at every start, so that compaction may move rows in between.
* `done`: the rows that are online, shard by shard, one transaction each, with checksums of what was written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_MEMORY: Final = "384MB"  # DuckDB goes to its file beyond that
_DONE: Final = pa.schema(
    [
        ("shard", pa.int64()),
        ("product_id", pa.string()),
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


class DoneShard(NamedTuple):
    number: int
    product_ids: list[str]
    versions: list[int]
    checksums: list[int]


class Journal:
    """One view's. Not for two processes at once: whoever opens it holds the view's lock."""

    def __init__(self, path: Path | None, request: str) -> None:
        """Open the journal at `path` (None: in memory); what it holds of another request is forgotten."""
        self._path = path
        self._connection = self._open()
        if self._value("select request from request") != request:
            self._connection.execute("delete from done")
            self._connection.execute("delete from request")
            self._connection.execute("insert into request values (?)", [request])

    def plan(self, parts: Sequence[Path], since_us: int | None, until_us: int | None) -> Plan:
        """Find the rows to write: per product the newest version, of equal ones that written last.

        Raises:
            duckdb.Error: a part cannot be read.
        """
        names = [str(part) for part in parts]
        run = self._connection.execute
        run(
            "create or replace table part as select unnest(?) as filename, unnest(range(?)) as part",
            [names, len(names)],
        )
        rows = """
            select product_id, version, epoch_us(created_timestamp) as created_us, part.part, file_row_number as row
            from read_parquet(?, filename = true, file_row_number = true) as history join part using (filename)
            where epoch_us(event_timestamp) between coalesce(?, epoch_us(event_timestamp))
                and coalesce(?, epoch_us(event_timestamp))
        """
        window = [names, since_us, until_us]
        run(
            f"""create or replace table newest as {rows}
            qualify row_number() over
                (partition by product_id order by version desc, created_us desc, part desc, row desc) = 1
            """,
            window,
        )
        history_rows = self._value(f"select count(*) from ({rows})", window)
        run(
            """create or replace table winner as select part, row from newest anti join done
            using (product_id, version, created_us) order by part, row"""
        )
        products = self._value("select count(*) from newest")
        run("drop table newest")
        return Plan(history_rows, products, self._value("select count(*) from winner"))

    def rows_of(self, part: int) -> NDArray[np.int64]:
        """Row numbers to write of the part of this number, ascending."""
        found = self._connection.execute("select row from winner where part = ? order by row", [part]).fetchnumpy()
        return np.asarray(found["row"], dtype=np.int64)

    def done_rows(self) -> int:
        """Rows that were written, by this run and by those that it goes on from."""
        return int(self._value("select count(*) from done"))

    def record(self, ids: Any, versions: Any, created_us: Any, checksums: Sequence[int]) -> None:
        """The checkpoint: these rows are online, as one shard. Durable when this returns."""
        number = self._value("select coalesce(max(shard) + 1, 0) from done")
        columns = [pa.array([number] * len(checksums), pa.int64()), ids, versions, created_us, pa.array(checksums)]
        self._connection.register("shard_written", pa.Table.from_arrays(columns, schema=_DONE))
        self._connection.execute("insert into done select * from shard_written")
        self._connection.unregister("shard_written")

    def shards(self) -> Iterator[DoneShard]:
        """Every shard with the rows that nothing later of the same journal has replaced."""
        run = self._connection.execute
        run(
            """create or replace temp table last as select * from done qualify row_number() over
            (partition by product_id order by version desc, created_us desc, shard desc) = 1 order by shard"""
        )
        for (number,) in run("select distinct shard from last order by shard").fetchall():
            rows = run("select product_id, version, checksum from last where shard = ?", [number]).fetchall()
            ids, versions, checksums = map(list, zip(*rows, strict=True))
            yield DoneShard(number, ids, versions, checksums)

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


def _connect(path: str) -> Any:
    connection = duckdb.connect(path)
    connection.execute(f"set memory_limit = '{_MEMORY}'")
    if path == ":memory:":  # a file has its own beside it
        connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
    connection.execute("create table if not exists request (request varchar)")
    connection.execute(
        "create table if not exists done (shard bigint, product_id varchar, version bigint, created_us bigint, "
        "checksum bigint)"
    )
    return connection


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + ".wal")]
