"""The index that answers requests, and the switch to its successor."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from inference.errors import InputError


class Versioned(Protocol):
    """An index, or a recommender over an index."""

    @property
    def model_version(self) -> str:
        """The model version of its vectors."""

    def __len__(self) -> int: ...


V = TypeVar("V", bound=Versioned)


class Live(Generic[V]):
    """Holds the index, or recommender, that answers requests.

    A request reads `current` once and keeps it: it never meets two model versions. The next version is filled beside
    the current one, then `swap` replaces it at once. Requests that have the old one finish with it, and the caller gets
    it back for a rollback.

    Args:
        current: What answers first.
    """

    def __init__(self, current: V) -> None:
        self._current = current
        self._lock = threading.Lock()

    @property
    def current(self) -> V:
        """What answers requests now."""
        return self._current

    def swap(self, successor: V, *, smallest_share: float = 0.9) -> V:
        """Replace the current one and return it.

        Args:
            successor: What answers from now on.
            smallest_share: Smallest share of the current number of products that the successor must have.

        Raises:
            InputError: If the successor has fewer products: it has not caught up.
        """
        with self._lock:
            previous = self._current
            if len(successor) < smallest_share * len(previous):
                raise InputError(
                    f"version {successor.model_version!r} has {len(successor):,} products, version "
                    f"{previous.model_version!r} {len(previous):,}: let it catch up, or lower smallest_share "
                    f"({smallest_share:g})"
                )
            self._current = successor
            return previous
