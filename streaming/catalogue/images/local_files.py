"""Images in files: only below permitted folders, only regular files, and never a wait."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from streaming.errors import ImageError

_RETRYABLE = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)


def read_file(name: str, *, roots: Sequence[Path] | None, max_bytes: int) -> bytes:
    """Return the content of a file.

    Args:
        name: Path of the file.
        roots: Resolved folders; the file must lie below one of them, also after symbolic links. None: any file.
        max_bytes: Largest file, in bytes.

    Raises:
        ImageError: The file is missing, not permitted, too large or cannot be read.
    """
    try:
        path = Path(name).resolve(strict=True)
        if roots is not None and not any(path.is_relative_to(root) for root in roots):
            raise ImageError("lies outside the folders that images may be read from")
        # Not blocking: opening a named pipe would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError("is not a regular file")
            raw = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: NUL in the name; RuntimeError: link loop
        retryable = isinstance(error, OSError) and error.errno in _RETRYABLE
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read: {reason}", retryable=retryable) from None
    if len(raw) > max_bytes:
        raise ImageError(f"is larger than {max_bytes} bytes")
    return raw
