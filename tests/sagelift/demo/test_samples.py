"""The generated sample catalogue: valid, deterministic, and with structure to learn."""

import hashlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sagelift.demo import outlines, samples
from sagelift.demo.samples import write_sample
from streaming.catalogue.images.fetch import ImageFetcher
from streaming.contracts import ProductUpdate, image_links
from streaming.feeds import read_feed

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("catalogue") / "sample", products=120)


def updates(folder: Path) -> list[ProductUpdate]:
    rows = list(read_feed(folder, now=NOW))
    assert all(isinstance(row, ProductUpdate) for row in rows), [
        row for row in rows if not isinstance(row, ProductUpdate)
    ]
    return [row for row in rows if isinstance(row, ProductUpdate)]


def test_every_product_satisfies_the_contract_without_unknown_fields(sample: Path) -> None:
    feed = read_feed(sample, now=NOW)
    assert sum(isinstance(row, ProductUpdate) for row in feed) == 120
    assert (feed.refused, feed.unknown_columns) == (0, Counter())


def test_every_linked_image_exists_once_and_can_be_decoded(sample: Path) -> None:
    links = [link for update in updates(sample) for link in image_links(update) or []]
    assert sorted(links) == sorted(str(path) for path in (sample / "images").iterdir())
    with ImageFetcher(root=sample) as fetcher:
        assert {fetcher.fetch(link).pixels.shape for link in links} == {(224, 224, 3)}


def test_products_have_one_to_four_images_and_mostly_one_or_two(sample: Path) -> None:
    counts = Counter(len(image_links(update) or []) for update in updates(sample))
    assert set(counts) <= {1, 2, 3, 4}
    assert counts[1] + counts[2] > 0.6 * counts.total()


def test_no_two_images_are_alike(sample: Path) -> None:
    hashes = digest(sample / "images")
    assert len(set(hashes.values())) == len(hashes)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one = digest(write_sample(tmp_path / "one", products=5, seed=3))
    assert one == digest(write_sample(tmp_path / "two", products=5, seed=3))
    other = digest(write_sample(tmp_path / "other", products=5, seed=4))
    assert one["products.jsonl"] != other["products.jsonl"]
    assert not set(one.values()) & set(other.values())


def test_a_larger_sample_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small = (write_sample(tmp_path / "small", products=3) / "products.jsonl").read_text()
    assert (write_sample(tmp_path / "large", products=6) / "products.jsonl").read_text().startswith(small)


def test_an_older_sample_is_replaced_completely(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", products=6)
    write_sample(tmp_path / "sample", products=2)
    assert len(updates(tmp_path / "sample")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sample"], "nothing is left beside it"


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="other files than a sample"):
        write_sample(tmp_path, products=1)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_failure_half_way_leaves_only_the_older_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(write_sample(tmp_path / "sample", products=2))

    def fail(done: int) -> None:
        if done == 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_sample(tmp_path / "sample", products=5, progress=fail)
    assert digest(tmp_path / "sample") == before
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize("products", [0, -1, 2_000_000])
def test_a_number_of_products_out_of_range_is_refused(tmp_path: Path, products: int) -> None:
    with pytest.raises(ValueError, match="products must be between"):
        write_sample(tmp_path / "sample", products=products)


def test_the_text_states_some_attributes_only_sometimes(sample: Path) -> None:
    """Otherwise pictures or texts alone would be enough."""
    rows = updates(sample)
    for attribute, low, high in (("color", 0.4, 0.8), ("pattern", 0.25, 0.65), ("brand", 0.7, 0.97)):
        share = sum(isinstance(getattr(row, attribute), str) for row in rows) / len(rows)
        assert low < share < high, attribute


def test_a_brand_of_a_higher_tier_has_a_higher_price(sample: Path) -> None:
    """Relative to what the kind of product usually costs, so that the brand carries information that no picture has."""
    usual = {f"{kind.department} > {kind.shelf}": kind.price for kind in samples.KINDS}
    tiers: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for row in updates(sample):
        if isinstance(row.brand, str) and isinstance(row.product_type, list):
            assert row.price
            tiers[samples.BRANDS[row.brand][0]].append(float(row.price.amount) / usual[row.product_type[0]])
    low, middle, high = (sum(values) / len(values) for values in tiers.values())
    assert low < middle < high


def test_every_kind_has_its_drawing_and_every_brand_a_department() -> None:
    assert {kind.names[0] for kind in samples.KINDS} == set(outlines.OUTLINES)
    departments = {kind.department for kind in samples.KINDS}
    for brand, (_, styles, sold) in samples.BRANDS.items():
        assert set(sold) <= departments, brand
        assert set(styles) <= set(samples.STYLES), brand
    assert {color for _, liked in samples.STYLES.values() for color in liked} <= set(samples.COLORS)
