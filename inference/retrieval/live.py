"""What answers now, and the switch to its successor."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from inference.errors import InputError


class Versioned(Protocol):
    """An index, or a recommender over one."""

    @property
    def model_version(self) -> str:
        """Of the vectors inside."""

    def __len__(self) -> int: ...


V = TypeVar("V", bound=Versioned)


class Live(Generic[V]):
    """Holds what answers now. A request takes `current` once and stays with it: it never meets two model versions.

    The next version is filled beside the old one, then `swap` puts it in its place at once. The old one goes on for
    the requests that have it, and is handed back for a rollback.
    """

    def __init__(self, current: V) -> None:
        self._current = current
        self._lock = threading.Lock()

    @property
    def current(self) -> V:
        """What answers now."""
        return self._current

    def swap(self, successor: V, *, smallest_share: float = 0.9) -> V:
        """Put another in its place, and return the one before.

        Raises:
            InputError: the successor holds less than this share of the products: it has not caught up.
        """
        with self._lock:
            before = self._current
            if len(successor) < smallest_share * len(before):
                raise InputError(
                    f"version {successor.model_version!r} holds {len(successor):,} products, version "
                    f"{before.model_version!r} {len(before):,}: let it catch up, or lower smallest_share "
                    f"({smallest_share:g})"
                )
            self._current = successor
            return before
