"""The cache folder of downloaded servers: verified files, one download at a time, and errors that name the remedy.

A file counts as verified while its size and modification time equal those in the folder's stamp (`.verified.json`).
Any other file is hashed again, so a check of an unchanged folder takes milliseconds.
"""

import errno
import fcntl
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from feature_repo.files import write_atomically
from sagelift.stack.errors import DownloadError

Say = Callable[[str], None]
"""Shows one line of progress to the user."""

MEGABYTE = 1 << 20


def cache_folder(cache: Path, name: str) -> Path:
    """Return the absolute path of the component folder `name` in the cache."""
    return cache.expanduser().resolve() / name


def unverified(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Return the names whose files are missing or differ from their hashes.

    Hashes only files that changed since the last check. Rewrites the stamp when every hashed file is correct.

    Args:
        folder: Folder of the files.
        hashes: Expected sha256 in hex, by file name. An empty mapping means that nothing was downloaded yet.

    Returns:
        The names in the order of `hashes`; `["everything"]` for an empty mapping.
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
            correct = file_sha256(folder / name) == sha256
        except OSError:
            correct = False
        if not correct:
            bad.append(name)
    if hashed and not bad:
        write_stamp(folder, hashes)
    return bad


def write_stamp(folder: Path, hashes: Mapping[str, str]) -> None:
    """Record size and modification time of the verified files.

    A cache that is read-only or full still works: only later checks take longer. So write errors are ignored.
    """
    stamp = {name: _fingerprint(folder / name, sha256) for name, sha256 in hashes.items()}
    with suppress(OSError):
        write_atomically(folder / ".verified.json", json.dumps(stamp))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def cache_lock(cache: Path, name: str, say: Say) -> Iterator[None]:
    """Let only one process at a time download `name`. The kernel frees the lock when the process ends.

    Raises:
        DownloadError: The cache folder cannot be written.
    """
    folder = cache.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / f".{name}.lock").open("ab")
    except OSError as error:
        raise DownloadError(
            f"The cache folder {folder} cannot be written ({error.strerror}): set SAGELIFT_CACHE_DIR to a folder that "
            "can be written."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another process that downloads {name} into {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def require_space(folder: Path, needed: int) -> None:
    """Check that the disk of `folder` has `needed` bytes free.

    Raises:
        DownloadError: The disk has less.
    """
    if shutil.disk_usage(folder).free < needed:
        raise _disk_full(folder, needed)


def download_error(what: str, folder: Path, error: Exception, needed: int) -> DownloadError:
    """Turn a failed download into an error message for the user, without addresses of registries.

    Args:
        what: Name and version of the component.
        folder: Folder of the component.
        error: The cause: a full disk, any other OSError (the network), or an error of the registry.
        needed: Bytes of disk space that the component needs.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(folder, needed)
    if isinstance(error, OSError):  # exceptions of requests are OSErrors too
        return DownloadError(
            f"{what} could not be downloaded into {folder}: the package registry cannot be reached. Check the network "
            "(and HTTPS_PROXY, if you need one) and run the command again."
        )
    return DownloadError(f"{what} could not be downloaded into {folder}: {without_addresses(str(error))}")


def missing_message(what: str, folder: Path, bad: list[str]) -> str:
    """Return the message for a component that is not complete in its folder."""
    return f"{what} is not ready in {folder} ({some(bad)} missing or altered): `sagelift up` downloads it again."


def some(names: list[str]) -> str:
    """Return the first name and the number of the others."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def without_addresses(text: str) -> str:
    """Replace every URL in the text, because it may contain credentials."""
    return re.sub(r"\w+://[^\s'\"`,)}]+", "the registry", text)


def at_most_every(seconds: float, say: Say) -> Say:
    """Return a `say` that passes on at most one line per `seconds`."""
    last = time.monotonic()

    def say_sometimes(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(line)

    return say_sometimes


def _disk_full(folder: Path, needed: int) -> DownloadError:
    free = shutil.disk_usage(folder).free
    return DownloadError(
        f"The disk that holds {folder} has {free // MEGABYTE} MB free and {needed // MEGABYTE} MB are needed: free "
        "some space, or set SAGELIFT_CACHE_DIR to a folder on another disk."
    )


def _fingerprint(path: Path, sha256: str) -> list[str | int]:
    info = path.stat()
    return [sha256, info.st_size, info.st_mtime_ns]


def _read_stamp(folder: Path) -> dict[str, list[str | int]]:
    try:
        stamp = json.loads((folder / ".verified.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}
