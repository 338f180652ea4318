"""An open source with one row per user: its columns, and how to run statements on it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import FromClause, Select

from analysis.filters import ColumnTypes

Extremes = Mapping[str, tuple[float, float]]
"""Smallest and largest value of some columns, over all rows."""


class Session(Protocol):
    """An open source with one row per user."""

    @property
    def users(self) -> FromClause:
        """The rows to select from, with columns by name."""

    @property
    def types(self) -> ColumnTypes:
        """Kind of each column, and the source's own name of its type."""

    def rows(self, statement: Select[Any]) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows."""

    def arrays(self, statement: Select[Any]) -> Mapping[str, Any]:
        """Run a statement and return its columns as NumPy arrays."""

    def text(self, statement: Select[Any]) -> str:
        """Return a statement as text that can be pasted into a console of the source."""

    def extremes(self, names: Sequence[str]) -> Extremes | None:
        """Return the smallest and largest values where the source knows them without reading its rows, else None."""

    def stray_texts(self, names: Sequence[str]) -> Mapping[str, tuple[int, str]]:
        """Return how many rows of a numeric column hold text, and one of the texts, for columns with any.

        Only SQLite stores text in numeric columns, and would count it as 0.
        """
