"""The known-answer probe: never blocks, tells a failure once, is patient with an empty repository."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sagelift.triton_probe import KnownAnswerProbe


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


def test_an_unreachable_server_is_a_failure_and_an_empty_repository_is_not(tmp_path: Path) -> None:
    assert KnownAnswerProbe(tmp_path, patience_s=0.5)._answers("127.0.0.1:9")
    (tmp_path / "visual_encoder" / "1").mkdir(parents=True)
    assert KnownAnswerProbe(tmp_path, patience_s=0.5)._answers("127.0.0.1:9")  # no probe file yet: in the making
