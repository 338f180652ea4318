"""A lock on a folder that keeps other processes out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.errors import ArtifactError


@contextmanager
def exclusive_lock(folder: Path, *, unusable: str, busy: str) -> Iterator[None]:
    """Keep other processes that ask for the same lock out of a folder. The lock ends at the latest with the process.

    Args:
        folder: The folder; it must exist.
        unusable: Message of the error if the folder cannot be opened.
        busy: Message of the error if another process holds the lock.

    Raises:
        ArtifactError: If the folder cannot be opened, or another process holds the lock.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ArtifactError(f"{unusable}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ArtifactError(busy) from None
    try:
        yield
    finally:
        os.close(descriptor)
