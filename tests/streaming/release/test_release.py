"""A release becomes live with everything embedded or not at all, can be taken up again, and can be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.errors import ArtifactError, ServingError
from inference.model import ItemSage, ItemSageConfig
from inference.releases.repository import live_version, releases, served_versions
from inference.tokenizer import Tokenizer
from inference.triton.client import Embedded
from streaming.release import release
from streaming.release.reembed import reembed
from streaming.release.release import Released, make_live, release_model
from tests.streaming.builders import update, vector_of
from tests.streaming.fakes import Crash, FakeEmbedder
from tests.streaming.world import World


class FakeTriton:
    """Serves, after a load, the versions that the repository's configuration names; embeds by version and text."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        self.loaded: list[str] = []
        self.broken: set[str] = set()  # versions that answer their probe wrongly

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
        return Embedded(np.stack([vector_of(version, row.tobytes()) for row in token_ids]), {}, version)


class Shop:
    """A catalogue of ten products, a consumer that embeds with release 0, and a model repository."""

    def __init__(self, repo: Path) -> None:
        self.repo, self.triton, self.world = repo, FakeTriton(repo), World()
        self.world.store.embeddings = {"0": {}}
        self.world.embedder = FakeEmbedder("0")
        self.world.process(*(update(f"p{n}", 1) for n in range(10)))
        self.tokenizer = Tokenizer.fit([{"title": "p 1 2"}])

    def release(self, **wanted: Any) -> Released:
        config = ItemSageConfig(self.tokenizer.size, table_rows=101, width=32, heads=4, feedforward=64, head_hidden=64)
        return release_model(
            self.repo, ItemSage(config), self.tokenizer, extra_files={}, metadata={}, **self.parts(), **wanted
        )

    def make_live(self, version: str, **wanted: Any) -> Released:
        return make_live(self.repo, version, **self.parts(), **wanted)

    def parts(self) -> dict[str, Any]:
        return {
            "client": self.triton,
            "store": self.world.store,
            "publish": self.world.topic,
            "publish_offers": self.world.offers,
        }

    def stale(self, version: str) -> set[str]:
        """Products whose embedding of this release is older than their features."""
        store = self.world.store
        return {
            p.id for part in store.scan_features() for p in part if store.embeddings[version][p.id].version != p.version
        }


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_release_is_live_only_when_the_catalogue_is_embedded_with_it(shop: Shop) -> None:
    seen: list[str | None] = []
    released = shop.release(on_progress=lambda done: seen.append(live_version(shop.repo)))
    assert (released.version, released.counts["embedded"], seen) == ("1", 10, [None])
    assert live_version(shop.repo) == "1"
    assert len(shop.world.topic.compacted("1")) == 10


def test_a_release_of_a_catalogue_that_is_older_than_the_offers_topic_fills_it(shop: Shop) -> None:
    before = shop.world.offers.compacted()
    shop.world.offers.log.clear()
    shop.release()
    assert shop.world.offers.compacted() == before
    assert len(before) == 10


def test_a_release_that_fails_its_probe_does_not_become_live_and_can_be_taken_up_again(shop: Shop) -> None:
    shop.release()
    shop.triton.broken = {"2"}
    exported: list[str] = []
    with pytest.raises(ServingError):
        shop.release(on_export=exported.append)
    assert (live_version(shop.repo), exported) == ("1", ["2"])
    shop.triton.broken = set()
    assert shop.make_live("2").version == "2"
    assert live_version(shop.repo) == "2"
    assert [r.version for r in releases(shop.repo)] == ["1", "2"], "nothing was exported again"


def test_a_release_broken_off_after_the_switch_is_finished_by_making_it_live_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed during the first pass was embedded with the old release alone."""

    def dies_in_the_second_pass(*arguments: Any, republish: bool = True, **wanted: Any) -> Any:
        if not republish:
            raise Crash
        result = reembed(*arguments, republish=republish, **wanted)
        shop.world.process(update("p3", 2, title="p 2 2"))
        return result

    monkeypatch.setattr(release, "reembed", dies_in_the_second_pass)
    with pytest.raises(Crash):
        shop.release()
    assert live_version(shop.repo) == "1"
    assert shop.stale("1") == {"p3"}
    monkeypatch.undo()
    assert shop.make_live("1").counts["embedded"] == 1
    assert shop.stale("1") == set()


def test_an_older_release_can_be_made_live_again(shop: Shop) -> None:
    """Even when Triton no longer serves it."""
    for _ in range(3):
        shop.release()
    assert served_versions(shop.repo) == ["2", "3"]
    shop.make_live("1")
    assert live_version(shop.repo) == "1"
    assert shop.triton.loaded == ["1", "3"], "the one that was live stays served"


def test_two_releases_at_once_do_not_unserve_each_other(shop: Shop) -> None:
    refused: list[str] = []

    def meanwhile(done: int) -> None:
        for other in (shop.release, lambda: shop.make_live("1")):
            with pytest.raises(ArtifactError, match="another release is under way"):
                other()
            refused.append("refused")

    shop.release()
    shop.release(on_progress=meanwhile)
    assert refused == ["refused", "refused"]
    assert (live_version(shop.repo), served_versions(shop.repo)) == ("2", ["1", "2"])
    assert shop.release().version == "3"


def test_a_version_that_was_never_exported_is_named(shop: Shop) -> None:
    with pytest.raises(ArtifactError, match="no release '7'"):
        shop.make_live("7")
    assert live_version(shop.repo) is None
