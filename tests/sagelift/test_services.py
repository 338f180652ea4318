"""The parts of an installation, put together from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference import repository
from inference.errors import ServingError
from sagelift.services import Services
from sagelift.settings import load_settings


class FakeTriton:
    """A server that was started without the visual encoder."""

    def __init__(self, right: bool = True) -> None:
        self.right = right
        self.loaded: list[str] = []

    def load(self, name: str) -> None:
        self.loaded.append(name)

    def probe(self, folder: Path) -> float:
        if folder.parent.name not in self.loaded or not self.right:
            raise ServingError("answers wrongly")
        return 1.0


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    def export(repo: Path) -> Path:
        return repo / "visual_encoder" / "1"

    monkeypatch.setattr(repository, "export_visual_encoder", export)
    return Services(load_settings(state_dir=tmp_path))


def test_a_server_that_was_started_without_the_visual_encoder_is_told_to_serve_it(services: Services) -> None:
    triton: Any = FakeTriton()
    services.triton = triton
    services.prepare_visual_encoder()
    assert triton.loaded == ["visual_encoder"]


def test_a_server_that_answers_with_another_encoder_is_refused(services: Services) -> None:
    """It serves another repository: its vectors would be of another space."""
    triton: Any = FakeTriton(right=False)
    services.triton = triton
    with pytest.raises(ServingError):
        services.prepare_visual_encoder()
