"""One job at a time: a lock that its owner's death frees, and that says who the owner is.

The lock is the system's (`flock`), not the file: the kernel lets go of it when the process ends, however it ends, so
there is no stale lock to clear away and no guess whether the process of that number is still the same. The file's text
only names the owner for whoever is refused. On a network file system this needs one that carries `flock` between
machines (NFS 4, Lustre and CephFS do).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from feature_repo.errors import AlreadyRunningError


@contextmanager
def run_lock(path: Path, job: str) -> Iterator[None]:
    """Held while `job` ("materialising view x") runs.

    Raises:
        AlreadyRunningError: another process, or another thread of this one, holds it; does not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"Another process is {job} already: {_owner(file)}. Wait for its end, or end it; what it has done "
                "is not done again."
            ) from None
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield
        file.truncate(0)


def _owner(file: IO[str]) -> str:
    file.seek(0)
    try:
        owner = json.loads(file.read())
        return f"pid {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not yet written its name
        return "it has just begun"
