"""The known-answer probe never blocks, reports a failure once, and accepts an empty repository."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sagelift.observability.triton_probe import KnownAnswerProbe, answers_correctly
from tests.waiting import wait_until


def test_it_returns_while_a_round_hangs() -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(address: str) -> bool:
        asked.set()
        return release.wait(60)

    probe = KnownAnswerProbe(hang, every_s=0.0)
    assert probe("x")
    assert asked.wait(10)
    assert all(probe("x") for _ in range(100))
    assert not release.is_set(), "the round still hangs"
    release.set()


def test_a_failure_is_reported_once() -> None:
    answers = iter([False])
    probe = KnownAnswerProbe(lambda address: next(answers, True), every_s=0.0)
    wait_until(lambda: not probe("x"))
    assert all(probe("x") for _ in range(20))


@pytest.mark.parametrize(("dead_answers", "recovers"), [(0, True), (2, True), (10**9, False)])
def test_one_dead_process_of_several_is_found_unless_it_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_answers: int, recovers: bool
) -> None:
    """Every third request meets the dead process, until it has met it that often."""
    asked = [0, 0]

    class Client:
        def __init__(self, *_: object, heal: Callable[[str], None], **__: object) -> None:
            self._heal = heal

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def probe(self, folder: Path, version: str) -> float:
            asked[0] += 1
            if asked[0] % 3 == 1 and asked[1] < dead_answers:
                asked[1] += 1
                self._heal("itemsage")
            return 1.0

    monkeypatch.setattr("inference.triton.client.TritonClient", Client)
    (tmp_path / "visual_encoder" / "1").mkdir(parents=True)
    assert answers_correctly("localhost:1", tmp_path, patience_s=0.2) is recovers


def test_an_unreachable_server_is_a_failure_and_an_empty_repository_is_not(tmp_path: Path) -> None:
    assert answers_correctly("127.0.0.1:9", tmp_path, patience_s=0.5)
    (tmp_path / "visual_encoder" / "1").mkdir(parents=True)
    assert answers_correctly("127.0.0.1:9", tmp_path, patience_s=0.5), "its probe file is not written yet"
