"""What one materialization has done: its checkpoints, in a DuckDB file that survives kill -9.

The table `done` holds the rows that are online, shard by shard, one transaction each, with checksums of what was
written. `feature_repo.jobs.plan` keeps its tables in the same database.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from feature_repo.jobs.shards import DoneShard, WrittenShard

_MEMORY: Final = "256MB"  # DuckDB uses its file beyond that
_DONE: Final = pa.schema(
    [
        ("shard", pa.int64()),
        ("id", pa.string()),
        ("version", pa.int64()),
        ("created_us", pa.int64()),
        ("checksum", pa.int64()),
    ]
)


class Journal:
    """The journal of one view. The caller holds the view's lock: two processes must not open one journal.

    Args:
        path: The file; None for a journal in memory.
        request: What the run does; the journal forgets what it holds of another request.

    Attributes:
        database: The connection to the file.
    """

    def __init__(self, path: Path | None, request: str) -> None:
        self._path = path
        self.database = self._open()
        if self._rows("select request from request") != [(request,)]:
            self._run("delete from done")
            self._run("delete from request")
            self._run("insert into request values (?)", [request])

    def done_rows(self) -> int:
        """Count the rows that this run, and the runs that it resumes, have written."""
        ((count,),) = self._rows("select count(*) from done")
        return int(count)

    def record(self, shard: WrittenShard) -> None:
        """Record the checkpoint: these rows are online. It is durable when this returns."""
        number = pa.array([shard.number] * len(shard.checksums), pa.int64())
        columns = [number, shard.ids, shard.versions, shard.created_us, pa.array(shard.checksums, pa.int64())]
        self.database.register("shard_written", pa.Table.from_arrays(columns, schema=_DONE))
        self._run("insert into done select * from shard_written")
        self.database.unregister("shard_written")

    def done_shards(self) -> Iterator[DoneShard]:
        """Yield every shard with its rows, without those that a later shard of this journal has replaced."""
        self._run(
            """create or replace temp table last as select * from done qualify row_number() over
            (partition by id order by version desc, created_us desc, shard desc) = 1 order by shard"""
        )
        for (number,) in self._rows("select distinct shard from last order by shard"):
            query = "select id, version, checksum from last where shard = ?"
            columns = self.database.execute(query, [number]).fetchnumpy()
            yield DoneShard(number, *(np.asarray(columns[name]).tolist() for name in ("id", "version", "checksum")))

    def close(self, *, forget: bool = False) -> None:
        """Close the file; with `forget`, remove it."""
        self.database.close()
        if forget and self._path is not None:
            for file in _files(self._path):
                file.unlink(missing_ok=True)

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._path is None:
            return _connect(":memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(str(self._path))
        except duckdb.Error:  # damaged, or of another version of DuckDB: start over, writing twice changes nothing
            for file in _files(self._path):
                file.unlink(missing_ok=True)
            return _connect(str(self._path))

    def _run(self, statement: str, parameters: Sequence[object] = ()) -> None:
        self.database.execute(statement, list(parameters))

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        # Fetch all rows: DuckDB refuses the next statement while a result is unfinished.
        return self.database.execute(query).fetchall()


def _connect(path: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(path)
    connection.execute(f"set memory_limit = '{_MEMORY}'")
    if path == ":memory:":  # a database in a file has its temporary folder beside it
        connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
    connection.execute("create table if not exists request (request varchar)")
    connection.execute(
        "create table if not exists done (shard bigint, id varchar, version bigint, created_us bigint, checksum bigint)"
    )
    return connection


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + ".wal")]
