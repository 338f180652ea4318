"""Saving and loading: the same index comes back, or a clear error."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.errors import ArtifactError
from inference.retrieval import Attributes, Filter, RetrievalIndex
from tests.inference.retrieval.vectors import DIM, clustered, filled


@pytest.fixture
def index() -> RetrievalIndex:
    """Products with and without prices; one removed, one removed before it ever came, two with changed vectors."""
    vectors = clustered(np.random.default_rng(0), 300)
    index = filled(vectors)
    for row in range(0, 200, 2):
        index.set_attributes(
            f"p{row}",
            5,
            Attributes(
                amount_minor=row,
                currency="EUR" if row % 4 else "USD",
                product_type=f"Home > {row % 3}",
                availability="in_stock",
            ),
        )
    index.upsert("p1", 7, vectors[2])
    index.upsert("p2", 7, vectors[1])
    index.remove("p3", 4)
    index.remove("unseen", 9)
    return index


QUERIES = clustered(np.random.default_rng(1), 30)
FILTERS = (
    None,
    Filter(max_price=100, currency="EUR"),
    Filter(categories=("home > 1",), in_stock=True),
    Filter(min_price=20, currency="USD", categories=("home > 0", "home > 2")),
)


def test_the_loaded_index_answers_and_refuses_as_the_saved_one(index: RetrievalIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "a" / "b", position={"product.embeddings/0": 17})
    loaded = RetrievalIndex.load(tmp_path / "a" / "b", "1", dim=DIM)
    for where in FILTERS:
        for exact in (False, True):
            assert loaded.search(QUERIES, exact=exact, where=where) == index.search(QUERIES, exact=exact, where=where)
    assert (len(loaded), "p3" in loaded, loaded.wear) == (299, False, index.wear)
    assert loaded.position == {"product.embeddings/0": 17}
    assert loaded.settings == index.settings
    vector = QUERIES[0]
    assert not loaded.upsert("p1", 6, vector)
    assert not loaded.upsert("p3", 3, vector)
    assert not loaded.upsert("unseen", 8, vector)
    assert not loaded.set_attributes("p4", 4, Attributes())


def test_the_loaded_index_goes_on_changing(index: RetrievalIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    loaded = RetrievalIndex.load(tmp_path, "1", dim=DIM)
    fresh = clustered(np.random.default_rng(2), 400)
    for row, vector in enumerate(fresh):
        assert loaded.upsert(f"p{row}", 10, vector)
    assert loaded.set_attributes("p399", 1, Attributes(product_type="Garden", availability="in_stock"))
    assert len(loaded) == 400
    assert [c.ids[0] for c in loaded.search(fresh, 1)] == [f"p{row}" for row in range(400)]
    assert loaded.search(fresh[:1], where=Filter(categories=("garden",)))[0].ids == ["p399"]
    loaded.compact()
    loaded.save(tmp_path)
    again = RetrievalIndex.load(tmp_path, "1", dim=DIM)
    assert again.search(QUERIES, exact=True) == loaded.search(QUERIES, exact=True)


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    RetrievalIndex("1").save(tmp_path)
    loaded = RetrievalIndex.load(tmp_path, "1")
    assert len(loaded) == 0
    assert loaded.upsert("a", 1, np.ones(256, np.float32))


def test_a_save_that_fails_leaves_the_last_one_whole(
    index: RetrievalIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.save(tmp_path)
    files = sorted(tmp_path.iterdir())
    expected = index.search(QUERIES)
    index.remove("p9", 9)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="no space left"):
        index.save(tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    assert RetrievalIndex.load(tmp_path, "1", dim=DIM).search(QUERIES) == expected


def test_old_saves_are_removed_and_other_files_are_not_touched(index: RetrievalIndex, tmp_path: Path) -> None:
    (tmp_path / "my-notes.txt").write_text("keep")
    for version in range(10, 15):
        index.remove("p9", version)
        index.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 + 1 + 2 * 3, "manifest, notes, and the files of the last two saves"
    assert (tmp_path / "my-notes.txt").read_text() == "keep"


def test_the_index_of_another_model_version_or_length_is_refused(index: RetrievalIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    with pytest.raises(
        ArtifactError, match="is of model version '1' with vectors of length 64, must be of version '2'"
    ):
        RetrievalIndex.load(tmp_path, "2", dim=DIM)
    with pytest.raises(ArtifactError, match="must be of version '1' with length 256"):
        RetrievalIndex.load(tmp_path, "1")


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no saved index"):
        RetrievalIndex.load(tmp_path, "1")
    with pytest.raises(ArtifactError, match="has no saved index"):
        RetrievalIndex.load(tmp_path / "missing", "1")


@pytest.mark.parametrize("part", ["graph.usearch", "vectors.npy", "products.arrow", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "gone", "foreign"])
def test_a_damaged_index_is_refused_and_named(index: RetrievalIndex, tmp_path: Path, part: str, damage: str) -> None:
    index.save(tmp_path)
    (path,) = (p for p in tmp_path.iterdir() if p.name.endswith(part))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(
            {
                "truncated": content[:middle],
                "altered": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "foreign": b'{"format": "something else"}',
            }[damage]
        )
    with pytest.raises(ArtifactError, match=f"the index in {tmp_path} cannot be loaded|has no saved index"):
        RetrievalIndex.load(tmp_path, "1", dim=DIM)


def test_an_index_of_a_later_format_is_refused(index: RetrievalIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": "sagelift-retrieval-index-2"}))
    with pytest.raises(ArtifactError, match="its format is 'sagelift-retrieval-index-2'"):
        RetrievalIndex.load(tmp_path, "1", dim=DIM)


def test_free_rows_and_remembered_removals_are_saved(index: RetrievalIndex, tmp_path: Path) -> None:
    for row in range(250, 300):
        index.remove(f"p{row}", 9)
    index.forget_removed(keep=10)
    index.save(tmp_path)
    loaded = RetrievalIndex.load(tmp_path, "1", dim=DIM)
    vectors = clustered(np.random.default_rng(3), 60)
    for which in (index, loaded):
        places = which.row_count
        assert which.upsert("p260", 1, vectors[0]), "forgotten"
        assert not which.upsert("p299", 1, vectors[0]), "remembered"
        assert "" not in which
        for row in range(20):
            which.upsert(f"n{row}", 1, vectors[row])
        assert which.row_count == places
        assert which.forget_removed(keep=0) >= 10
    assert loaded.search(QUERIES, exact=True) == index.search(QUERIES, exact=True)


def test_searches_go_on_while_the_index_is_saved(
    index: RetrievalIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = []
    write = np.save

    def searching(*arguments: Any) -> None:
        searcher = threading.Thread(target=lambda: result.append(index.search(QUERIES)))
        searcher.start()
        changer = threading.Thread(target=index.upsert, args=("late", 1, QUERIES[0]))
        changer.start()
        searcher.join(10)
        changer.join(10)
        assert not changer.is_alive()
        write(*arguments)

    monkeypatch.setattr(np, "save", searching)
    index.save(tmp_path)
    assert len(result) == 1
    assert "late" in index
    assert "late" not in RetrievalIndex.load(tmp_path, "1", dim=DIM), "all files have the same state"
