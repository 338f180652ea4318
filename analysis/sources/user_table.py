"""The source that reads a file or a data frame with one row per user, through DuckDB."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Dialect, FromClause, func, select, table
from sqlalchemy import column as sql_column

from analysis.aggregates import Cell, Column, Needs
from analysis.errors import DataError, MissingColumnError, MixedCurrenciesError, SourceError
from analysis.query import Layout, aggregate_select, floor_to, read_cells, sql_text
from analysis.sources.base import DAY, Collected, Facts, look_twice

if TYPE_CHECKING:
    import duckdb

_NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN", "U")


@dataclass(frozen=True)
class UserTable:
    """One row per unit, in a file (Parquet, CSV, Arrow; a glob is fine) or in memory (Arrow, pandas, Polars).

    variant: the column with the arm. unit: the column with the unit's id; with it, units in two arms are found and left
    out, and a unit with two rows in one arm is an error; without it each row counts as a unit.
    day: a DATE or TIMESTAMP WITH TIME ZONE column, the unit's first exposure. segment: a column to keep apart.
    currency: the currency of money columns, or `currency_column` where it stands in the data (minor units either way).
    """

    data: Any
    variant: str = "variant"
    unit: str | None = None
    day: str | None = None
    segment: str | None = None
    currency: str | None = None
    currency_column: str | None = None
    name: str = ""

    def collect(self, needs: Needs) -> Collected:
        """Aggregates of the table. DataError for NULL, NaN, duplicates; MissingColumnError; SourceError."""
        import duckdb

        # A column that is only tested for being above zero is summed as well: NaN > 0 holds, a sum of NaN shows.
        needs |= Needs(frozenset(Column(c.name) for c in needs.columns if c.positive))
        with duckdb.connect() as connection:
            try:
                view = self._open(connection, needs)
                types = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE users").fetchall()}
                self._check_columns(needs, types)
                repeated = self._units_in_two_arms(connection)
                return self._collect(connection, needs, view, repeated)
            except duckdb.Error as error:
                raise SourceError(f"{self._label} cannot be read: {error}") from error

    @property
    def _label(self) -> str:
        if self.name:
            return self.name
        return str(self.data) if isinstance(self.data, str | Path) else "the data frame"

    def _open(self, connection: "duckdb.DuckDBPyConnection", needs: Needs) -> str:
        """Make the data known as the view `users`; the statement that did, for the report."""
        if not isinstance(self.data, str | Path):
            is_pandas = type(self.data).__module__.startswith("pandas.")
            connection.register("users", self._from_pandas(needs) if is_pandas else self.data)
            return ""
        path = str(self.data)
        name = path.lower().removesuffix(".gz")
        if name.endswith((".arrow", ".feather", ".ipc")):
            from pyarrow import dataset

            connection.register("users", dataset.dataset(path, format="ipc"))
            return ""
        readers = {".parquet": "read_parquet", ".csv": "read_csv", ".tsv": "read_csv"}
        reader = next((reader for suffix, reader in readers.items() if name.endswith(suffix)), None)
        if reader is None:
            raise SourceError(f"{path} is none of .parquet, .csv, .tsv, .arrow, .feather. Convert it, or pass a frame.")
        view = f"CREATE VIEW users AS SELECT * FROM {reader}('{path.replace(chr(39), chr(39) * 2)}')"
        connection.execute(view)
        return view + ";\n"

    def _from_pandas(self, needs: Needs) -> Any:
        """The columns in question as Arrow: DuckDB 2.0 fails on pandas' reversed views, and Arrow does not."""
        import pyarrow

        names = [name for name in dict.fromkeys(self._names(needs)) if name in self.data.columns]
        if missing := next((name for name in self._names(needs) if name not in names), None):
            raise MissingColumnError(missing, map(str, self.data.columns), self._label)
        try:
            return pyarrow.Table.from_pandas(self.data[names], preserve_index=False)
        except pyarrow.ArrowException as error:
            raise DataError(f"{self._label} cannot be read: {error}") from error

    def _names(self, needs: Needs) -> list[str]:
        """Every column that is read: keys, then numbers."""
        keys = [self.variant, self.unit, self.day, self.segment, self.currency_column]
        return [key for key in keys if key] + sorted({column.name for column in needs.columns})

    def _check_columns(self, needs: Needs, types: Mapping[str, str]) -> None:
        numbers = sorted({column.name for column in needs.columns})
        for name in self._names(needs):
            if name not in types:
                raise MissingColumnError(name, types, self._label)
        for name in numbers:
            if not types[name].startswith(_NUMERIC):
                raise DataError(f"Column {name!r} is {types[name]}, and a metric needs numbers. Cast it at the source.")
        if self.day and types[self.day] not in ("DATE", "TIMESTAMP WITH TIME ZONE"):
            raise DataError(
                f"Column {self.day!r} is {types[self.day]}, which leaves the time zone open. "
                "Give a DATE (of UTC days) or a TIMESTAMP WITH TIME ZONE."
            )

    def _units_in_two_arms(self, connection: "duckdb.DuckDBPyConnection") -> int | None:
        if self.unit is None:
            return None
        unit, variant = (_quoted(name) for name in (self.unit, self.variant))
        row = connection.execute(
            f"SELECT count(*) FILTER (arms > 1), count(*) FILTER (arms = 1 AND n > 1), count(*) FILTER (unit IS NULL) "
            f"FROM (SELECT {unit} AS unit, count(*) AS n, count(DISTINCT {variant}) AS arms FROM users GROUP BY ALL "
            f"HAVING count(*) > 1 OR {unit} IS NULL)"
        ).fetchone()
        several, doubled, nameless = row or (0, 0, 0)
        if nameless:
            raise DataError(f"Column {self.unit!r} is NULL in some rows. Every row needs the id of its unit.")
        if doubled:
            raise DataError(
                f"{doubled:,} units have several rows in one arm. Sum them up to one row per unit first; "
                "as they are, each row would count as a person."
            )
        return int(several)

    def _collect(
        self, connection: "duckdb.DuckDBPyConnection", needs: Needs, view: str, repeated: int | None
    ) -> Collected:
        names = sorted({column.name for column in needs.columns})
        extras: dict[str, ColumnElement[Any]] = {f"values_{n}": func.count(sql_column(n)) for n in names}
        if self.currency_column:
            extras["currency_first"] = func.min(sql_column("currency"))
            extras["currency_last"] = func.max(sql_column("currency"))
        keys = tuple(key for key, given in (("arm", True), ("day", self.day), ("segment", self.segment)) if given)
        passed = ("currency",) if self.currency_column else ()
        layout = Layout.of(needs, keys=keys, extras=extras, passed=passed)
        units = self._units(names, leave_out=bool(repeated))
        statements: list[str] = []
        currencies: set[str] = set()

        def query(shifts: Mapping[Column, float]) -> list[Cell]:
            text = sql_text(aggregate_select(units, layout, shifts), _duckdb_dialect())
            statements[:] = [view + text]
            rows = connection.execute(text).fetchall()
            if any(row[0] is None for row in rows):
                raise DataError(f"Column {self.variant!r} is NULL in some rows. Every unit needs an arm.")
            cells, found = read_cells(rows, layout)
            self._refuse_nulls(cells, found, names)
            for extra in found:
                currencies.update(extra[key] for key in ("currency_first", "currency_last") if extra.get(key))
            return cells

        aggregates = look_twice(query)
        if len(currencies) > 1:
            everything = f"SELECT DISTINCT {_quoted(self.currency_column or '')} FROM users"
            raise MixedCurrenciesError(str(row[0]) for row in connection.execute(everything).fetchall() if row[0])
        facts = Facts(
            source=self._label,
            sql=tuple(statements),
            multiple_arms=repeated,
            bucket=timedelta(days=1) if self.day else None,
            currency=next(iter(currencies), self.currency),
        )
        return Collected(aggregates, facts)

    def _units(self, names: list[str], *, leave_out: bool) -> FromClause:
        users = table("users")
        columns: list[ColumnElement[Any]] = [
            sql_column(self.variant).label("arm"),
            *(sql_column(name) for name in names),
        ]
        if self.day:
            columns.append(floor_to(func.epoch_us(sql_column(self.day)), DAY).label("day"))
        if self.segment:
            columns.append(sql_column(self.segment).label("segment"))
        if self.currency_column:
            columns.append(sql_column(self.currency_column).label("currency"))
        statement = select(*columns).select_from(users)
        if leave_out and self.unit:
            unit: ColumnElement[Any] = sql_column(self.unit)
            several = (
                select(unit)
                .select_from(users)
                .group_by(unit)
                .having(func.count(sql_column(self.variant).distinct()) > 1)
            )
            statement = statement.where(unit.not_in(several))
        return statement.cte("units")

    def _refuse_nulls(self, cells: list[Cell], found: list[dict[str, Any]], names: list[str]) -> None:
        for name in names:
            missing = sum(cell.n - extra[f"values_{name}"] for cell, extra in zip(cells, found, strict=True))
            if missing:
                raise DataError(
                    f"Column {name!r} is NULL in {missing:,} rows. Write 0 where nothing happened, "
                    "and leave units out that are not to be counted."
                )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _duckdb_dialect() -> Dialect:
    """DuckDB reads PostgreSQL's SQL; a dialect package of its own is not needed for what the query uses."""
    from sqlalchemy.dialects import postgresql

    dialect: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return dialect
