"""The source that reads a file or a data frame with one row per user, with DuckDB."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Dialect, FromClause, Select, table
from sqlalchemy import column as sql_column

from analysis.aggregates import Needs
from analysis.errors import DataError, MissingColumnError, SourceError
from analysis.filters import ColumnTypes, Kind
from analysis.query import sql_text
from analysis.sources.session import Extremes
from analysis.sources.user_rows import UserRows

if TYPE_CHECKING:
    import duckdb

_READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".tsv": "read_csv"}
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = {*_INTEGERS, *(f"U{name}" for name in _INTEGERS), "FLOAT", "DOUBLE"}
_KINDS: Mapping[str, Kind] = {
    "BOOLEAN": "boolean",
    "DATE": "date",
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    **dict.fromkeys(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"), "instant"),
    "VARCHAR": "text",
}


@dataclass(frozen=True)
class UserTable(UserRows):
    """A source with one row per unit, read with DuckDB. `UserColumns` describes the other attributes.

    Attributes:
        data: Path of a file (Parquet, CSV, Arrow; a glob is allowed) or of a DuckDB database; a data frame (Arrow,
            pandas, Polars); or a SELECT over such files in DuckDB's SQL, for example one that sums orders by user.
        table: Table with one row per unit, in a DuckDB database.
    """

    data: Any
    table: str | None = None

    @property
    def label(self) -> str:
        """Name of the source in messages and in the report."""
        if self.name:
            return self.name
        if not isinstance(self.data, str | Path):
            return "the data frame"
        return "the query" if _is_select(str(self.data)) else str(self.data)

    @property
    def relation(self) -> str:
        """The file as a query names it after FROM."""
        path = isinstance(self.data, str | Path) and not _is_select(str(self.data)) and not self.table
        return _text(str(self.data)) if path else "users"

    @contextmanager
    def open(self, needs: Needs) -> Iterator["DuckDBSession"]:
        """Open the data as a view in a new DuckDB connection."""
        import duckdb

        with duckdb.connect() as connection:
            try:
                # The progress bar would be printed to stdout, in the middle of a command's output.
                connection.execute("SET enable_progress_bar = false")
                opened = self._open(connection, needs)
                parquet = str(self.data) if opened and str(self.data).lower().endswith(".parquet") else None
                yield DuckDBSession(connection, opened, parquet)
            except duckdb.Error as error:
                raise SourceError(f"{self.label} cannot be read: {_reason(str(error))}.") from error

    def _open(self, connection: "duckdb.DuckDBPyConnection", needs: Needs) -> str:
        """Create the view `users`, and return the statements that did it; empty if no statement was needed."""
        if not isinstance(self.data, str | Path):
            connection.register("users", self._in_memory(needs))
            return ""
        path = str(self.data)
        if _is_select(path):
            connection.execute(f"CREATE VIEW users AS {path}")
            return f"CREATE VIEW users AS {path};\n"
        name = path.lower().removesuffix(".gz")
        if name.endswith((".arrow", ".feather", ".ipc")):
            from pyarrow import dataset

            connection.register("users", dataset.dataset(path, format="ipc"))
            return ""
        if name.endswith((".duckdb", ".db")):
            if not self.table:
                raise SourceError(f"{path} is a database. Name its table with one row per user (table).")
            attach = f"ATTACH {_text(path)} AS source (READ_ONLY);\n"
            view = f"CREATE VIEW users AS SELECT * FROM source.{_quoted(self.table)}"
            connection.execute(attach)
        else:
            reader = next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)
            if reader is None:
                raise SourceError(
                    f"{path} is none of .parquet, .csv, .tsv, .arrow, .feather, .duckdb. "
                    "Convert it, or pass a data frame."
                )
            attach = ""
            view = f"CREATE VIEW users AS SELECT * FROM {reader}({_text(path)})"
            if reader == "read_csv":
                self._check_header(connection, path)
        connection.execute(view)
        return f"{attach}{view};\n"

    def _check_header(self, connection: "duckdb.DuckDBPyConnection", path: str) -> None:
        """Refuse a header that names a column twice, and lines that do not fit the header; DuckDB accepts both."""
        read = f"FROM read_csv({_text(path)}"
        names = [str(row[0]) for row in connection.execute(f"DESCRIBE SELECT * {read})").fetchall()]
        delimiter = next((d for d in ",;\t|" if d in names[0]), None)
        if len(names) == 1 and delimiter:  # no delimiter fits all lines: fail at the first line with another number
            columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in dict.fromkeys(names[0].split(delimiter)))
            fixed = f"auto_detect=false, header=true, quote='\"', delim={_text(delimiter)}, columns={{{columns}}}"
            connection.execute(f"SELECT count(*) {read}, {fixed})")
        first = connection.execute(f"SELECT * {read}, header=false, all_varchar=true) LIMIT 1").fetchone() or ()
        header = [str(name).casefold() for name in first]
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None and header[0] == names[0].casefold():
            raise SourceError(f"{self.label} names the column {twice!r} twice in its header. Rename one of them.")

    def _in_memory(self, needs: Needs) -> Any:
        """Return the data frame as DuckDB accepts it. Of pandas, only the needed columns are converted to Arrow."""
        import pyarrow

        module = type(self.data).__module__.partition(".")[0]
        if module == "polars":
            frame = self.data.collect() if hasattr(self.data, "collect") else self.data
            return frame.to_arrow()
        if module != "pandas":
            return self.data
        names = self.names(needs)
        if missing := next((name for name in names if name not in self.data.columns), None):
            raise MissingColumnError(missing, map(str, self.data.columns), self.label)
        listed = list(self.data.columns)
        if twice := next((name for name in names if listed.count(name) > 1), None):
            raise DataError(f"{self.label} has two columns {twice!r}. Rename one of them.")
        try:  # DuckDB 2.0 fails on reversed views of pandas; Arrow copies them
            return pyarrow.Table.from_pandas(self.data[names], preserve_index=False)
        except pyarrow.ArrowException as error:
            raise DataError(f"{self.label} cannot be read: {error}") from error


@dataclass(frozen=True)
class DuckDBSession:
    """An open DuckDB connection with a view `users`; `Session` describes its methods.

    Attributes:
        connection: The connection.
        opened: Statements that created the view; empty if none were needed.
        parquet: Path or glob of the Parquet files behind the view; None if it has other data.
    """

    connection: "duckdb.DuckDBPyConnection"
    opened: str
    parquet: str | None

    @cached_property
    def types(self) -> ColumnTypes:
        """Kind and DuckDB type of each column."""
        return duckdb_types(self.connection.execute("DESCRIBE users").fetchall())

    @cached_property
    def users(self) -> FromClause:
        """The view."""
        return table("users", *(sql_column(name) for name in self.types))

    def rows(self, statement: Select[Any]) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows."""
        return self.connection.execute(sql_text(statement, _dialect())).fetchall()

    def arrays(self, statement: Select[Any]) -> Mapping[str, Any]:
        """Run a statement and return its columns as NumPy arrays."""
        columns: Mapping[str, Any] = self.connection.execute(sql_text(statement, _dialect())).fetchnumpy()
        return columns

    def text(self, statement: Select[Any]) -> str:
        """Return a statement as text, after the statements that create the view."""
        return self.opened + sql_text(statement, _dialect())

    def stray_texts(self, names: Sequence[str]) -> Mapping[str, tuple[int, str]]:
        """Return nothing: DuckDB stores only numbers in numeric columns."""
        return {}

    def extremes(self, names: Sequence[str]) -> Extremes | None:
        """Read the statistics in the footers of Parquet files, for columns with statistics in all row groups."""
        numbers = [name for name in names if self.types.get(name, ("other", ""))[0] == "number"]
        if self.parquet is None or not numbers:
            return None
        least, most = (f"TRY_CAST(coalesce(stats_{side}_value, stats_{side}) AS DOUBLE)" for side in ("min", "max"))
        statement = (
            f"SELECT path_in_schema, min({least}), max({most}) FROM parquet_metadata({_text(self.parquet)}) "
            f"GROUP BY ALL HAVING count({least}) = count(*) AND count({most}) = count(*)"
        )
        rows = self.connection.execute(statement).fetchall()
        return {str(name): (low, high) for name, low, high in rows if name in numbers}


def _reason(message: str) -> str:
    """Return the reason of an error of DuckDB in one line; for a CSV file, with the number of the line."""
    lines = message.splitlines()
    line = re.search(r"CSV Error on Line: (\d+)", lines[0])
    if line is None:
        return lines[0].rstrip(".")
    reason = next((text for text in lines[1:] if text and not text.startswith("Original Line")), lines[0])
    remedy = ". Save it as UTF-8" if "utf-8" in message else ""
    return f"line {line[1]}: {reason.rstrip('.')}{remedy}"


def _is_select(text: str) -> bool:
    return text.lower().lstrip().startswith(("select ", "select\n", "with ", "from "))


def duckdb_types(rows: Sequence[Sequence[Any]]) -> dict[str, tuple[Kind, str]]:
    """Return kind and type of each column, from the rows of DuckDB's DESCRIBE."""
    return {str(row[0]): (_kind(str(row[1])), str(row[1])) for row in rows}


def _kind(type_name: str) -> Kind:
    if type_name in _NUMBERS or (type_name.startswith("DECIMAL(") and type_name.endswith(")")):
        return "number"
    return _KINDS.get(type_name, "other")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _dialect() -> Dialect:
    """Return the dialect for DuckDB: it reads PostgreSQL's SQL, so the query needs no dialect package."""
    from sqlalchemy.dialects import postgresql

    dialect: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return dialect
