"""The cache: what is verified, what is fetched again, and what is said when that fails."""

import base64
import errno
import hashlib
import json
import os
import shutil
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from sagelift.stack import components
from sagelift.stack.components import Jar
from sagelift.stack.errors import DownloadError, MissingComponentError

CONTENTS = {f"part{i}": b"jar number %d" % i for i in range(3)}
JARS = [Jar("org.example", name, "1.0", hashlib.sha256(data).hexdigest()) for name, data in CONTENTS.items()]


class Registry:
    """Serves the three jars, or what a test puts in their place; counts what it was asked for."""

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
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(components, "read_jar_lock", lambda: JARS)
    return Registry()


def silent(_: str) -> None:
    pass


def test_the_lock_file_names_every_jar_once_with_a_sha256() -> None:
    jars = components.read_jar_lock()
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 and int(jar.sha256, 16) >= 0 for jar in jars)
    brokers = {jar.version for jar in jars if jar.group == "org.apache.kafka"}
    assert brokers == {components.KAFKA_VERSION}


def test_fetched_jars_make_the_class_path_and_nothing_else_stays(tmp_path: Path, registry: Registry) -> None:
    components.fetch_kafka(tmp_path, silent, registry)
    folder = components.kafka_folder(tmp_path)
    assert components.kafka_classpath(tmp_path) == os.pathsep.join(str(folder / f"{name}-1.0.jar") for name in CONTENTS)
    assert {p.name for p in folder.iterdir()} == {f"{name}-1.0.jar" for name in CONTENTS} | {".verified.json"}


def test_a_second_fetch_asks_for_nothing_and_hashes_nothing(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    components.fetch_kafka(tmp_path, silent, registry)
    registry.asked.clear()
    monkeypatch.setattr(components, "_sha256", lambda path: pytest.fail(f"hashed {path}"))
    components.fetch_kafka(tmp_path, silent, registry)
    components.kafka_classpath(tmp_path)
    assert registry.asked == []


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: os.truncate(path, 4), id="half a file"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[::-1]), id="same size, other bytes"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
def test_only_the_harmed_jar_is_fetched_again(
    harm: Callable[[Path], object], tmp_path: Path, registry: Registry
) -> None:
    components.fetch_kafka(tmp_path, silent, registry)
    registry.asked.clear()
    path = components.kafka_folder(tmp_path) / "part1-1.0.jar"
    harm(path)

    with pytest.raises(MissingComponentError, match=r"part1-1\.0\.jar missing or altered"):
        components.kafka_classpath(tmp_path)
    components.fetch_kafka(tmp_path, silent, registry)

    assert registry.asked == ["part1"]
    assert path.read_bytes() == CONTENTS["part1"]


def test_a_touched_jar_is_hashed_once_and_kept(tmp_path: Path, registry: Registry) -> None:
    components.fetch_kafka(tmp_path, silent, registry)
    registry.asked.clear()
    path = components.kafka_folder(tmp_path) / "part1-1.0.jar"
    os.utime(path, ns=(1, 1))
    components.fetch_kafka(tmp_path, silent, registry)
    stamp = json.loads((path.parent / ".verified.json").read_text())
    assert registry.asked == []
    assert stamp["part1-1.0.jar"][2] == 1


def test_a_jar_that_arrives_damaged_twice_is_refused_by_name(tmp_path: Path, registry: Registry) -> None:
    registry.contents["part2"] = b"an error page"
    with pytest.raises(DownloadError, match=r"part2-1\.0\.jar .* sha256"):
        components.fetch_kafka(tmp_path, silent, registry)
    assert registry.asked.count("part2") == 2
    assert not (components.kafka_folder(tmp_path) / "part2-1.0.jar").exists()


def test_a_full_disk_while_fetching_is_called_that(tmp_path: Path, registry: Registry) -> None:
    registry.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DownloadError, match=r"The disk that holds .* MB free and .* needed"):
        components.fetch_kafka(tmp_path, silent, registry)


def test_too_little_disk_is_refused_before_anything_is_fetched(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 10, 5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="has 5 MB free and 100 MB are needed"):
        components.fetch_kafka(tmp_path, silent, registry)
    assert registry.asked == []


def test_an_error_of_the_registry_is_passed_on_without_its_address(tmp_path: Path, registry: Registry) -> None:
    registry.error = RuntimeError("part0 not found in remote repositories {'central': 'https://registry.example/m2'}")
    with pytest.raises(DownloadError, match="part0 not found in remote") as raised:
        components.fetch_kafka(tmp_path, silent, registry)
    assert "registry.example" not in str(raised.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match=r"cache folder .*file cannot be written"):
        components.fetch_kafka(tmp_path / "file", silent, registry)


def test_two_fetches_at_once_fetch_everything_once(tmp_path: Path, registry: Registry) -> None:
    said: list[str] = []
    threads = [
        threading.Thread(target=components.fetch_kafka, args=(tmp_path, said.append, registry)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(registry.asked) == sorted(CONTENTS)


def test_triton_that_was_never_fetched_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingComponentError, match="Triton is not ready in"):
        components.triton_home(tmp_path)


def test_a_harmed_triton_is_noticed(tmp_path: Path) -> None:
    """By the wheel's own list of hashes, which lies beside its files."""
    home = components.triton_folder(tmp_path)
    write_triton(home, b"whole")
    assert components.triton_home(tmp_path) == home
    (home / "server").write_bytes(b"wh")
    with pytest.raises(MissingComponentError, match="server missing or altered"):
        components.triton_home(tmp_path)


@pytest.fixture
def damaged_triton(tmp_path: Path) -> Path:
    """A cache with a Triton of one file that is not what the wheel's own list says."""
    write_triton(components.triton_folder(tmp_path), b"wh")
    return tmp_path


def write_triton(home: Path, server: bytes) -> None:
    info = home / f"nvidia_pytriton-{components.TRITON_VERSION}.dist-info"
    info.mkdir(parents=True)
    (home / "server").write_bytes(server)
    # base64 without padding, as wheels write it: sha256 of b"whole"
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"whole").digest()).decode().rstrip("=")
    (info / "RECORD").write_text(f"server,sha256={digest},5\n{info.name}/RECORD,,\n")


def test_a_harmed_triton_is_replaced_whole(damaged_triton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_uv_install", lambda _, target, *options: write_triton(target, b"whole"))
    components.fetch_triton(damaged_triton, silent)
    home = components.triton_home(damaged_triton)
    assert (home / "server").read_bytes() == b"whole"
    assert {p.name for p in damaged_triton.iterdir()} == {home.name, f".{home.name}.lock"}


def test_a_harmed_triton_stays_until_another_has_arrived(damaged_triton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise DownloadError("no network")

    monkeypatch.setattr(components, "_uv_install", no_network)
    with pytest.raises(DownloadError, match="no network"):
        components.fetch_triton(damaged_triton, silent)
    assert (components.triton_folder(damaged_triton) / "server").read_bytes() == b"wh"


def test_a_machine_without_a_triton_build_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MissingComponentError, match="give the address of a Triton server"):
        components.fetch_triton(tmp_path, silent)
