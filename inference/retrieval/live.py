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
    """The index, or recommender, that answers requests.

    A request reads `current` once and keeps it, so it never uses two model versions. The next version is filled beside
    the current one; then `swap` replaces the current one at once. Running requests finish with the old one, which
    `swap` returns to the caller for a rollback.

    Args:
        current: The first index or recommender.
    """

    def __init__(self, current: V) -> None:
        self._current = current
        self._lock = threading.Lock()

    @property
    def current(self) -> V:
        """The index or recommender that answers requests now."""
        return self._current

    def swap(self, successor: V, *, smallest_share: float = 0.9) -> V:
        """Replace the current index or recommender and return it.

        Args:
            successor: The index or recommender that answers from now on.
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
