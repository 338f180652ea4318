"""Reports of a running consumer, for metrics and health. The consumer's work does not depend on them.

The loop and the pipeline call an observer from several threads, once for a batch and not for a record. An observer must
be quick and must not raise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol


class Observer(Protocol):
    """Receives reports of a consumer's progress."""

    def stage_done(self, stage: str, records: int, seconds: float) -> None:
        """Report that a stage has finished a batch of `records`; `seconds` include failed attempts and pauses."""

    def stage_failed(self, stage: str, error: Exception) -> None:
        """Report a retryable error of a stage; the stage will try again."""

    def finished(self, records: int, in_flight: int) -> None:
        """Report that a batch passed all stages and will be committed, with `in_flight` other batches behind it."""

    def counted(self, counts: Mapping[str, int]) -> None:
        """Report the results of a batch's updates, by kind (embedded, stale, features_text, refused_decode, ...)."""

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        """Report records that the broker accepted as dead letters, by the stage that refused them."""

    def unknown_fields(self, names: Mapping[str, int]) -> None:
        """Report dropped fields that the contract does not name, by name."""

    def fresh(self, milliseconds: Sequence[float]) -> None:
        """Report the age of each effect that was just written (a vector on its topic, an event's row).

        Args:
            milliseconds: Time from the record's arrival in Kafka to the write, for each effect.
        """


class _NoObserver:
    """Ignores everything."""

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


NO_OBSERVER: Final[Observer] = _NoObserver()
"""The no-op observer."""
