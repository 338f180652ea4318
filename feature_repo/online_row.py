"""The row of an online store: one product, or one user, in one view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feast import FeatureView

from feature_repo.definitions import DELETED, VERSION


class OnlineRow(NamedTuple):
    """One product, or one user, in one view.

    Attributes:
        key: Feast's serialized entity key.
        version: The version of the row; the newest version wins.
        deleted: Whether the row is a tombstone.
        event_us: Event time in microseconds since the Unix epoch.
        values: Serialized `Value`s in the order of the view's `payload_columns`; None for null.
    """

    key: bytes
    version: int
    deleted: bool
    event_us: int
    values: Sequence[bytes | None]


def payload_columns(view: FeatureView) -> tuple[str, ...]:
    """Return the features that a table keeps as serialized values: all but version and tombstone."""
    return tuple(feature.name for feature in view.features if feature.name not in (VERSION, DELETED))


def newest_of_each_key(rows: Sequence[OnlineRow]) -> list[OnlineRow]:
    """Return one row per key: the newest version, and the last row of equal versions."""
    newest: dict[bytes, OnlineRow] = {}
    for row in rows:
        if row.key not in newest or row.version >= newest[row.key].version:
            newest[row.key] = row
    return list(newest.values())
