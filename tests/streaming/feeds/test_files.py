"""Finding a feed's file: what a folder stands for, and what is refused before a byte is read."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from streaming.errors import FeedError
from streaming.feeds import read_feed
from streaming.feeds.files import find_feed_file, open_feed

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"none\.tsv does not exist"):
        read_feed(tmp_path / "none.tsv", now=NOW)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.tsv", "a.csv", "a.xml", "a"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(FeedError, match=f"{name} is empty"):
        read_feed(tmp_path / name, now=NOW)


def test_a_folder_without_products_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"does not contain products\.jsonl"):
        read_feed(tmp_path, now=NOW)


def test_a_folder_stands_for_its_products_file(tmp_path: Path) -> None:
    (tmp_path / "products.jsonl").write_text("{}")
    assert find_feed_file(tmp_path) == tmp_path / "products.jsonl"


def test_a_device_is_refused() -> None:
    with pytest.raises(FeedError, match="/dev/null is not a regular file"):
        find_feed_file(Path("/dev/null"))


def test_a_failed_read_inside_the_block_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(FeedError, match=r"/a cannot be read: disk failure\."), open_feed(tmp_path / "a"):
        raise OSError("disk failure")
