"""Read the tensors of a release, as NumPy arrays or as torch's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from inference.errors import ArtifactError

Values = TypeVar("Values")


def read_tensors(path: Path, load_file: Callable[[Path], dict[str, Values]]) -> dict[str, Values]:
    """Read a safetensors file.

    Args:
        path: The file.
        load_file: `load_file` of `safetensors.numpy` or `safetensors.torch`.

    Raises:
        ArtifactError: If the file is missing or truncated.
    """
    try:
        return load_file(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or 'no such file'}") from None
    except SafetensorError:
        raise ArtifactError(f"{path} is not a safetensors file or is truncated; export the model again") from None
