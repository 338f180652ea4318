"""Google Merchant Center's XML feed."""

import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streaming.contracts import ProductUpdate
from streaming.errors import FeedError
from streaming.feeds import BadRow, Row, read_feed

Read = Callable[..., list[Row]]

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def rss(*items: str) -> str:
    body = "".join(f"<item>{item}</item>" for item in items)
    return (
        '<?xml version="1.0"?><rss version="2.0" xmlns:g="http://base.google.com/ns/1.0" xmlns:c="http://base.google.com/cns/1.0">'
        f"<channel><title>Shop</title><link>https://shop.example</link><description>d</description>{body}</channel></rss>"
    )


ITEM = """
    <title>Mug</title><link>https://shop.example/a</link><description><![CDATA[Holds <tea>.]]></description>
    <g:id>A</g:id><g:image_link>https://a/1.jpg</g:image_link>
    <g:additional_image_link>https://a/2.jpg</g:additional_image_link>
    <g:additional_image_link>https://a/3.jpg?x=1&amp;y=2</g:additional_image_link>
    <g:product_type>Kitchen &gt; Mugs</g:product_type><g:product_type>Gifts</g:product_type>
    <g:price>9.99 EUR</g:price><g:availability>in stock</g:availability><g:brand/>
"""


def test_an_rss_item_is_read(read: Read) -> None:
    (row,) = read("a.xml", rss(ITEM))
    assert isinstance(row, ProductUpdate), row
    assert (row.id, row.title, row.description, row.link) == ("A", "Mug", "Holds <tea>.", "https://shop.example/a")
    assert row.image_link == "https://a/1.jpg"
    assert row.additional_image_link == ["https://a/2.jpg", "https://a/3.jpg?x=1&y=2"]
    assert row.product_type == ["Kitchen > Mugs", "Gifts"]
    assert row.price
    assert (row.price.amount_minor, row.availability, row.brand or None) == (999, "in_stock", None)


def test_an_atom_entry_is_read_with_its_link_attribute_and_googles_id(read: Read) -> None:
    feed = """<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><title>Shop</title>
        <entry><id>tag:shop.example,2026:a</id><g:id>A</g:id><title>Mug</title><link href="https://shop.example/a"/></entry>
        <entry><g:id>B</g:id><g:title>Cup</g:title><title>Other</title></entry></feed>"""
    first, second = read("a.xml", feed)
    assert isinstance(first, ProductUpdate)
    assert (first.id, first.title, first.link) == ("A", "Mug", "https://shop.example/a")
    assert isinstance(second, ProductUpdate)
    assert second.title == "Cup", "Google's own element wins"


def test_unknown_elements_are_counted_and_another_namespace_is_not_googles(tmp_path: Path) -> None:
    extra = "<g:shipping><g:price>5 USD</g:price></g:shipping><c:color>red</c:color><g:mpn>1</g:mpn><guid>x</guid>"
    (tmp_path / "a.xml").write_text(rss(ITEM + extra))
    feed = read_feed(tmp_path / "a.xml", now=NOW)
    (row,) = feed
    assert isinstance(row, ProductUpdate)
    assert not row.color
    assert row.price
    assert row.price.amount_minor == 999, "the shipping's price is not the product's"
    assert feed.unknown_columns == {"g:shipping": 1, "color": 1, "g:mpn": 1, "guid": 1}


IMAGE = "<g:additional_image_link>https://a/b.jpg</g:additional_image_link>"


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        (("9.99 EUR", "-9.99 EUR"), "price.amount", ">= 0"),
        (("9.99 EUR", "9.99 XYZ"), "price", "ISO 4217"),
        (("<g:id>B</g:id>", ""), "id", "is missing"),
        (("<title>Mug</title>", ""), "title", "needs a title"),
        (("Holds", "x" * 50_001), "description", "length <= 50000"),
        (("<g:brand/>", IMAGE * 500), "additional_image_link", "length <= 19"),
    ],
)  # fmt: skip
def test_a_bad_item_names_field_and_rule_and_the_next_one_is_read(
    read: Read, change: tuple[str, str], field: str, rule: str
) -> None:
    good, bad, last = read("a.xml", rss(ITEM, ITEM.replace(">A<", ">B<").replace(*change), ITEM.replace(">A<", ">C<")))
    assert isinstance(good, ProductUpdate)
    assert isinstance(bad, BadRow), bad
    assert (bad.row, bad.field) == (2, field)
    assert rule in bad.rule
    assert isinstance(last, ProductUpdate)


def test_the_encoding_that_the_file_declares_is_used(read: Read) -> None:
    text = rss("<g:id>A</g:id><title>Tässe</title>").replace('version="1.0"?', 'version="1.0" encoding="ISO-8859-1"?')
    (row,) = read("a.xml", text.encode("latin-1"))
    assert isinstance(row, ProductUpdate)
    assert row.title == "Tässe"


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "doctype",
    [
        f'<!DOCTYPE rss [<!ENTITY l0 "ha">{LAUGHS}]>',
        '<!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE rss SYSTEM "http://127.0.0.1:1/evil.dtd">',
    ],
    ids=["billion laughs", "external entity", "external document type"],
)
def test_a_document_type_is_refused(tmp_path: Path, doctype: str) -> None:
    text = rss("<g:id>A</g:id><title>&l9;&x;</title>").replace('<?xml version="1.0"?>', doctype)
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(FeedError, match="has a document type or entities"):
        list(read_feed(tmp_path / "a.xml", now=NOW))


@pytest.mark.parametrize("broken", ["\x00", "\x08", "</g:title>", "\udce9"])
def test_products_before_a_fault_are_read_and_the_fault_is_named(tmp_path: Path, broken: str) -> None:
    text = rss(ITEM, *(f"<g:id>{i}</g:id><title>{'x' * 900}</title>" for i in range(100)), f"<title>{broken}")
    (tmp_path / "a.xml").write_bytes(text.encode(errors="surrogateescape"))
    rows: list[Row] = []
    with pytest.raises(FeedError, match=r"is not well-formed XML after product 101: .*line 8"):
        rows.extend(read_feed(tmp_path / "a.xml", now=NOW))
    assert len(rows) > 50


def test_one_endless_element_is_not_collected(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(rss("<g:id>A</g:id><title>" + "x" * 5_000_000 + "</title>"))
    with pytest.raises(FeedError, match="larger than 1000000 bytes"):
        list(read_feed(tmp_path / "a.xml", now=NOW))


def test_deeply_nested_elements_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(rss("<a>" * 10_000 + "</a>" * 10_000))
    with pytest.raises(FeedError, match="nests elements more than 32 deep"):
        list(read_feed(tmp_path / "a.xml", now=NOW))


def test_products_that_were_read_are_forgotten(tmp_path: Path) -> None:
    """More products need no more memory: ten times the file, less than a tenth of it held."""
    (tmp_path / "a.xml").write_text(
        rss(*(f"<g:id>{i}</g:id><title>Mug</title><x>{'x' * 3_000}</x>" for i in range(1_000)))
    )
    feed = read_feed(tmp_path / "a.xml", now=NOW)
    next(feed)
    tracemalloc.start()
    assert sum(1 for _ in feed) == 999
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000
