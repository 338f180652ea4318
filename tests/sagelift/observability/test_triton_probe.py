"""The known-answer probe: never blocks, tells a failure once, is patient with an empty repository."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sagelift.observability.triton_probe import KnownAnswerProbe


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_answers_at_once_while_a_question_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(self: KnownAnswerProbe, address: str) -> bool:
        asked.set()
        return release.wait(10)

    monkeypatch.setattr(KnownAnswerProbe, "_answers", hang)
    probe = KnownAnswerProbe(tmp_path, every_s=0.0)
    assert probe("x")
    assert asked.wait(10)
    started = time.monotonic()
    assert all(probe("x") for _ in range(100))
    assert time.monotonic() - started < 5
    release.set()


def test_a_failure_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False])
    monkeypatch.setattr(KnownAnswerProbe, "_answers", lambda self, address: next(answers, True))
    probe = KnownAnswerProbe(tmp_path, every_s=0.0)
    until(lambda: not probe("x"))
    assert all(probe("x") for _ in range(20))


@pytest.mark.parametrize(("answers_of_the_dead", "is_well"), [(0, True), (2, True), (10**9, False)])
def test_one_dead_process_of_several_is_found_unless_a_consumer_brings_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_of_the_dead: int, is_well: bool
) -> None:
    """Every third request meets the process that is dead, until it was met that often."""
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
            if asked[0] % 3 == 1 and asked[1] < answers_of_the_dead:
                asked[1] += 1
                self._heal("itemsage")
            return 1.0

    monkeypatch.setattr("inference.triton.client.TritonClient", Client)
    (tmp_path / "visual_encoder" / "1").mkdir(parents=True)
    assert KnownAnswerProbe(tmp_path, patience_s=0.2)._answers("localhost:1") is is_well


def test_an_unreachable_server_is_a_failure_and_an_empty_repository_is_not(tmp_path: Path) -> None:
    assert KnownAnswerProbe(tmp_path, patience_s=0.5)._answers("127.0.0.1:9")
    (tmp_path / "visual_encoder" / "1").mkdir(parents=True)
    assert KnownAnswerProbe(tmp_path, patience_s=0.5)._answers("127.0.0.1:9")  # no probe file yet: in the making
