"""The source that reads a table or a view with one row per user, on any SQLAlchemy engine."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    FromClause,
    MetaData,
    Select,
    Table,
    case,
    cast,
    column,
    func,
    select,
    table,
    text,
    types,
)
from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError

from analysis.aggregates import Needs
from analysis.errors import SourceError
from analysis.filters import ColumnTypes, Kind
from analysis.query import sql_text
from analysis.sources.collection import snapshot
from analysis.sources.session import Extremes
from analysis.sources.user_rows import UserRows
from analysis.sources.user_table import duckdb_types


@dataclass(frozen=True)
class SqlTable(UserRows):
    """A source with one row per unit, in a table or view of a database. `UserColumns` describes the other attributes.

    Attributes:
        engine: Engine of the database.
        table: Name of the table or view.
        schema: Schema of the table; None means the default schema.
    """

    engine: Engine
    table: str
    schema: str | None = None

    @property
    def label(self) -> str:
        """Name of the source in messages and in the report."""
        return self.name or self.table

    @property
    def relation(self) -> str:
        """The table as a query names it after FROM."""
        return self.table

    @contextmanager
    def open(self, needs: Needs) -> Iterator["EngineSession"]:
        """Open a connection whose statements all see the same data."""
        try:
            with snapshot(self.engine) as connection:
                yield EngineSession(connection, self.table, self.schema)
        except NoSuchTableError as error:
            raise SourceError(f"The database has no table {self.table!r}. Check its name and schema.") from error
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise SourceError(f"{self.label} cannot be read: {reason}.") from error


@dataclass(frozen=True)
class EngineSession:
    """An open connection; `Session` describes its methods.

    Attributes:
        connection: The connection.
        table: Name of the table or view.
        schema: Schema of the table; None means the default schema.
    """

    connection: Connection
    table: str
    schema: str | None

    @cached_property
    def users(self) -> FromClause:
        """The table."""
        if self.connection.dialect.name == "duckdb":
            return table(self.table, *map(column, self.types), schema=self.schema)
        return Table(self.table, MetaData(), schema=self.schema, autoload_with=self.connection, resolve_fks=False)

    @cached_property
    def types(self) -> ColumnTypes:
        """Kind and SQL type of each column."""
        if self.connection.dialect.name == "duckdb":  # its dialect would only reflect a part of PostgreSQL's catalogue
            named = select(text("*")).select_from(table(self.table, schema=self.schema))
            return duckdb_types(self.connection.exec_driver_sql(f"DESCRIBE {self.text(named)}").all())
        return {column.name: (_kind(column.type), str(column.type)) for column in self.users.c}

    def rows(self, statement: Select[Any]) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows."""
        return self.connection.execute(statement).all()

    def arrays(self, statement: Select[Any]) -> Mapping[str, Any]:
        """Run a statement and return its columns as NumPy arrays."""
        import numpy as np

        result = self.connection.execute(statement)
        columns = list(zip(*result.all(), strict=True)) or [()] * len(result.keys())
        return {name: np.array(values, dtype=float) for name, values in zip(result.keys(), columns, strict=True)}

    def text(self, statement: Select[Any]) -> str:
        """Return a statement as text."""
        return sql_text(statement, self.connection.dialect)

    def stray_texts(self, names: Sequence[str]) -> Mapping[str, tuple[int, str]]:
        """Count the texts in numeric columns; SQLite stores whatever it is given."""
        if self.connection.dialect.name != "sqlite" or not names:
            return {}
        is_text = {name: func.typeof(self.users.c[name]).in_(("text", "blob")) for name in names}
        counted = [func.sum(case((found, 1), else_=0)) for found in is_text.values()]
        examples = [func.min(case((found, self.users.c[name]))) for name, found in is_text.items()]
        row = self.connection.execute(select(*counted, *(cast(example, types.String) for example in examples))).one()
        return {name: (int(n), str(text)) for name, n, text in zip(names, row, row[len(names) :], strict=False) if n}

    def extremes(self, names: Sequence[str]) -> Extremes | None:
        """Return None: a database would have to read the rows."""
        return None


def _kind(type_: types.TypeEngine[Any]) -> Kind:
    if isinstance(type_, types.Boolean):
        return "boolean"
    if isinstance(type_, types.Integer | types.Numeric | types.Float):
        return "number"
    if isinstance(type_, types.DateTime):
        return "instant" if type_.timezone else "timestamp"
    if isinstance(type_, types.Date):
        return "date"
    # SQLAlchemy counts enumerations and UUIDs as strings; databases do not compare them with texts.
    plain = isinstance(type_, types.String) and not isinstance(type_, types.Enum | types.Uuid)
    return "text" if plain else "other"
