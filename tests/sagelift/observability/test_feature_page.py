"""The features' page: complete, escaped, with text alternatives, and without external resources."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from feature_repo.monitoring.canary import drift
from feature_repo.monitoring.watch import AGE_EDGES, Norms, ViewStatus
from sagelift.observability.feature_page import AGE_NAMES, age, age_bar, histogram, page, write_page

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STATUS = ViewStatus(
    view="product_embedding_<m1>",
    parts=3,
    bytes=1_500_000,
    history_rows=7,
    products=5,
    deleted=1,
    online_rows=6,
    newest_event=NOW,
    age_s=3600.0,
    age_p50_s=90.0,
    age_p90_s=None,
    age_p99_s=200_000.0,
    age_counts=[1, 0, 3, 0, 0, 0, 0, 1],
    sampled=5,
    empty_rates={"title": 0.25, "brand": 0.0},
    norms=Norms(smallest=0.99, mean=1.0, largest=1.002, not_finite=2, counts=[1, 4]),
    schema_drift=["part-1 lacks <b>"],
)
ROWS = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)
CANARY = drift(
    {f"p{n}": row for n, row in enumerate(ROWS)},
    {f"p{n}": row for n, row in enumerate(np.roll(ROWS, 1, axis=0))},
    old="m1",
    new="<m2>",
    asked=50,
)


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_page_needs_no_external_resource_and_escapes_data() -> None:
    text = page([STATUS], ["<script>alert(1)</script>"], CANARY, NOW)
    assert not re.search(r"<script|<link|<img|https?:|@import|url\(", text)
    assert "&lt;script&gt;" in text
    assert "product_embedding_&lt;m1&gt;" in text
    assert "<m2>" not in text
    assert "part-1 lacks &lt;b&gt;" in text


def test_every_picture_is_well_formed_and_has_a_text_alternative() -> None:
    drawn = pictures(page([STATUS], [], CANARY, NOW))
    assert [picture.get("class") for picture in drawn] == [
        "ages", "share", "share", "histogram", "histogram", "histogram", "map",
    ]  # fmt: skip
    for picture in drawn:
        assert picture.get("aria-label") == picture.findtext("title")


def test_shares_of_the_age_bar_are_those_of_the_products() -> None:
    bar = ElementTree.fromstring(age_bar(STATUS))
    widths = {part.get("class"): float(part.get("width", 0)) for part in bar.iter("rect")}
    assert widths == {"age a0": 104.0, "age a2": 312.0, "age a7": 104.0}
    assert bar.get("aria-label", "").endswith("20.0% under 1 min, 60.0% under 1 h, 20.0% older")
    assert len(AGE_NAMES) == len(AGE_EDGES)


def test_bars_are_as_tall_as_their_counts() -> None:
    drawn = ElementTree.fromstring(histogram("h", [0, 50, 100], 0, 1))
    tall = [float(bar.get("height", 0)) for bar in drawn.iter("rect")]
    assert tall == [61.0, 122.0]


def test_the_page_shows_exceeded_limits_and_a_canary_if_one_was_requested() -> None:
    assert "No limit is exceeded" in page([STATUS], [], None, NOW)
    two = page([STATUS], ["one", "two"], None, NOW)
    assert "2 limits are exceeded" in two
    assert "No limit" not in two
    assert "Canary" not in two
    assert "Canary: m1 to" in page([STATUS], [], CANARY, NOW)


def test_an_empty_store_has_a_page_too() -> None:
    empty = msgspec.structs.replace(STATUS, products=0, sampled=0, age_counts=[0] * 8, norms=None, schema_drift=[])
    text = page([empty], [], None, NOW)
    assert "Nothing is stored yet" in text
    assert pictures(text) == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_ages_use_their_largest_fitting_unit(seconds: float | None, expected: str) -> None:
    assert age(seconds) == expected


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "page.html"
    write_page(path, [STATUS], [], None, NOW)
    before = path.read_text()

    def fails(*_: Any) -> str:
        raise RuntimeError

    monkeypatch.setattr("sagelift.observability.feature_page.page", fails)
    with pytest.raises(RuntimeError):
        write_page(path, [STATUS], [], None, NOW)
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]
