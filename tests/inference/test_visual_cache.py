"""The cache of image vectors: kept across restarts, by version, for many threads."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from inference.errors import ArtifactError
from inference.visual_cache import VisualCache
from tests.inference.builders import unit


def vectors(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {f"hash{i}": v for i, v in enumerate(unit(np.random.default_rng(seed), count))}


def test_vectors_come_back_exactly_also_after_a_restart(tmp_path: Path) -> None:
    path, kept = tmp_path / "new" / "cache.sqlite", vectors(1200)  # more than one query's worth
    cache = VisualCache(path, "v1")
    cache.put(kept)
    for reader in (cache, VisualCache(path, "v1")):
        row = reader.get([*kept, "unknown"])
        assert row.keys() == kept.keys()
        assert all(np.array_equal(row[h], kept[h]) for h in kept)
        assert row["hash0"].dtype == np.float32
        reader.close()


def test_empty_reads_and_writes_do_nothing(tmp_path: Path) -> None:
    cache = VisualCache(tmp_path / "c", "v1")
    cache.put({})
    assert cache.get([]) == {}
    assert cache.get(["unknown"]) == {}


def test_vectors_of_another_encoder_version_are_neither_returned_nor_overwritten(tmp_path: Path) -> None:
    old, new = VisualCache(tmp_path / "c", "v1"), VisualCache(tmp_path / "c", "v2")
    first, second = vectors(1, 1), vectors(1, 2)
    old.put(first)
    assert new.get(["hash0"]) == {}
    new.put(second)
    assert np.array_equal(old.get(["hash0"])["hash0"], first["hash0"])
    assert np.array_equal(new.get(["hash0"])["hash0"], second["hash0"])


def test_a_second_vector_for_an_image_replaces_the_first(tmp_path: Path) -> None:
    cache = VisualCache(tmp_path / "c", "v1")
    cache.put(vectors(1, 1))
    cache.put(vectors(1, 2))
    assert np.array_equal(cache.get(["hash0"])["hash0"], vectors(1, 2)["hash0"])


def test_other_float_types_are_kept_as_float32(tmp_path: Path) -> None:
    cache = VisualCache(tmp_path / "c", "v1")
    cache.put({"a": np.full(256, 0.1, np.float64)})
    assert np.array_equal(cache.get(["a"])["a"], np.full(256, 0.1, np.float32))


def test_a_row_of_another_length_counts_as_unknown(tmp_path: Path) -> None:
    cache = VisualCache(tmp_path / "c", "v1")
    cache.put(vectors(2))
    with sqlite3.connect(tmp_path / "c") as other:
        other.execute("update image_vector set vector = x'00' where content_hash = 'hash0'")
    assert set(cache.get(["hash0", "hash1"])) == {"hash1"}


def test_a_vector_that_cannot_be_kept_spoils_nothing(tmp_path: Path) -> None:
    cache = VisualCache(tmp_path / "c", "v1")
    with pytest.raises(AttributeError):
        cache.put({**vectors(2), "bad": None})  # type: ignore[dict-item]
    assert cache.get(["hash0"]) == {}
    cache.put(vectors(2))
    assert len(cache.get(["hash0", "hash1"])) == 2


def test_threads_and_connections_share_it(tmp_path: Path) -> None:
    caches = [VisualCache(tmp_path / "c", "v1") for _ in range(2)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                key = f"{number}-{turn}"
                caches[number % 2].put({key: np.full(256, number, np.float32)})
                assert caches[turn % 2].get([key])[key][0] == number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(caches[0].get([f"{n}-{t}" for n in range(4) for t in range(20)])) == 80


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"this is a text, and long enough to be looked at" * 50)
    with pytest.raises(ArtifactError, match=r"cache of image vectors .* cannot be used .* delete it"):
        VisualCache(tmp_path / "c", "v1")
