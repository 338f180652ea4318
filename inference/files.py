"""What several files of this room do to the disk: keep others out of a folder, have what is written outlive a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.errors import ArtifactError


@contextmanager
def alone_in(folder: Path, *, unusable: str, busy: str) -> Iterator[None]:
    """Keeps other processes that ask the same out of a folder; ends with the process at the latest.

    Raises:
        ArtifactError: `unusable` and why, when the folder cannot be opened; `busy`, when another is in it.
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


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
