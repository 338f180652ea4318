"""`feast serve` and `feast ui` on Sagelift's folder, as Feast's users start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from feature_repo.recent import Engagement
from feature_repo.rows import Deletion
from feature_repo.store import ProductFeatureStore
from sagelift.stack.ports import pick_ports
from tests.feature_repo.builders import NOON, make_embedding, make_product
from tests.waiting import wait_until

FEAST = Path(sys.executable).with_name("feast")
DEADLINE_S = 180


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with ProductFeatureStore.open(tmp_path) as store:
        store.write_features([make_product("a", 1), make_product("b", 2, availability="out_of_stock")])
        store.write_features([make_product("gone", 1)])
        store.delete([Deletion(id="gone", version=2, event_time=NOON)])
        store.ensure_model_version("m1")
        store.write_embeddings("m1", [make_embedding(f"p{n}") for n in range(50)])
        store.add_engagements([Engagement("u", "b", 1), Engagement("u", "a", 2)])
        return store.home


@contextmanager
def running(home: Path, command: str) -> Iterator[str]:
    """The server's address, once it answers."""
    (port,) = pick_ports(1)
    with open(home / f"{command}.log", "wb") as log:
        process = subprocess.Popen(
            [FEAST, "-c", home, command, "-h", "127.0.0.1", "-p", str(port)],
            cwd="/",
            env=os.environ | {"HOME": str(home)},  # the server keeps a socket there
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            address = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                assert process.poll() is None, (home / f"{command}.log").read_text()
                return _answers(address, "/health" if command == "serve" else "/")

            wait_until(answers, f"an answer of feast {command}", timeout_s=DEADLINE_S, pause_s=0.1)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def _answers(address: str, path: str) -> bool:
    try:
        urllib.request.urlopen(address + path, timeout=10).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def ask(address: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        address + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def columns(answer: Any) -> dict[str, list[Any]]:
    names = answer["metadata"]["feature_names"]
    return {name: column["values"] for name, column in zip(names, answer["results"], strict=True)}


def test_feast_serve_returns_written_derived_deleted_and_searched_features(home: Path) -> None:
    query = make_embedding("p7").vector
    with running(home, "serve") as address:
        features = ["product_embedding_m1:content_hash"]
        searched = ask(
            address, "/search", {"features": features, "query": query.tolist(), "top_k": 3, "api_version": 2}
        )
        answer = ask(
            address,
            "/get-online-features",
            {
                "feature_service": "ranking_v1",
                "entities": {"product_id": ["b", "gone", "a"], "user_id": ["u", "u", "nobody"]},
            },
        )
    result = columns(answer)
    assert result["title"] == ["title of b at 2", None, "title of a at 1"]
    assert result["amount_minor"] == [200, None, 100]
    assert result["in_stock"] == [False, None, True]
    assert result["image_count"] == [2, None, 2]
    assert result["product_ids"] == [["b", "a"], ["b", "a"], None]
    distances = {f"p{n}": 1 - float(make_embedding(f"p{n}").vector @ query) for n in range(50)}
    near = columns(searched)
    assert set(near["product_id"]) == set(sorted(distances, key=lambda id: distances[id])[:3])
    for id, content_hash, distance in zip(near["product_id"], near["content_hash"], near["distance"], strict=True):
        assert content_hash == make_embedding(id).content_hash
        assert distance == pytest.approx(distances[id], abs=1e-5)


@pytest.mark.skipif(find_spec("grpc_health") is None, reason="feast ui needs feast[grpcio]")
def test_feast_ui_shows_the_definitions(home: Path) -> None:
    with running(home, "ui") as address:
        (project,) = ask(address, "/projects-list.json")["projects"]
        views = ask(address, "/api/v1/feature_views?project=sagelift")["featureViews"]
        services = ask(address, "/api/v1/feature_services?project=sagelift")["featureServices"]
    assert project["id"] == "sagelift"
    assert {view["spec"]["name"] for view in views} == {
        "product_text", "product_images", "product_offer", "user_recent", "product_derived", "product_embedding_m1",
    }  # fmt: skip
    assert all(view["spec"]["description"] and view["spec"]["owner"] for view in views)
    assert {service["spec"]["name"] for service in services} == {
        "itemsage_inputs_v1", "ranking_v1", "retrieval_m1",
    }  # fmt: skip
