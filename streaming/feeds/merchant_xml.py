"""Google Merchant Center's XML feed: RSS 2.0 `<item>` or Atom `<entry>` with attributes in the `g:` namespace.

Source: Google Merchant Center product data specification, https://support.google.com/merchants/answer/7052112
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError

from streaming.contracts import MAX_MESSAGE_BYTES
from streaming.errors import FeedError
from streaming.feeds.files import open_feed
from streaming.feeds.rows import Row, RowBuilder, field_of

_GOOGLE = "http://base.google.com/ns/1.0"
_ATOM = "http://www.w3.org/2005/Atom"
_PRODUCTS = ("item", f"{{{_ATOM}}}entry")
_REPEATED = ("additional_image_link", "product_type")
_MAX_DEPTH = 32


def read_merchant_xml(path: Path, builder: RowBuilder) -> Iterator[Row]:
    """Stream the products of an XML feed; the first is row 1. Only one product is in memory at a time.

    A file with `<!DOCTYPE>` is refused, because its entities can be an attack; see defusedxml.

    Raises:
        FeedError: The file is not well-formed XML, has a document type, or is neither RSS nor Atom.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    number = 0
    try:
        with open_feed(path) as file:
            source = _MeteredFile(file)
            open_elements: list[Element] = []
            for event, element in iterparse(source, events=("start", "end"), forbid_dtd=True):
                if event == "start":
                    open_elements.append(element)
                    _check_nesting(path, open_elements)
                    continue
                open_elements.pop()
                if element.tag in _PRODUCTS:
                    number += 1
                    yield builder.build(number, _fields(element, builder))
                    source.bytes_since_last = 0
                    open_elements[-1].remove(element)
                elif len(open_elements) == 2 and open_elements[-1].tag not in _PRODUCTS:
                    open_elements[-1].remove(element)  # the channel's own elements, such as its title
    except DefusedXmlException:
        raise FeedError(f"{path} has a document type or entities (<!DOCTYPE …>), which are refused.") from None
    except ParseError as error:
        raise FeedError(f"{path} is not well-formed XML after product {number}: {error}.") from None


def _check_nesting(path: Path, open_elements: list[Element]) -> None:
    if len(open_elements) == 1 and open_elements[0].tag not in ("rss", f"{{{_ATOM}}}feed"):
        raise FeedError(f"{path} is neither RSS 2.0 (<rss>) nor Atom (<feed>).")
    if len(open_elements) > _MAX_DEPTH:
        raise FeedError(f"{path} nests elements more than {_MAX_DEPTH} deep.")


def _fields(product: Element, builder: RowBuilder) -> dict[str, object]:
    """Return the product's elements by the contract's names; `g:` wins over the element of RSS or Atom."""
    plain: dict[str, object] = {}
    google: dict[str, object] = {}
    for child in product:
        namespace, _, name = child.tag.rpartition("}")
        namespace = namespace.removeprefix("{")
        field = field_of(name) if namespace in ("", _ATOM, _GOOGLE) else None
        if field is None:
            builder.count_unknown(f"g:{name}" if namespace == _GOOGLE else name)
            continue
        # Atom states a link in an attribute.
        value = (child.text or child.get("href") or "").strip()
        if not value:
            continue
        into = google if namespace == _GOOGLE else plain
        if field in _REPEATED:
            values = into.setdefault(field, [])
            assert isinstance(values, list)
            values.append(value)
        else:
            into.setdefault(field, value)
    return {**plain, **google}


class _MeteredFile:
    """A file that raises `FeedError` when one product is larger than a message may be."""

    def __init__(self, file: BinaryIO) -> None:
        self.bytes_since_last = 0  # since the end of the last product
        self._file = file

    def read(self, size: int = -1) -> bytes:
        # The parser reads ahead by less than the size of a second message.
        if self.bytes_since_last > 2 * MAX_MESSAGE_BYTES:
            raise FeedError(f"An element of {self._file.name} is larger than {MAX_MESSAGE_BYTES} bytes.")
        chunk = self._file.read(size)
        self.bytes_since_last += len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()
