"""What a consumer tells of its work while it works: for metrics and health, never for decisions.

The loop and the pipeline call an observer from several threads, once a batch and not once a record; it must be quick
and must not raise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol


class Observer(Protocol):
    """Hears what happens; see the methods for when."""

    def stage_done(self, stage: str, records: int, seconds: float) -> None:
        """A stage is through with a batch of so many records; its failed attempts and pauses are in the seconds."""

    def stage_failed(self, stage: str, error: Exception) -> None:
        """An attempt failed in a way that waiting may mend; the stage will try again."""

    def finished(self, records: int, in_flight: int) -> None:
        """A batch is through all stages, its offsets are about to be committed; so many others are under way."""

    def counted(self, counts: Mapping[str, int]) -> None:
        """What became of a batch's updates, by reason (embedded, stale, features_text, refused_decode, ...)."""

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        """Records that the broker has taken as dead letters, by the stage that refused them."""

    def unknown_fields(self, names: Mapping[str, int]) -> None:
        """Fields that the contract does not name, kept out, by name."""

    def fresh(self, milliseconds: Sequence[float]) -> None:
        """Of each effect that was just written (a vector on its topic, an event's row), how long ago its record arrived
        in Kafka."""


class _Nobody:
    """Hears nothing."""

    def stage_done(self, stage: str, records: int, seconds: float) -> None:
        pass

    def stage_failed(self, stage: str, error: Exception) -> None:
        pass

    def finished(self, records: int, in_flight: int) -> None:
        pass

    def counted(self, counts: Mapping[str, int]) -> None:
        pass

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        pass

    def unknown_fields(self, names: Mapping[str, int]) -> None:
        pass

    def fresh(self, milliseconds: Sequence[float]) -> None:
        pass


NOBODY: Final[Observer] = _Nobody()
"""The observer of those who want none."""
