"""Which parts of the history the complete runs into one online store have written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.files import write_atomically


class SeenParts:
    """The parts that complete runs have written into one online store.

    Args:
        path: The file.
        identity: The identity of the view's table in the online store; parts seen for another one do not count.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self.names = frozenset(_read(path, identity))

    def unseen(self, parts: Sequence[Path]) -> list[Path]:
        """Return the parts that no complete run has written."""
        return [part for part in parts if part.name not in self.names]

    def add(self, parts: Iterable[Path], existing: Iterable[Path]) -> None:
        """Record that a complete run has written these parts; forget those that no longer exist."""
        names = self.names.union(part.name for part in parts).intersection(part.name for part in existing)
        state = {
            "online_store": self._identity,
            "finished": datetime.now(UTC).isoformat(),
            "parts": sorted(names),
        }
        write_atomically(self._path, json.dumps(state))
        self.names = names


def _read(path: Path, identity: str) -> list[str]:
    try:
        state = json.loads(path.read_bytes())
        return list(state["parts"]) if state["online_store"] == identity else []
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: then every part is new
        return []
