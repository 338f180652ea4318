"""A file with the last good configs, so that a service can start while the store is not available.

The file is written to a temporary name and renamed. It has its schema and the SHA-256 of its content, and is refused
when either does not match.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from experiments.config import PublishedExperiment
from experiments.errors import ConfigError

FILE_SCHEMA: Final = 1
"""Version of the file's format."""


class _File(msgspec.Struct):
    schema: int
    saved_at: int  # microseconds UTC
    sha256: str  # of the bytes of `experiments`
    experiments: msgspec.Raw


class _Schema(msgspec.Struct):
    schema: int


def save_configs(path: Path, published: Sequence[PublishedExperiment], saved_at: int) -> None:
    """Write the file completely or not at all. Only its owner can read it: overrides contain unit ids.

    Args:
        path: The file.
        published: The experiments.
        saved_at: The current time in microseconds UTC.

    Raises:
        OSError: The file cannot be written.
    """
    content = msgspec.json.encode(list(published))
    file = _File(FILE_SCHEMA, saved_at, hashlib.sha256(content).hexdigest(), msgspec.Raw(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")  # created with mode 0600
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(msgspec.json.encode(file))
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_configs(path: Path) -> tuple[list[PublishedExperiment], int]:
    """Read the file.

    Returns:
        The experiments, and the time when they were saved, in microseconds UTC.

    Raises:
        ConfigError: The file is damaged, or has a newer schema.
        OSError: The file cannot be read.
    """
    text = path.read_bytes()
    try:
        if (schema := msgspec.json.decode(text, type=_Schema).schema) > FILE_SCHEMA:
            raise ConfigError(
                f"{path} has schema {schema}, and this program reads {FILE_SCHEMA}: upgrade it, or delete the file."
            )
        file = msgspec.json.decode(text, type=_File)
        if hashlib.sha256(file.experiments).hexdigest() != file.sha256:
            raise ConfigError(f"{path} is damaged (its SHA-256 differs): delete it; the store has the configs.")
        return msgspec.json.decode(file.experiments, type=list[PublishedExperiment]), file.saved_at
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a file of configs ({error}): delete it; the store has them.") from error
