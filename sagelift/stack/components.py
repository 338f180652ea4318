"""Fetches the two servers that are not Python dependencies into a cache folder, whole and verified.

    <cache>/kafka-4.3.1/*.jar      Apache Kafka's jars, by jgo, against `kafka-jars.lock` (sha256 of every jar)
    <cache>/triton-0.7.0/          the `nvidia-pytriton` wheel, by uv, against `triton.txt` (sha256 of the wheel)

Everything arrives aside and is renamed into place after its hash was checked, so a name in the cache is never half a
file. A stamp records size and time of every verified file: while they are unchanged a check costs milliseconds; a file
that differs is hashed again, and fetched again when it is not what the lock file says.
"""

import base64
import concurrent.futures
import csv
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sagelift.stack.errors import DownloadError, MissingComponentError

Say = Callable[[str], None]

KAFKA_VERSION = "4.3.1"
TRITON_VERSION = "0.7.0"  # of the nvidia-pytriton wheel, which carries Triton 2.51

_PACKAGE = Path(__file__).parent
_MEGABYTE = 1 << 20
_KAFKA_NEEDS = 100 * _MEGABYTE  # 45 MB of jars, and what is under way
_TRITON_NEEDS = 500 * _MEGABYTE  # 144 MB unpacked, the wheel, and uv's own copy
_PARALLEL_DOWNLOADS = 8
_PROGRESS_EVERY_S = 2.0


@dataclass(frozen=True)
class Jar:
    """One line of `kafka-jars.lock`."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


# Fetches one jar into a folder of the caller's and returns where it lies there.
Download = Callable[[Jar, Path], Path]


def fetch_all(cache: Path, say: Say) -> None:
    """Makes both servers ready in `cache`; milliseconds when they already are. Safe in several processes at once.

    Raises DownloadError (network, disk, hash) and MissingComponentError (no build for this machine).
    """
    fetch_kafka(cache, say)
    fetch_triton(cache, say)


def kafka_classpath(cache: Path) -> str:
    """Java's class path of the fetched jars. Raises MissingComponentError when one is missing or altered."""
    folder = kafka_folder(cache)
    jars = read_jar_lock()
    bad = _unverified(folder, {jar.file_name: jar.sha256 for jar in jars})
    if bad:
        raise MissingComponentError(_missing_message(f"Apache Kafka {KAFKA_VERSION}", folder, bad))
    return os.pathsep.join(str(folder / jar.file_name) for jar in jars)


def triton_home(cache: Path) -> Path:
    """The folder the Triton wheel was unpacked into. Raises MissingComponentError when it is not whole."""
    home = triton_folder(cache)
    bad = _unverified(home, _wheel_record(home))
    if bad:
        raise MissingComponentError(_missing_message("Triton", home, bad))
    return home


def kafka_folder(cache: Path) -> Path:
    return cache.expanduser().resolve() / f"kafka-{KAFKA_VERSION}"


def triton_folder(cache: Path) -> Path:
    return cache.expanduser().resolve() / f"triton-{TRITON_VERSION}"


# --- Apache Kafka ---------------------------------------------------------------------------------------------------


def read_jar_lock(path: Path = _PACKAGE / "kafka-jars.lock") -> list[Jar]:
    """The jars of the lock file, in its order (which becomes the order of the class path)."""
    jars = []
    for line in path.read_text(encoding="utf-8").splitlines():
        sha256, coordinate = line.split()
        group, artifact, version = coordinate.split(":")
        jars.append(Jar(group, artifact, version, sha256))
    return jars


def fetch_kafka(cache: Path, say: Say, download: Download | None = None) -> None:
    """Fetches what is missing of Kafka's jars; an altered or half-downloaded one is named, removed, fetched again."""
    folder = kafka_folder(cache)
    jars = {jar.file_name: jar for jar in read_jar_lock()}
    hashes = {name: jar.sha256 for name, jar in jars.items()}
    if not _unverified(folder, hashes):
        return
    with _cache_lock(cache, f"kafka-{KAFKA_VERSION}", say):
        todo = _unverified(folder, hashes)  # again: another process may have fetched them while we waited
        if not todo:
            return
        folder.mkdir(exist_ok=True)
        _require_space(folder, _KAFKA_NEEDS)
        for name in todo:
            if (folder / name).exists():
                say(f"{name} in {folder} is damaged (not the file that kafka-jars.lock names); fetching it again")
        say(f"Fetching Apache Kafka {KAFKA_VERSION}: {len(todo)} jars into {folder}")
        aside = folder / ".partial"
        shutil.rmtree(aside, ignore_errors=True)  # of a fetch that was interrupted
        try:
            _fetch_jars([jars[name] for name in todo], folder, aside, download or _download_with_jgo(aside), say)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _write_stamp(folder, hashes)
        say(f"Apache Kafka {KAFKA_VERSION} is ready")


def _fetch_jars(jars: list[Jar], folder: Path, aside: Path, download: Download, say: Say) -> None:
    def fetch(jar: Jar) -> None:
        for attempt in (1, 2):
            arrived = download(jar, aside)
            if _sha256(arrived) == jar.sha256:
                arrived.replace(folder / jar.file_name)
                return
            arrived.unlink()
            if attempt == 1:
                say(f"{jar.file_name} arrived damaged; fetching it once more")
        raise DownloadError(
            f"{jar.file_name} of Apache Kafka does not have the sha256 that kafka-jars.lock names, fetched twice: a "
            "proxy or mirror on the way alters it. Try another network."
        )

    say_progress = _every(_PROGRESS_EVERY_S, say)
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        running = [pool.submit(fetch, jar) for jar in jars]
        try:
            for done, future in enumerate(concurrent.futures.as_completed(running), start=1):
                future.result()
                say_progress(f"Fetching Apache Kafka {KAFKA_VERSION}: {done} of {len(jars)} jars")
        except DownloadError:
            raise
        except Exception as error:
            raise _download_error(f"Apache Kafka {KAFKA_VERSION}", folder, error) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _download_with_jgo(aside: Path) -> Download:
    from jgo.maven import MavenContext, PythonResolver

    # Its own repository folder, not ~/.m2: jgo trusts whatever lies there, half a file too.
    maven = MavenContext(resolver=PythonResolver(), repo_cache=aside, timeout=30)

    def download(jar: Jar, _: Path) -> Path:
        path: Path = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        return path

    return download


# --- Triton ---------------------------------------------------------------------------------------------------------


def fetch_triton(cache: Path, say: Say) -> None:
    """Unpacks the Triton wheel into the cache, by uv, which checks the wheel's hash against `triton.txt`."""
    home = triton_folder(cache)
    if not _unverified(home, _wheel_record(home)):
        return
    _require_triton_platform()
    with _cache_lock(cache, home.name, say):
        if home.exists():
            bad = _unverified(home, _wheel_record(home))
            if not bad:
                return
            say(f"{home} is damaged ({_some(bad)}); fetching Triton again")
        _require_space(home.parent, _TRITON_NEEDS)
        say(f"Fetching Triton (53 MB) into {home}")
        aside, replaced = (home.with_name(f".{home.name}.{end}") for end in ("partial", "replaced"))
        shutil.rmtree(aside, ignore_errors=True)  # of a fetch that was interrupted
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            _uv_install(_PACKAGE / "triton.txt", aside)
            if bad := _unverified(aside, _wheel_record(aside)):
                # uv checks what it downloads, but trusts what it unpacked into its own cache before.
                say(f"uv's copy of Triton is damaged ({_some(bad)}); fetching it once more")
                shutil.rmtree(aside)
                _uv_install(_PACKAGE / "triton.txt", aside, "--no-cache")
            record = _wheel_record(aside)
            if bad := _unverified(aside, record):
                raise DownloadError(f"Triton arrived damaged twice ({_some(bad)}) in {home.parent}: check that disk.")
            _write_stamp(aside, record)
            if home.exists():  # a damaged one may still serve somebody: it goes when the whole one is there
                home.rename(replaced)
            aside.rename(home)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)
        say("Triton is ready")


def _require_triton_platform() -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise MissingComponentError(
            f"Triton is built for Linux on x86_64 and aarch64, not for {platform.system()} on {platform.machine()}: "
            "give the address of a Triton server that runs elsewhere."
        )


def _uv_install(requirements: Path, target: Path, *options: str) -> None:
    command = [
        # A copy, not uv's default of hard links: harm to our file would be harm to the one in uv's cache.
        *(sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--target", str(target)),
        *("--require-hashes", "-r", str(requirements), "--python", sys.executable, "--no-progress"),
        *("--link-mode", "copy", *options),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    text = done.stderr.lower()
    if "no space left" in text:
        raise _download_error("Triton", target.parent, OSError(errno.ENOSPC, "No space left on device"))
    if "hash mismatch" in text:
        raise DownloadError(
            "The Triton wheel does not have the sha256 that triton.txt names: a proxy or mirror on the way alters it. "
            "Try another network."
        )
    if any(sign in text for sign in ("failed to fetch", "error sending request", "connect", "dns", "timed out")):
        raise _download_error("Triton", target.parent, ConnectionError())
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = _without_addresses(lines[-1]) if lines else f"exit code {done.returncode}"
    raise DownloadError(f"uv could not install Triton into {target.parent}: {reason}")


def _wheel_record(home: Path) -> dict[str, str]:
    """sha256 (hex) by file, from the wheel's own list; empty when there is none (nothing unpacked here)."""
    record = home / f"nvidia_pytriton-{TRITON_VERSION}.dist-info" / "RECORD"
    if not record.is_file():
        return {}
    hashes = {}
    with record.open(newline="", encoding="utf-8") as lines:
        for name, digest, _size in csv.reader(lines):
            if digest.startswith("sha256="):
                raw = digest.removeprefix("sha256=")
                hashes[name] = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).hex()
    return hashes


# --- Verified once, then by size and time ---------------------------------------------------------------------------


def _unverified(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Names in `hashes` that are missing in `folder` or are not what their hash says.

    A file with the size and time of the stamp counts as verified; any other is hashed, and the stamp is written anew
    when all are right. No hashes at all means that nothing is there.
    """
    if not hashes:
        return ["everything"]
    stamp = _read_stamp(folder)
    bad, hashed = [], False
    for name, sha256 in hashes.items():
        try:
            if stamp.get(name) == _fingerprint(folder / name, sha256):
                continue
            hashed = True
            right = _sha256(folder / name) == sha256
        except OSError:
            right = False
        if not right:
            bad.append(name)
    if hashed and not bad:
        _write_stamp(folder, hashes)
    return bad


def _fingerprint(path: Path, sha256: str) -> list[str | int]:
    info = path.stat()
    return [sha256, info.st_size, info.st_mtime_ns]


def _read_stamp(folder: Path) -> dict[str, list[str | int]]:
    try:
        stamp = json.loads((folder / ".verified.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(folder: Path, hashes: Mapping[str, str]) -> None:
    stamp = {name: _fingerprint(folder / name, sha256) for name, sha256 in hashes.items()}
    aside = folder / f".verified.{os.getpid()}"
    try:
        aside.write_text(json.dumps(stamp), encoding="utf-8")
        aside.replace(folder / ".verified.json")
    except OSError:  # a cache that is read-only or full still serves; it is only slower to check
        aside.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Helpers --------------------------------------------------------------------------------------------------------


@contextmanager
def _cache_lock(cache: Path, name: str, say: Say) -> Iterator[None]:
    """One process at a time fetches `name`; the kernel frees the lock however its holder ends."""
    folder = cache.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / f".{name}.lock").open("ab")
    except OSError as error:
        raise DownloadError(
            f"The cache folder {folder} cannot be written ({error.strerror}): set SAGELIFT_CACHE_DIR to one that can."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another process that is fetching {name} into {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(_disk_full_message(folder, free, needed))


def _disk_full_message(folder: Path, free: int, needed: int) -> str:
    return (
        f"The disk that holds {folder} has {free // _MEGABYTE} MB free and {needed // _MEGABYTE} MB are needed: free "
        "some space, or set SAGELIFT_CACHE_DIR to a folder on another disk."
    )


def _download_error(what: str, folder: Path, error: Exception) -> DownloadError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free
        needed = _KAFKA_NEEDS if "Kafka" in what else _TRITON_NEEDS
        return DownloadError(_disk_full_message(folder, free, needed))
    if isinstance(error, OSError):  # requests' exceptions are OSErrors too
        return DownloadError(
            f"{what} could not be fetched into {folder}: the package registry cannot be reached. Check the network "
            "(and HTTPS_PROXY, if you need one) and run the command again."
        )
    return DownloadError(f"{what} could not be fetched into {folder}: {_without_addresses(str(error))}")


def _missing_message(what: str, folder: Path, bad: list[str]) -> str:
    return f"{what} is not ready in {folder} ({_some(bad)} missing or altered): `sagelift up` fetches it again."


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _without_addresses(text: str) -> str:
    return re.sub(r"\w+://[^\s'\"`,)}]+", "the registry", text)


def _every(seconds: float, say: Say) -> Say:
    """Passes on at most one line in `seconds`."""
    last = time.monotonic()

    def say_sometimes(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(line)

    return say_sometimes
