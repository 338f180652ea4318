"""Real servers that tests share: each starts once per test process, on free loopback ports and in its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release, export_visual_encoder
from inference.releases.repository import set_live
from inference.tokenizer import Tokenizer
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.triton import TritonServer
from tests.integration.feature_servers import PostgresServer, RedisServer, running_postgres, running_redis

WORDS = ["red", "blue", "green", "oak", "pine", "table", "chair", "lamp", "wool", "coat", "summer", "dress"]


@pytest.fixture(scope="session")
def kafka(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker; tests use topics and groups of their own."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), cache) as broker:
        yield broker


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with the visual encoder and a small ItemSage as live release 1."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.fit([{"title": " ".join(WORDS[i:] + WORDS[:i])} for i in range(len(WORDS))])
    torch.manual_seed(1)
    model = ItemSage(ItemSageConfig(tokenizer.size, table_rows=499, width=64, heads=4, feedforward=128))
    export_release(folder, model, tokenizer)
    set_live(folder, "1")
    export_visual_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def triton(cache: Path, model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A Triton server with the models of `model_repository`."""
    with TritonServer(tmp_path_factory.mktemp("triton"), cache, model_repository) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for online stores."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis server for online stores."""
    with running_redis() as server:
        yield server
