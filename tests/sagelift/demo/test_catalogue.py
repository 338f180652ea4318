"""The demo's feed is the configured one, checked first, or a generated sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagelift.demo.catalogue import prepare_feed
from sagelift.demo.config import DemoConfig
from sagelift.progress import Stage
from streaming.errors import StreamingError


def test_without_a_feed_a_sample_is_generated(tmp_path: Path) -> None:
    feed = prepare_feed(DemoConfig(products=3), tmp_path / "catalogue", Stage("catalogue", None))
    assert feed == tmp_path / "catalogue"
    assert len((feed / "products.jsonl").read_text().splitlines()) == 3


def test_a_configured_feed_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl"
    path.write_text('{"id": "p1", "title": "Lamp"}\n')
    assert prepare_feed(DemoConfig(catalog=path), tmp_path / "unused", Stage("catalogue", None)) == path
    assert not (tmp_path / "unused").exists()


def test_a_missing_feed_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StreamingError, match=r"missing\.jsonl"):
        prepare_feed(DemoConfig(catalog=tmp_path / "missing.jsonl"), tmp_path, Stage("catalogue", None))
