"""Download of Apache Kafka's jars by jgo, verified against `kafka-jars.lock` (the sha256 of every jar).

    <cache>/kafka-4.3.1/*.jar

A jar is downloaded into its own folder and moved to its name in the cache only after its hash was checked.
"""

import concurrent.futures
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sagelift.stack.cache import (
    MEGABYTE,
    Say,
    at_most_every,
    cache_folder,
    cache_lock,
    download_error,
    file_sha256,
    missing_message,
    require_space,
    unverified,
    write_stamp,
)
from sagelift.stack.errors import DownloadError, MissingComponentError

KAFKA_VERSION = "4.3.1"

_LOCK_FILE = Path(__file__).with_name("kafka-jars.lock")
_NEEDED = 100 * MEGABYTE  # 45 MB of jars, and the downloads in progress
_PARALLEL_DOWNLOADS = 8
_PROGRESS_EVERY_S = 2.0


@dataclass(frozen=True)
class Jar:
    """One line of `kafka-jars.lock`: the Maven coordinate and the sha256 in hex."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the jar's file."""
        return f"{self.artifact}-{self.version}.jar"


Download = Callable[[Jar, Path], Path]
"""Downloads one jar into the given folder and returns the path of the file there."""


def kafka_folder(cache: Path) -> Path:
    """Return the folder of Kafka's jars in the cache."""
    return cache_folder(cache, f"kafka-{KAFKA_VERSION}")


def read_jar_lock(path: Path = _LOCK_FILE) -> list[Jar]:
    """Read the jars of the lock file, in its order, which becomes the order of the class path."""
    jars = []
    for line in path.read_text(encoding="utf-8").splitlines():
        sha256, coordinate = line.split()
        group, artifact, version = coordinate.split(":")
        jars.append(Jar(group, artifact, version, sha256))
    return jars


def kafka_classpath(cache: Path, jars: Sequence[Jar] | None = None) -> str:
    """Return Java's class path of the downloaded jars.

    Args:
        cache: Cache folder.
        jars: Jars of the class path; by default those of the lock file.

    Raises:
        MissingComponentError: A jar is missing or altered.
    """
    folder = kafka_folder(cache)
    jars = read_jar_lock() if jars is None else jars
    bad = unverified(folder, {jar.file_name: jar.sha256 for jar in jars})
    if bad:
        raise MissingComponentError(missing_message(f"Apache Kafka {KAFKA_VERSION}", folder, bad))
    return os.pathsep.join(str(folder / jar.file_name) for jar in jars)


def fetch_kafka(cache: Path, say: Say, *, jars: Sequence[Jar] | None = None, download: Download | None = None) -> None:
    """Download the jars that are missing or damaged. Several processes may call this at once.

    Args:
        cache: Cache folder.
        say: Called with each line of progress. It names damaged jars.
        jars: Jars to download; by default those of the lock file.
        download: Source of the jars; by default jgo from the package registry.

    Raises:
        DownloadError: The network, the disk or a hash prevents it.
    """
    folder = kafka_folder(cache)
    by_name = {jar.file_name: jar for jar in (read_jar_lock() if jars is None else jars)}
    hashes = {name: jar.sha256 for name, jar in by_name.items()}
    if not unverified(folder, hashes):
        return
    with cache_lock(cache, f"kafka-{KAFKA_VERSION}", say):
        missing = unverified(folder, hashes)  # again: another process may have downloaded them in the waiting time
        if not missing:
            return
        folder.mkdir(exist_ok=True)
        require_space(folder, _NEEDED)
        for name in missing:
            if (folder / name).exists():
                say(f"{name} in {folder} is damaged (it differs from kafka-jars.lock); downloading it again")
        say(f"Downloading Apache Kafka {KAFKA_VERSION}: {len(missing)} jars into {folder}")
        aside = folder / ".partial"
        shutil.rmtree(aside, ignore_errors=True)  # of an interrupted download
        try:
            source = download or _download_with_jgo(aside)
            _download_all([by_name[name] for name in missing], folder, aside, source, say)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        write_stamp(folder, hashes)
        say(f"Apache Kafka {KAFKA_VERSION} is ready")


def _download_all(jars: Sequence[Jar], folder: Path, aside: Path, download: Download, say: Say) -> None:
    say_progress = at_most_every(_PROGRESS_EVERY_S, say)
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        running = [pool.submit(_download_one, jar, folder, aside, download, say) for jar in jars]
        try:
            for done, future in enumerate(concurrent.futures.as_completed(running), start=1):
                future.result()
                say_progress(f"Downloading Apache Kafka {KAFKA_VERSION}: {done} of {len(jars)} jars")
        except DownloadError:
            raise
        except Exception as error:
            raise download_error(f"Apache Kafka {KAFKA_VERSION}", folder, error, _NEEDED) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _download_one(jar: Jar, folder: Path, aside: Path, download: Download, say: Say) -> None:
    for attempt in (1, 2):
        arrived = download(jar, aside)
        if file_sha256(arrived) == jar.sha256:
            arrived.replace(folder / jar.file_name)
            return
        arrived.unlink()
        if attempt == 1:
            say(f"{jar.file_name} arrived damaged; downloading it once more")
    raise DownloadError(
        f"{jar.file_name} of Apache Kafka was downloaded twice and does not have the sha256 in kafka-jars.lock: a "
        "proxy or mirror alters it. Try another network."
    )


def _download_with_jgo(aside: Path) -> Download:
    from jgo.maven import MavenContext, PythonResolver

    # A repository folder of its own, not ~/.m2: jgo trusts any file there, even an incomplete one.
    maven = MavenContext(resolver=PythonResolver(), repo_cache=aside, timeout=30)

    def download(jar: Jar, _: Path) -> Path:
        path: Path = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        return path

    return download
