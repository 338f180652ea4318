"""Rows of a small history for tests."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from feature_repo.history.writer import History, history_schema

SCHEMA = history_schema({"title": pa.string()})


def rows(*triples: tuple[str, int, str], created: int = 0) -> pa.Table:
    """Rows of (product id, version, title), all with one time."""
    at = datetime.fromtimestamp(1_700_000_000 + created, UTC).replace(microsecond=123_457)
    return pa.Table.from_pylist(
        [
            {
                "product_id": product_id,
                "event_timestamp": at,
                "created_timestamp": at,
                "title": title,
                "version": version,
                "deleted": False,
            }
            for product_id, version, title in triples
        ],
        schema=SCHEMA,
    )


def content(history: History) -> list[tuple[str, int, str]]:
    """All rows as sorted (product id, version, title)."""
    table = history.read(["product_id", "version", "title"])
    return sorted(tuple(row.values()) for row in table.to_pylist())
