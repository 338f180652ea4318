"""Known-answer probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inference.errors import ArtifactError
from inference.releases.export import export_release
from inference.releases.probes import load_probe
from tests.inference.releases.fakes import INPUTS, TOKENIZER, small_model


def test_the_known_answers_are_those_of_the_model_and_cover_its_range(tmp_path: Path) -> None:
    model = small_model(TOKENIZER)
    probe = load_file(export_release(tmp_path, model, TOKENIZER).path / "probe.safetensors")
    with torch.inference_mode():
        expected = model(*(probe[name] for name in INPUTS))
    torch.testing.assert_close(probe["item_embedding"], expected)
    assert {0, 20} <= set(probe["image_counts"].tolist())
    assert {0, TOKENIZER.size - 1} <= set(probe["token_ids"].flatten().tolist())
    assert probe["images"].dtype == torch.float16


def test_a_probe_is_read_as_arrays_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = export_release(tmp_path, small_model(TOKENIZER), TOKENIZER).path
    probe = load_probe(folder)
    assert probe["images"].dtype == np.float16
    assert probe["item_embedding"].shape == (len(probe["image_counts"]), 256)
    path = folder / "probe.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ArtifactError, match=r"probe\.safetensors is not a safetensors file or is truncated"):
        load_probe(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"probe\.safetensors cannot be read"):
        load_probe(folder)
