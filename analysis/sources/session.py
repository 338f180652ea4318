"""An open source with one row per user: its columns, and how to run statements on it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from sqlalchemy import FromClause, Select

Kind = Literal["number", "boolean", "date", "instant", "other"]
Extremes = Mapping[str, tuple[float, float]]
"""Smallest and largest value of some columns, over all rows."""


class Session(Protocol):
    """An open source with one row per user."""

    @property
    def users(self) -> FromClause:
        """The rows to select from, with columns by name."""

    @property
    def types(self) -> Mapping[str, tuple[Kind, str]]:
        """Kind of each column, and the source's own name of its type."""

    def rows(self, statement: Select[Any]) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows."""

    def arrays(self, statement: Select[Any]) -> Mapping[str, Any]:
        """Run a statement and return its columns as NumPy arrays."""

    def text(self, statement: Select[Any]) -> str:
        """Return a statement as text that can be pasted into a console of the source."""

    def extremes(self, names: Sequence[str]) -> Extremes | None:
        """Return the smallest and largest values where the source knows them without reading its rows, else None."""
