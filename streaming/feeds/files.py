"""Find and open the file of a feed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from streaming.errors import FeedError

FILE_IN_FOLDER = "products.jsonl"
"""The file that is read when the user names a folder."""


def find_feed_file(path: Path) -> Path:
    """Return the file of a feed: `path` itself, or `products.jsonl` in a folder.

    Raises:
        FeedError: The file is missing, empty or not a regular file.
    """
    if path.is_dir():
        if not (path / FILE_IN_FOLDER).is_file():
            raise FeedError(f"The folder {path} does not contain {FILE_IN_FOLDER}; name the feed's file itself.")
        path = path / FILE_IN_FOLDER
    if not path.exists():
        raise FeedError(f"{path} does not exist; name the feed's file or its folder.")
    if not path.is_file():
        raise FeedError(f"{path} is not a regular file.")
    if path.stat().st_size == 0:
        raise FeedError(f"{path} is empty.")
    return path


@contextmanager
def open_feed(path: Path) -> Iterator[BinaryIO]:
    """Open a feed's file for reading bytes.

    Raises:
        FeedError: The file cannot be opened, or a read inside the `with` block fails.
    """
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise cannot_read(path, error) from error


def cannot_read(path: Path, error: OSError) -> FeedError:
    """Return the error for a file that the operating system cannot read."""
    return FeedError(f"{path} cannot be read: {error.strerror or error}.")
