"""Kafka's jars: which are verified, which are downloaded again, and the errors when that fails."""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from sagelift.stack import kafka_jars
from sagelift.stack.cache import Say
from sagelift.stack.errors import DownloadError, MissingComponentError
from sagelift.stack.kafka_jars import Jar

CONTENTS = {f"part{i}": b"jar number %d" % i for i in range(3)}
JARS = [Jar("org.example", name, "1.0", hashlib.sha256(data).hexdigest()) for name, data in CONTENTS.items()]


class Registry:
    """Serves the three jars, or the content that a test sets, and records the requests."""

    def __init__(self) -> None:
        self.contents = dict(CONTENTS)
        self.asked: list[str] = []
        self.error: Exception | None = None

    def __call__(self, jar: Jar, aside: Path) -> Path:
        self.asked.append(jar.artifact)
        if self.error is not None:
            raise self.error
        path = aside / jar.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.contents[jar.artifact])
        return path


@pytest.fixture
def registry() -> Registry:
    return Registry()


def silent(_: str) -> None:
    pass


def fetch(cache: Path, registry: Registry, say: Say = silent) -> None:
    kafka_jars.fetch_kafka(cache, say, jars=JARS, download=registry)


def classpath(cache: Path) -> str:
    return kafka_jars.kafka_classpath(cache, JARS)


def test_the_lock_file_names_every_jar_once_with_a_sha256() -> None:
    jars = kafka_jars.read_jar_lock()
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 and int(jar.sha256, 16) >= 0 for jar in jars)
    brokers = {jar.version for jar in jars if jar.group == "org.apache.kafka"}
    assert brokers == {kafka_jars.KAFKA_VERSION}


def test_downloaded_jars_make_the_class_path_and_no_other_file_stays(tmp_path: Path, registry: Registry) -> None:
    fetch(tmp_path, registry)
    folder = kafka_jars.kafka_folder(tmp_path)
    assert classpath(tmp_path) == os.pathsep.join(str(folder / f"{name}-1.0.jar") for name in CONTENTS)
    assert {p.name for p in folder.iterdir()} == {f"{name}-1.0.jar" for name in CONTENTS} | {".verified.json"}


def test_a_second_fetch_downloads_and_hashes_nothing(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(tmp_path, registry)
    registry.asked.clear()
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a file was hashed"))
    fetch(tmp_path, registry)
    classpath(tmp_path)
    assert registry.asked == []


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: os.truncate(path, 4), id="half a file"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[::-1]), id="same size, other bytes"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
def test_only_the_damaged_jar_is_downloaded_again(
    harm: Callable[[Path], object], tmp_path: Path, registry: Registry
) -> None:
    fetch(tmp_path, registry)
    registry.asked.clear()
    path = kafka_jars.kafka_folder(tmp_path) / "part1-1.0.jar"
    harm(path)

    with pytest.raises(MissingComponentError, match=r"part1-1\.0\.jar missing or altered"):
        classpath(tmp_path)
    fetch(tmp_path, registry)

    assert registry.asked == ["part1"]
    assert path.read_bytes() == CONTENTS["part1"]


def test_a_touched_jar_is_hashed_once_and_kept(tmp_path: Path, registry: Registry) -> None:
    fetch(tmp_path, registry)
    registry.asked.clear()
    path = kafka_jars.kafka_folder(tmp_path) / "part1-1.0.jar"
    os.utime(path, ns=(1, 1))
    fetch(tmp_path, registry)
    stamp = json.loads((path.parent / ".verified.json").read_text())
    assert registry.asked == []
    assert stamp["part1-1.0.jar"][2] == 1


def test_a_jar_that_arrives_damaged_twice_is_refused_by_name(tmp_path: Path, registry: Registry) -> None:
    registry.contents["part2"] = b"an error page"
    with pytest.raises(DownloadError, match=r"part2-1\.0\.jar .* sha256"):
        fetch(tmp_path, registry)
    assert registry.asked.count("part2") == 2
    assert not (kafka_jars.kafka_folder(tmp_path) / "part2-1.0.jar").exists()


def test_a_full_disk_during_a_download_is_named_as_the_cause(tmp_path: Path, registry: Registry) -> None:
    registry.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DownloadError, match=r"The disk that holds .* MB free and .* needed"):
        fetch(tmp_path, registry)


def test_too_little_disk_space_is_refused_before_any_download(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 10, 5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="has 5 MB free and 100 MB are needed"):
        fetch(tmp_path, registry)
    assert registry.asked == []


def test_an_error_of_the_registry_is_passed_on_without_its_address(tmp_path: Path, registry: Registry) -> None:
    registry.error = RuntimeError("part0 not found in remote repositories {'central': 'https://registry.example/m2'}")
    with pytest.raises(DownloadError, match="part0 not found in remote") as raised:
        fetch(tmp_path, registry)
    assert "registry.example" not in str(raised.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match=r"cache folder .*file cannot be written"):
        fetch(tmp_path / "file", registry)


def test_two_parallel_fetches_download_each_jar_once(tmp_path: Path, registry: Registry) -> None:
    said: list[str] = []
    threads = [threading.Thread(target=fetch, args=(tmp_path, registry, said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(registry.asked) == sorted(CONTENTS)
