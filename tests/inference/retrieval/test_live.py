"""The switch from one model version to the next."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from inference.errors import InputError
from inference.retrieval import Live, RetrievalIndex
from tests.inference.retrieval.vectors import DIM, clustered


def version(name: str, products: int = 20) -> RetrievalIndex:
    """Products are named after the version, so that an answer shows where it comes from."""
    index = RetrievalIndex(name, dim=DIM)
    vectors = clustered(np.random.default_rng(int(name)), products)
    index.upsert_many([f"{name}/{i}" for i in range(products)], [1] * products, vectors)
    return index


def test_the_successor_answers_at_once_and_the_old_one_is_handed_back() -> None:
    old, new = version("1"), version("2")
    live = Live(old)
    assert live.swap(new) is old
    assert live.current is new
    assert live.swap(old) is new, "rollback"
    assert live.current is old


def test_a_successor_that_has_not_caught_up_is_refused_and_the_old_one_stays() -> None:
    live = Live(version("1"))
    with pytest.raises(InputError, match="version '2' has 17 products, version '1' 20: let it catch up"):
        live.swap(version("2", products=17))
    assert live.current.model_version == "1"
    live.swap(version("2", products=17), smallest_share=0.5)
    assert live.current.model_version == "2"


def test_no_request_meets_two_versions_while_they_are_switched() -> None:
    indexes = [version("1"), version("2")]
    live = Live(indexes[0])
    done = threading.Event()
    mixed: list[set[str]] = []
    answered = [0]
    queries = clustered(np.random.default_rng(3), 3)

    def ask() -> None:
        while not done.is_set():
            index = live.current
            result = [c for answer in index.search(queries, 5) for c in answer.ids]
            result += index.vectors([result[0]])
            versions = {product_id.partition("/")[0] for product_id in result}
            if versions != {index.model_version}:
                mixed.append(versions)
            answered[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(300):
        live.swap(indexes[(number + 1) % 2])
    done.set()
    for thread in threads:
        thread.join()
    assert mixed == []
    assert answered[0] > 0
