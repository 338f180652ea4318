"""The cache folder: verified files are not hashed again, one process at a time downloads, messages hide addresses."""

import hashlib
import os
from pathlib import Path

import pytest

from sagelift.stack import cache
from sagelift.stack.errors import DownloadError

HASHES = {"a": hashlib.sha256(b"a").hexdigest(), "b": hashlib.sha256(b"b").hexdigest()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in HASHES:
        (tmp_path / name).write_text(name)
    return tmp_path


def test_correct_files_are_verified_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.unverified(folder, HASHES) == []
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a file was hashed"))
    assert cache.unverified(folder, HASHES) == []


def test_missing_and_altered_files_are_named(folder: Path) -> None:
    (folder / "a").write_text("x")
    (folder / "b").unlink()
    assert cache.unverified(folder, HASHES) == ["a", "b"]


def test_a_file_that_changed_after_the_stamp_is_hashed_again(folder: Path) -> None:
    cache.write_stamp(folder, HASHES)
    (folder / "a").write_text("x")
    os.utime(folder / "a", ns=(1, 1))
    assert cache.unverified(folder, HASHES) == ["a"]


@pytest.mark.parametrize("stamp", ["{", "[]"])
def test_a_broken_stamp_is_ignored(folder: Path, stamp: str) -> None:
    (folder / ".verified.json").write_text(stamp)
    assert cache.unverified(folder, HASHES) == []


def test_without_hashes_everything_is_missing(folder: Path) -> None:
    assert cache.unverified(folder, {}) == ["everything"]


def test_a_stamp_that_cannot_be_written_is_no_error(folder: Path) -> None:
    (folder / ".verified.json").mkdir()
    cache.write_stamp(folder, HASHES)
    assert cache.unverified(folder, HASHES) == []


def test_the_lock_says_when_it_waits(tmp_path: Path) -> None:
    """The second holder gets the lock after the first has freed it, and tells the user why it waits."""
    import threading

    lines: list[str] = []
    waiting = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        waiting.set()

    def second() -> None:
        with cache.cache_lock(tmp_path, "kafka", say):
            lines.append("locked")

    with cache.cache_lock(tmp_path, "kafka", say):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(20)
        lines.append("freed")
    thread.join(20)
    assert lines == [f"Waiting for another process that downloads kafka into {tmp_path}", "freed", "locked"]


def test_addresses_are_removed_from_messages(tmp_path: Path) -> None:
    error = cache.download_error("Kafka", tmp_path, ValueError("no https://user:secret@host/path here"), 1)
    assert isinstance(error, DownloadError)
    assert "secret" not in str(error)
    assert str(error).endswith("no the registry here")


def test_at_most_one_line_per_interval_is_passed_on() -> None:
    lines: list[str] = []
    say = cache.at_most_every(3600, lines.append)
    say("early")
    assert lines == []
    say = cache.at_most_every(0, lines.append)
    say("one")
    say("two")
    assert lines == ["one", "two"]
