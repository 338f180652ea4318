"""Atomic writing of files: a reader never sees half of one."""

from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` create a temporary file beside `path`, then rename it to `path`.

    Args:
        path: The file to create or replace.
        write: Creates the file at the path it is given. If it raises, `path` stays unchanged.

    Returns:
        `path`.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> Path:
    """Write text as UTF-8; a reader never sees half of it."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
