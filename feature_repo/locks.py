"""Locks between processes that the death of their owner frees.

A lock is the operating system's (`flock`), not the existence of a file: the kernel releases it when the process ends,
however it ends. So no lock is stale, and nobody guesses whether a process number is still the same process. On a
network file system this needs one that carries `flock` between machines (NFS 4, Lustre and CephFS do).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from feature_repo.errors import AlreadyRunningError


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock; wait while another process holds it."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def apply_lock(home: Path) -> AbstractContextManager[None]:
    """Return the lock for making or applying to the registry: Feast locks nothing."""
    return waiting_lock(home / "apply.lock")


def compaction_lock(home: Path) -> AbstractContextManager[None]:
    """Return the lock for compacting the history: two processes would merge the same parts twice."""
    return waiting_lock(home / "compact.lock")


@contextmanager
def run_lock(path: Path, job: str) -> Iterator[None]:
    """Hold the lock of a job; do not wait for it. The file's text names the owner.

    Args:
        path: The lock's file.
        job: What runs, such as "materializing view x"; it completes the sentence of the error.

    Raises:
        AlreadyRunningError: Another process, or another thread of this one, holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"Another process is {job} already: {_owner(file)}. Wait until it ends, or end it; the next run does "
                "not repeat its work."
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
    except (ValueError, KeyError, TypeError):  # it holds the lock and has not written its name yet
        return "it has just started"
