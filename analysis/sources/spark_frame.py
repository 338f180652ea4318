"""The source that reads a Spark data frame with one row per user. Spark computes, and only aggregates return."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import FromClause, Select, table
from sqlalchemy import column as sql_column
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql import compiler

from analysis.aggregates import Needs
from analysis.errors import SourceError
from analysis.filters import ColumnTypes, Kind
from analysis.query import sql_text
from analysis.sources.session import Extremes
from analysis.sources.user_rows import UserRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_NUMBERS = ("ByteType", "ShortType", "IntegerType", "LongType", "FloatType", "DoubleType", "DecimalType")
_KINDS: Mapping[str, Kind] = {
    "BooleanType": "boolean",
    "DateType": "date",
    "TimestampNTZType": "timestamp",
    "TimestampType": "instant",
    **dict.fromkeys(("StringType", "VarcharType", "CharType"), "text"),
}


@dataclass(frozen=True)
class SparkFrame(UserRows):
    """A source with one row per unit, in a data frame of a running Spark session (`pyspark` 3.4 or later).

    `UserColumns` describes the other attributes.

    Attributes:
        data: The data frame.
    """

    data: "DataFrame"

    @property
    def label(self) -> str:
        """Name of the source in messages and in the report."""
        return self.name or "the Spark data frame"

    @contextmanager
    def open(self, needs: Needs) -> Iterator["SparkSQL"]:
        """Register the data frame as a temporary view of its Spark session."""
        from pyspark.errors import PySparkException

        view = f"users_{uuid4().hex}"  # unique, so that other reports of the same Spark session do not collide
        try:
            self.data.createTempView(view)
            yield SparkSQL(self.data, view)
        except PySparkException as error:
            raise SourceError(f"{self.label} cannot be read: {str(error).splitlines()[0]}") from error
        finally:
            self.data.sparkSession.catalog.dropTempView(view)


@dataclass(frozen=True)
class SparkSQL:
    """A data frame registered as a view of its Spark session; `Session` describes its methods.

    Attributes:
        data: The data frame.
        view: Name of the view.
    """

    data: "DataFrame"
    view: str

    @cached_property
    def types(self) -> ColumnTypes:
        """Kind and Spark type of each column."""
        return {f.name: (_kind(type(f.dataType).__name__), f.dataType.simpleString()) for f in self.data.schema.fields}

    @cached_property
    def users(self) -> FromClause:
        """The view."""
        return table(self.view, *(sql_column(name) for name in self.types))

    def rows(self, statement: Select[Any]) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows."""
        return self._run(statement).collect()

    def arrays(self, statement: Select[Any]) -> Mapping[str, Any]:
        """Run a statement and return its columns as NumPy arrays."""
        import numpy as np

        rows = self._run(statement)
        columns = list(zip(*rows.collect(), strict=True)) or [()] * len(rows.columns)
        return {name: np.array(values, dtype=float) for name, values in zip(rows.columns, columns, strict=True)}

    def text(self, statement: Select[Any]) -> str:
        """Return a statement as text, with the view named `users`."""
        return sql_text(statement, SparkDialect()).replace(self.view, "users")

    def stray_texts(self, names: Sequence[str]) -> Mapping[str, tuple[int, str]]:
        """Return nothing: Spark stores only numbers in numeric columns."""
        return {}

    def extremes(self, names: Sequence[str]) -> Extremes | None:
        """Return None: Spark would have to read the rows."""
        return None

    def _run(self, statement: Select[Any]) -> "DataFrame":
        return self.data.sparkSession.sql(sql_text(statement, SparkDialect()))


def _kind(name: str) -> Kind:
    if name in _NUMBERS:
        return "number"
    return _KINDS.get(name, "other")


# The parts of the query that Spark's SQL writes differently: https://spark.apache.org/docs/latest/sql-ref.html


class _Types(compiler.GenericTypeCompiler):
    def visit_DOUBLE(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE"

    visit_DOUBLE_PRECISION = visit_double = visit_FLOAT = visit_DOUBLE

    def visit_string(self, type_: Any, **kw: Any) -> str:
        return "STRING"

    def visit_datetime(self, type_: Any, **kw: Any) -> str:
        return "TIMESTAMP"


class _Statements(compiler.SQLCompiler):
    def render_literal_value(self, value: Any, type_: Any) -> str:
        """Write floats as doubles (Spark reads 0.92 as a decimal), and escape backslashes in strings."""
        if isinstance(value, float):
            return f"{value!r}D"
        if isinstance(value, str):
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return str(super().render_literal_value(value, type_))


class _Names(compiler.IdentifierPreparer):
    def __init__(self, dialect: Any) -> None:
        super().__init__(dialect, initial_quote="`")

    def _requires_quotes(self, value: str) -> bool:
        return True


class SparkDialect(DefaultDialect):
    """SQLAlchemy dialect that writes Spark's SQL. It only writes; it cannot connect."""

    name = "spark"
    supports_native_boolean = True
    statement_compiler = _Statements
    type_compiler_cls = _Types
    preparer: Any = _Names
