"""A release that is much worse than the live one, or too different, does not replace it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from feature_repo.rows import ProductEmbedding
from inference.errors import ArtifactError
from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release
from inference.releases.repository import live_version
from inference.tokenizer import Tokenizer
from streaming.errors import ReleaseError
from streaming.release.check import RECALL, ReleaseCheck, ReleaseComparison, ReleaseLimits, compare_releases, objections
from tests.streaming.release.shop import Shop

PRODUCTS = 400


class Store(NamedTuple):
    """Vectors by model version and product."""

    vectors: dict[str, np.ndarray]

    def product_ids(self) -> Iterable[str]:
        return [f"p{n}" for n in range(PRODUCTS)]

    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> Mapping[str, ProductEmbedding]:
        vectors = self.vectors[model_version]
        return {
            id: ProductEmbedding(
                id=id,
                version=1,
                event_time=datetime(2026, 5, 1, tzinfo=UTC),
                model_version=model_version,
                content_hash="h",
                vector=vectors[int(id[1:])],
            )
            for id in ids
            if int(id[1:]) < len(vectors)
        }


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store() -> Store:
    """1 is live; 2 is another training on the same data, rotated in space; 3 is noise; 4 has almost equal vectors."""
    rng = np.random.default_rng(0)
    live = unit(rng.normal(size=(40, 256))[np.arange(PRODUCTS) % 40] + 0.5 * rng.normal(size=(PRODUCTS, 256)))
    turned, _ = np.linalg.qr(rng.normal(size=(256, 256)))
    again = unit((live + 0.02 * rng.normal(size=live.shape)) @ turned)
    noise = unit(rng.normal(size=live.shape))
    same = unit(np.ones_like(live) + 1e-3 * rng.normal(size=live.shape))
    return Store({"1": live, "2": again, "3": noise, "4": same, "5": live[:3]})


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    tokenizer = Tokenizer.fit([{"title": "red shoe"}])
    torch.manual_seed(0)
    model = ItemSage(ItemSageConfig(tokenizer.size, table_rows=11, width=8, heads=2, feedforward=8, head_hidden=8))
    for recall in (0.30, 0.28, 0.29, 0.31, None, 0.20):
        export_release(tmp_path, model, tokenizer, metadata={} if recall is None else {RECALL: recall})
    return tmp_path


def test_another_training_on_the_same_data_may_replace_the_live_release(repo: Path, store: Store) -> None:
    """Its space may be rotated: only the neighbours count."""
    comparison = ReleaseCheck(repo, store)("1", "2")
    assert (comparison.live, comparison.live_recall, comparison.recall, comparison.products) == (
        "1",
        0.30,
        0.28,
        PRODUCTS,
    )
    assert comparison.overlap is not None
    assert comparison.overlap > 0.5


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_release_whose_neighbours_are_random_may_not(repo: Path, store: Store, version: str) -> None:
    with pytest.raises(ReleaseError, match=rf"release {version} does not .*neighbours, under 5\.0%.*live {version}"):
        ReleaseCheck(repo, store)("1", version)


def test_a_release_with_a_much_lower_recall_may_not(repo: Path, store: Store) -> None:
    store.vectors["6"] = store.vectors["2"]
    with pytest.raises(ReleaseError, match=r"its Recall@10 is 0\.200, under 90% of the live release's 0\.300"):
        ReleaseCheck(repo, store)("1", "6")
    assert ReleaseCheck(repo, store, ReleaseLimits(min_recall=0.5))("1", "6").recall == 0.20


def test_an_unknown_figure_is_no_objection(repo: Path, store: Store) -> None:
    comparison = compare_releases(repo, store, "1", "5")
    assert comparison == ReleaseComparison(live="1", live_recall=0.30, recall=None)
    assert objections(comparison, ReleaseLimits()) == []
    with pytest.raises(ArtifactError, match="no release '9'"):
        compare_releases(repo, store, "1", "9")


def test_never_more_than_half_of_the_neighbours_need_stay() -> None:
    """With 15 products chance alone keeps 10 of 14 neighbours."""
    comparison = ReleaseComparison(
        live="1", live_recall=None, recall=None, products=15, overlap=0.55, overlap_by_chance=10 / 14
    )
    assert objections(comparison, ReleaseLimits()) == []


def test_a_refused_release_can_still_be_made_live(tmp_path: Path) -> None:
    shop, asked = Shop(tmp_path), []

    def refuse(live: str, version: str) -> ReleaseComparison:
        asked.append((live, version))
        raise ReleaseError("worse")

    assert shop.release(check=refuse).version == "1", "there is no live release to compare with"
    with pytest.raises(ReleaseError):
        shop.release(check=refuse)
    assert asked == [("1", "2")]
    assert live_version(tmp_path) == "1"
    assert not shop.stale("2"), "compared after everything was embedded"
    assert shop.make_live("2").version == live_version(tmp_path) == "2"
    assert shop.make_live("2", check=refuse).compared is None, "already live"
