"""A shop with a catalogue, a consumer and a model repository, into which models are released."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.errors import ServingError
from inference.model import ItemSage, ItemSageConfig
from inference.releases.repository import served_versions
from inference.tokenizer import Tokenizer
from inference.triton.client import Embedded
from streaming.release.release import Released, ReleaseTarget, make_live, release_model
from tests.streaming.builders import update, vector_of
from tests.streaming.fakes import Crash, FakeEmbedder
from tests.streaming.world import World


class FakeTriton:
    """Serves, after a load, the versions that the repository's configuration names; embeds by version and text."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        self.loaded: list[str] = []
        self.broken: set[str] = set()  # versions that answer their probe wrongly
        self.crashes: Callable[[], bool] = lambda: False  # whether the process dies when it embeds

    def load(self, name: str) -> None:
        assert name == "itemsage"
        self.loaded = served_versions(self.repo)

    def probe(self, known: Path, version: str) -> float:
        if version not in self.loaded or version in self.broken:
            raise ServingError(f"version {version} answers wrongly")
        assert known == self.repo / "itemsage" / version
        return 1.0

    def embed(self, images: Sequence[Any], token_ids: Any, field_lengths: Any, *, version: str) -> Embedded:
        assert version in self.loaded
        if self.crashes():
            raise Crash
        return Embedded(np.stack([vector_of(version, row.tobytes()) for row in token_ids]), {}, version)


class Shop:
    """A catalogue of ten products, a consumer that embeds with release 0, and a model repository."""

    def __init__(self, repo: Path) -> None:
        self.repo, self.triton, self.world = repo, FakeTriton(repo), World()
        self.world.store.embeddings = {"0": {}}
        self.world.embedder = FakeEmbedder("0")
        self.world.process(*(update(f"p{n}", 1) for n in range(10)))
        self.tokenizer = Tokenizer.fit([{"title": "p 1 2"}])

    def release(self, **options: Any) -> Released:
        config = ItemSageConfig(self.tokenizer.size, table_rows=101, width=32, heads=4, feedforward=64, head_hidden=64)
        model = ItemSage(config)
        return release_model(self.target(), model, self.tokenizer, extra_files={}, metadata={}, **options)

    def make_live(self, version: str, **options: Any) -> Released:
        return make_live(self.target(), version, **options)

    def target(self) -> ReleaseTarget:
        client: Any = self.triton
        return ReleaseTarget(self.repo, client, self.world.store, self.world.topic, self.world.offers)

    def stale(self, version: str) -> set[str]:
        """Products whose embedding of this release is older than their features."""
        store = self.world.store
        return {
            p.id for part in store.scan_features() for p in part if store.embeddings[version][p.id].version != p.version
        }


def catalogue() -> World:
    """Ten live products and a deleted one, embedded with model version 1; the store is ready for version 2."""
    world = World()
    world.process(*(update(f"p{n}", 1) for n in range(10)), update("gone", 1), update("gone", 2, "delete"))
    world.store.ensure_model_version("2")
    return world
