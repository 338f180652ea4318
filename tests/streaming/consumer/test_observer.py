"""The no-op observer."""

from __future__ import annotations

from streaming.consumer.observer import NO_OBSERVER, Observer


def test_the_no_op_observer_accepts_every_report() -> None:
    observer: Observer = NO_OBSERVER
    observer.stage_done("write", 1, 0.5)
    observer.stage_failed("write", OSError("disk"))
    observer.finished(1, 0)
    observer.counted({"stale": 1})
    observer.dead_letters({"decode": 1})
    observer.unknown_fields({"gtin": 1})
    observer.fresh([1.0])
