"""`sagelift catalog`: sample, check and publish a feed; requests for new images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from feature_repo.rows import ProductFeatures
from sagelift.commands.catalog import app
from sagelift.errors import SageliftError
from streaming.contracts import ProductUpdate
from tests.feature_repo.builders import make_product


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("SAGELIFT_KAFKA__BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_check_lists_refused_rows_and_exits_1(folder: Path) -> None:
    feed = folder / "feed.jsonl"
    feed.write_text('{"id": "a", "title": "A", "price": 1}\n{"id": "b", "title": "B", "price": -1}\n')
    done = run("check", str(feed), "--json")
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert answer["good"] == 1
    assert [(r["row"], r["id"]) for r in answer["refused"]] == [(2, "b")]
    assert "row 2 (id 'b')" in done.stderr


def test_a_sample_catalogue_is_a_valid_feed(folder: Path) -> None:
    assert run("sample", "shop", "--products", "5").exit_code == 0
    done = run("check", "shop")
    assert (done.exit_code, done.stdout) == (0, "5 good, 0 refused\n")


def test_a_feed_in_a_folder_named_by_way_of_its_parent_keeps_its_images(folder: Path) -> None:
    assert run("sample", "shop", "--products", "2").exit_code == 0
    (folder / "elsewhere").mkdir()
    done = run("check", "elsewhere/../shop")
    assert (done.exit_code, done.stdout) == (0, "2 good, 0 refused\n"), done.output


def test_publishing_without_a_broker_says_how_to_get_one(folder: Path) -> None:
    (folder / "products.jsonl").write_text('{"id": "a", "title": "A", "price": 1}\n')
    done = run("publish", "products.jsonl")
    assert isinstance(done.exception, SageliftError)
    assert "sagelift up" in str(done.exception)
    assert "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS" in str(done.exception)


class FakeServices:
    """The feature store's products, and what is sent to Kafka."""

    def __init__(self, products: list[ProductFeatures], sent: list[ProductUpdate]) -> None:
        self.products, self.sent = products, sent
        self.features = self
        self.kafka = self

    def __enter__(self) -> FakeServices:
        return self

    def __exit__(self, *_: object) -> None: ...

    def scan_features(self) -> Iterator[list[ProductFeatures]]:
        yield self.products

    def read_features(self, ids: Iterable[str]) -> dict[str, ProductFeatures]:
        return {product.id: product for product in self.products if product.id in set(ids)}

    def send_all(self, updates: Iterable[ProductUpdate]) -> int:
        self.sent += updates
        return len(self.sent)


@pytest.mark.parametrize(
    ("arguments", "ids", "line"),
    [
        (("p1",), ["p1"], "requested new images for 1 product\n"),
        (("p1", "p2"), ["p1", "p2"], "requested new images for 2 products\n"),
        (("--all",), ["p0", "p1", "p2"], "requested new images for 3 products\n"),
    ],
)
def test_new_images_are_requested_for_named_products_or_all(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], ids: list[str], line: str
) -> None:
    sent: list[ProductUpdate] = []
    services = FakeServices([make_product(f"p{n}", images=1) for n in range(3)], sent)
    monkeypatch.setattr("sagelift.services.Services", lambda settings: services)
    monkeypatch.setattr("streaming.kafka.producers.CatalogPublisher", lambda kafka: services)
    done = run("refresh-images", *arguments)
    assert (done.exit_code, done.stdout) == (0, line), done.output
    assert [(update.id, update.refresh_images) for update in sent] == [(id, True) for id in ids]


@pytest.mark.parametrize("arguments", [(), ("sku-1", "--all")])
def test_products_are_named_or_all_and_not_both(arguments: tuple[str, ...]) -> None:
    done = run("refresh-images", *arguments)
    assert done.exit_code == 2
    assert "give product ids, or --all" in done.output
