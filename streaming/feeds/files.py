"""Find and open the file of a feed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from streaming.errors import FeedError

FILE_IN_FOLDER = "products.jsonl"
"""The feed's file when the user names a folder."""


def find_feed_file(path: Path) -> Path:
    """Return the file of a feed; a folder stands for its `products.jsonl`.

    Raises:
        FeedError: The file is missing, empty or not a regular file.
    """
    if path.is_dir():
        if not (path / FILE_IN_FOLDER).is_file():
            raise FeedError(f"The folder {path} holds no {FILE_IN_FOLDER}; name the feed's file itself.")
        path = path / FILE_IN_FOLDER
    if not path.exists():
        raise FeedError(f"There is no feed at {path}.")
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
    """The error for a file that the operating system does not let us read."""
    return FeedError(f"{path} cannot be read: {error.strerror or error}.")
