"""Atomic writes: a reader sees the old file or folder, or the new one, and never a part of it.

The content is written aside, beside its target and hence on the same disk, and then renamed. With `durable`, the
content and the new name also survive a loss of power.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PARTIAL: Final = ".partial"  # suffix of a file or folder that is being written


def write_atomically(path: Path, content: bytes | str, *, durable: bool = False) -> None:
    """Write a file; its old content stays until the new content is complete.

    Args:
        path: The file; its folder must exist.
        content: Bytes, or a text that is written as UTF-8.
        durable: Whether the file must survive a loss of power from the return of this function on.
    """
    with atomic_file(path, durable=durable) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the path of a partial file that replaces `path` at the end of the block.

    An error in the block removes the partial file and leaves `path` as it was.

    Args:
        path: The file; its folder must exist.
        durable: Whether the file must survive a loss of power from the end of the block on.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


@contextmanager
def atomic_folder(folder: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a partial folder that becomes `folder` at the end of the block; makes the parent folder if needed.

    An error in the block removes the partial folder.

    Args:
        folder: The folder; it must not exist, or be empty, at the end of the block.
        durable: Whether the folder must survive a loss of power from the end of the block on.
    """
    with scratch_folder(folder.parent) as partial:
        yield partial
        if durable:
            sync_tree(partial)
        partial.rename(folder)
        if durable:
            sync(folder.parent)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, which is made if needed; remove it unless the block renames it.

    The umask decides who can read the folder, as for every other file: a server may run as another user.
    """
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f".{uuid.uuid4().hex[:12]}{PARTIAL}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make a folder with everything in it survive a loss of power."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
