"""The parts of an installation, put together from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import inference.releases.export
from inference.errors import ServingError
from inference.triton.channel import Tls
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

    monkeypatch.setattr(inference.releases.export, "export_visual_encoder", export)
    return Services(load_settings(state_dir=tmp_path))


def test_a_server_that_started_without_the_visual_encoder_loads_it(services: Services) -> None:
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


def test_security_settings_reach_the_clients_and_no_repr(tmp_path: Path) -> None:
    kafka = {
        "bootstrap_servers": "kafka:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "username": "shop",
        "password": "hunter2",
    }
    triton = {"url": "triton:8001", "tls": True, "tls_server_name": "models"}
    services = Services(load_settings(state_dir=tmp_path, kafka=kafka, triton=triton))
    assert services.kafka.client["sasl_plain_password"] == "hunter2"
    assert "hunter2" not in repr(services.kafka)
    assert services.triton_tls == Tls(server_name="models")
    assert Services(load_settings(state_dir=tmp_path, triton={"url": "triton:8001"})).triton_tls is None
