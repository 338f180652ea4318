"""Where the jobs over a whole catalogue run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import inference.triton.embedder
from sagelift.commands.engines import open_context
from sagelift.services import Services
from sagelift.settings import load_settings
from streaming.kafka.connection import Connection
from streaming.kafka.schema_registry.client import SchemaRegistry
from streaming.kafka.schema_registry.codec import RegistryCodec, framed_id
from streaming.vectors.publisher import OutgoingVector
from tests.streaming.fakes import CompactedProducer
from tests.streaming.schema_registry import Registry
from tests.streaming.vectors.builders import vector_message


def test_a_spark_executor_publishes_with_the_codec_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that expects framed vectors must not find bare JSON among them."""
    producer: Any = CompactedProducer()
    monkeypatch.setattr(Connection, "producer", lambda *_, **__: producer)
    monkeypatch.setattr(Services, "features", None)
    monkeypatch.setattr(inference.triton.embedder, "ItemEmbedder", lambda *_, **__: None)
    with Registry() as registry, SchemaRegistry(registry.url) as client:
        monkeypatch.setattr(Services, "registry_codec", RegistryCodec(client))
        settings = load_settings(
            state_dir=tmp_path,
            kafka={"bootstrap_servers": "kafka:9092"},
            triton={"url": "triton:8001"},
        )
        publish = open_context(settings, "1").publish
        publish([OutgoingVector("1", "lamp", 7, vector_message("lamp", 7))])
    (sent,) = producer.sent
    assert framed_id(sent[2]) == 1
