"""Shopify's product export: several rows a product, held together by the handle.

The first row of a handle states the product and its first variant; the rows after it state only further variants
and images. One update a product: the price is the first variant's, colours and sizes are those of all variants.

Source: https://help.shopify.com/en/manual/products/import-export/using-csv (both generations of column names)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from streaming.contracts import MAX_IMAGES
from streaming.errors import ContractError, FeedError
from streaming.feeds import tables, values
from streaming.feeds.rows import Row, RowBuilder

# Column (both generations) -> our name for it; compared without regard to case.
_COLUMNS = {
    "handle": "handle",
    "url handle": "handle",
    "title": "title",
    "body (html)": "body",
    "description": "body",
    "vendor": "brand",
    "type": "product_type",
    "google shopping / google product category": "google_product_category",
    "google: product category": "google_product_category",
    "product category": "category",
    "published": "published",
    "published on online store": "published",
    "status": "status",
    "variant price": "price",
    "price": "price",
    "variant inventory tracker": "tracker",
    "inventory tracker": "tracker",
    "variant inventory qty": "quantity",
    "inventory quantity": "quantity",
    "variant inventory policy": "policy",
    "continue selling when out of stock": "policy",
    "image src": "image",
    "product image url": "image",
    "image position": "position",
    "variant image": "variant_image",
    "variant image url": "variant_image",
    **{f"option{n} {part}": f"option{n}_{part}" for n in (1, 2, 3) for part in ("name", "value")},
}
_OPTIONS = {"color": "color", "colour": "color", "size": "size", "material": "material", "pattern": "pattern"}
_MOST_IMAGES = 250  # Shopify's own limit for a product
_MOST_TEXT = 1_000


def is_shopify(header: list[str]) -> bool:
    """Whether a CSV's columns are those of a Shopify product export."""
    names = {name.casefold() for name in header}
    return bool(names & {"handle", "url handle"}) and bool(names & {"variant price", "price", "image src"})


def read_shopify_csv(path: Path, builder: RowBuilder) -> Iterator[Row]:
    """The products of a Shopify export, each under the number of its first row; the header is row 1.

    A product that is a draft, archived or not published comes as a deletion: shoppers cannot buy it.

    Raises:
        FeedError: not text, or without the columns of a Shopify export.
    """
    header = tables.read_header(path, ",")
    if not is_shopify(header):
        raise FeedError(f"{path} is no Shopify product export: it needs the columns Handle and Variant Price.")
    for name in header:
        if name.casefold() not in _COLUMNS:
            builder.count_unknown(name)
    columns = frozenset(_COLUMNS[name.casefold()] for name in header if name.casefold() in _COLUMNS)
    product: _Product | None = None
    for number, cells in tables.rows(path, ","):
        if isinstance(cells, tables.BrokenRecord):
            yield builder.refuse(number, "", str(cells))
            continue
        row = {_COLUMNS[name.casefold()]: cell for name, cell in cells.items() if name.casefold() in _COLUMNS}
        handle = row.get("handle")
        if handle is None:
            yield builder.refuse(number, "Handle", "is missing; each row of a product repeats its handle")
            continue
        if product is None or product.first["handle"] != handle:
            if product is not None:
                yield product.build(builder)
            product = _Product(number, row, columns)
        product.add(number, row)
    if product is not None:
        yield product.build(builder)


@dataclass
class _Product:
    """What the rows of one handle say together."""

    number: int
    first: dict[str, str]
    columns: frozenset[str]
    images: list[tuple[float, str]] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    stock: set[str] = field(default_factory=set)
    option_names: dict[int, str | None] = field(default_factory=dict)
    error: ContractError | None = None

    def add(self, number: int, row: dict[str, str]) -> None:
        """Take one row of the product in, the first one too."""
        for column in ("image", "variant_image"):
            if column in row and len(self.images) < _MOST_IMAGES:
                self.images.append((_position(row, column), row[column].strip()))
        for n in (1, 2, 3):
            if f"option{n}_name" in row:  # only a product's first row names its options
                self.option_names[n] = _OPTIONS.get(row[f"option{n}_name"].strip().casefold())
            name, value = self.option_names.get(n), row.get(f"option{n}_value", "").strip()
            known = self.options.setdefault(name, []) if name else []
            if name and value and value not in known and sum(map(len, known)) + len(value) < _MOST_TEXT // 2:
                known.append(value)
        if "price" in row:  # a row with a price is a variant, one without is only an image
            try:
                self.stock.add(_availability(row, self.columns))
            except ContractError as error:
                self.error = self.error or ContractError(error.field, f"{error.rule} (row {number})")

    def build(self, builder: RowBuilder) -> Row:
        """The product as one update."""
        first = self.first
        if self.error is not None:
            return builder.refuse(self.number, self.error.field, self.error.rule, first["handle"])
        if not _is_for_sale(first):
            return builder.build(self.number, {"id": first["handle"], "op": "delete"})
        raw: dict[str, object] = {"id": first["handle"]}
        for name in ("title", "brand", "google_product_category", "price"):
            if name in first:
                raw[name] = first[name]
        if "product_type" in first or "category" in first:
            raw["product_type"] = first.get("product_type") or first["category"]
        if "google_product_category" not in raw and "category" in first:
            raw["google_product_category"] = first["category"]
        if "body" in first:
            raw["description"] = text_of_html(first["body"])
        raw.update({name: "/".join(known) for name, known in self.options.items() if known})
        # Sorted by position, stable: a row without one keeps its place at the end, variants' own pictures last.
        links = list(dict.fromkeys(link for _, link in sorted(self.images, key=lambda image: image[0])))[:MAX_IMAGES]
        if links:
            raw["image_link"], raw["additional_image_link"] = links[0], links[1:]
        for state in ("in_stock", "backorder", "out_of_stock"):
            if state in self.stock:
                raw["availability"] = state
                break
        return builder.build(self.number, raw)


def _is_for_sale(row: dict[str, str]) -> bool:
    status = row.get("status", "active").strip().casefold()
    return status == "active" and row.get("published", "true").strip().casefold() != "false"


def _position(row: dict[str, str], column: str) -> float:
    try:
        return float(values.whole_number("Image Position", row["position"])) if column == "image" else 1e6
    except (KeyError, ContractError):
        return 1e5


def _availability(row: dict[str, str], columns: frozenset[str]) -> str:
    """A variant's availability; "" when the export does not say (one of several stock locations has no quantity)."""
    if "tracker" in columns and "tracker" not in row:
        return "in_stock"  # stock is not tracked: Shopify always sells it
    if "quantity" not in row:
        return ""
    if values.whole_number("Variant Inventory Qty", row["quantity"]) > 0:
        return "in_stock"
    return "backorder" if row.get("policy", "").strip().casefold() in ("continue", "true") else "out_of_stock"


def text_of_html(html: str) -> str:
    """What a reader sees of a piece of HTML: no tags, scripts or styles; blocks apart, white space collapsed."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.parts).split())


class _Text(HTMLParser):
    _HIDDEN = frozenset({"script", "style", "template"})
    _INLINE = frozenset(
        {"a", "abbr", "b", "em", "font", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self._HIDDEN
        if tag not in self._INLINE:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in self._HIDDEN))
        if tag not in self._INLINE:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)
