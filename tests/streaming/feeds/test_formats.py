"""The table of formats: the suffix decides, then the content."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.errors import FeedError
from streaming.feeds import FORMATS, read_feed
from streaming.feeds.formats import FEED_FORMATS, detect_format, format_named
from tests.streaming.feeds.samples import SAMPLES

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("format", SAMPLES)
@pytest.mark.parametrize("suffix", ["", ".txt"])
def test_the_content_decides_where_the_suffix_does_not(tmp_path: Path, format: str, suffix: str) -> None:
    path = tmp_path / f"feed{suffix}"
    path.write_text(SAMPLES[format])
    assert read_feed(path, now=NOW).format == format


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.TSV", "merchant-tsv"),
        ("a.csv", "merchant-csv"),
        ("a.xml", "merchant-xml"),
    ],
)
def test_the_suffix_decides(tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).write_text(SAMPLES[format])
    assert read_feed(tmp_path / name, now=NOW).format == format


def test_parquet_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["A"], "title": ["Mug"]}), tmp_path / "feed")
    assert read_feed(tmp_path / "feed", now=NOW).format == "parquet"


def test_a_named_format_is_not_detected(tmp_path: Path) -> None:
    (tmp_path / "feed.data").write_text(SAMPLES["merchant-csv"])
    assert read_feed(tmp_path / "feed.data", now=NOW, format="merchant-csv").format == "merchant-csv"


def test_every_format_is_found_by_its_name_and_names_are_unique() -> None:
    assert [format_named(name) for name in FORMATS] == list(FEED_FORMATS)
    assert len(set(FORMATS)) == len(FORMATS)


@pytest.mark.parametrize(
    ("header", "format"),
    [("Handle,Title,Variant Price", "shopify-csv"), ("id,title", "merchant-csv"), ("id", "merchant-csv")],
)
def test_the_header_of_a_csv_file_tells_a_shopify_export_from_other_tables(
    tmp_path: Path, header: str, format: str
) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n")
    assert detect_format(tmp_path / "a.csv").name == format


def test_a_tab_in_the_first_line_wins_over_a_comma(tmp_path: Path) -> None:
    (tmp_path / "feed").write_text("id\ttitle, short\n")
    assert detect_format(tmp_path / "feed").name == "merchant-tsv"


def test_an_unknown_format_is_refused_with_the_names_of_all_formats() -> None:
    with pytest.raises(FeedError, match=rf"'yaml' is unknown; it must be one of {', '.join(FORMATS)}"):
        format_named("yaml")
