"""Files of tensors are read whole or refused with the file and the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import numpy as of_numpy
from safetensors import torch as of_torch

from inference.errors import ArtifactError
from inference.releases.tensors import read_tensors


def test_both_kinds_of_tensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    of_numpy.save_file({"a": np.arange(3, dtype=np.float32)}, path)
    assert read_tensors(path, of_numpy.load_file)["a"].tolist() == [0, 1, 2]
    assert torch.equal(read_tensors(path, of_torch.load_file)["a"], torch.arange(3.0))


@pytest.mark.parametrize("load_file", [of_numpy.load_file, of_torch.load_file])
def test_a_missing_or_truncated_file_is_refused_by_name(tmp_path: Path, load_file: object) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ArtifactError, match=r"x\.safetensors cannot be read"):
        read_tensors(path, load_file)
    path.write_bytes(b"12345678")
    with pytest.raises(ArtifactError, match="is truncated; export the model again"):
        read_tensors(path, load_file)
