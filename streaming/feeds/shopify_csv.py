"""Shopify's product export: several rows per product, all with the same handle.

The first row of a handle states the product and its first variant; the rows after it state only further variants
and images. Each product becomes one update, with the price of the first variant and the colours and sizes of all.

Source: https://help.shopify.com/en/manual/products/import-export/using-csv (both generations of column names)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from feature_repo.rows import MAX_IMAGES
from streaming.errors import ContractError, FeedError
from streaming.feeds import tables, values
from streaming.feeds.html_text import text_of_html
from streaming.feeds.rows import Row, RowBuilder

# Column (both generations) -> our name for it. Case does not matter.
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
_UNKNOWN_POSITION, _VARIANT_POSITION = 1e5, 1e6  # after all stated positions, in this order
_MAX_IMAGES_READ = 250  # Shopify's own limit for a product
_MAX_OPTION_TEXT = 500  # characters of all values of one option; the contract allows 1000 with separators


def is_shopify(header: list[str]) -> bool:
    """Return whether a CSV header is that of a Shopify product export."""
    names = {name.casefold() for name in header}
    return bool(names & {"handle", "url handle"}) and bool(names & {"variant price", "price", "image src"})


def read_shopify_csv(path: Path, builder: RowBuilder) -> Iterator[Row]:
    """Stream the products of a Shopify export, each with the number of its first row; the header is row 1.

    A product that is a draft, archived or not published becomes a deletion: shoppers cannot buy it.

    Raises:
        FeedError: The file is not text, or lacks the columns of a Shopify export.
    """
    header = tables.read_header(path, ",")
    if not is_shopify(header):
        raise FeedError(f"{path} is not a Shopify product export: it needs the columns Handle and Variant Price.")
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
    """One product, built from all rows of its handle."""

    number: int  # row number of the first row
    first: dict[str, str]  # the first row
    columns: frozenset[str]  # of the whole table
    images: list[tuple[float, str]] = field(default_factory=list)  # position and link
    options: dict[str, list[str]] = field(default_factory=dict)  # contract field -> values of all variants
    stock: set[str] = field(default_factory=set)  # availabilities of all variants, "" if unknown
    option_names: dict[int, str | None] = field(default_factory=dict)  # option number -> contract field
    error: ContractError | None = None  # the first error of a row

    def add(self, number: int, row: dict[str, str]) -> None:
        """Add one row of the product, including its first row."""
        for column in ("image", "variant_image"):
            if column in row and len(self.images) < _MAX_IMAGES_READ:
                self.images.append((_position(row, column), row[column].strip()))
        for n in (1, 2, 3):
            if f"option{n}_name" in row:  # only the first row of a product names its options
                self.option_names[n] = _OPTIONS.get(row[f"option{n}_name"].strip().casefold())
            name, value = self.option_names.get(n), row.get(f"option{n}_value", "").strip()
            values_so_far = self.options.setdefault(name, []) if name else []
            length = sum(map(len, values_so_far)) + len(value)
            if name and value and value not in values_so_far and length < _MAX_OPTION_TEXT:
                values_so_far.append(value)
        if "price" in row:  # a row with a price is a variant; one without is only an image
            try:
                self.stock.add(_availability(row, self.columns))
            except ContractError as error:
                self.error = self.error or ContractError(error.field, f"{error.rule} (row {number})")

    def build(self, builder: RowBuilder) -> Row:
        """Return the product as one update, or as a refusal."""
        first = self.first
        if self.error is not None:
            return builder.refuse(self.number, self.error.field, self.error.rule, first["handle"])
        if not _is_for_sale(first):
            return builder.build(self.number, {"id": first["handle"], "op": "delete"})
        return builder.build(self.number, {**self._attributes(), **self._images(), **self._availability()})

    def _attributes(self) -> dict[str, object]:
        first = self.first
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
        return raw | {name: "/".join(choices) for name, choices in self.options.items() if choices}

    def _images(self) -> dict[str, object]:
        # A stable sort by position: images without a position keep their order at the end, variants' images come last.
        links = list(dict.fromkeys(link for _, link in sorted(self.images, key=lambda image: image[0])))[:MAX_IMAGES]
        return {"image_link": links[0], "additional_image_link": links[1:]} if links else {}

    def _availability(self) -> dict[str, object]:
        """Return the best availability of any variant."""
        for availability in ("in_stock", "backorder", "out_of_stock"):
            if availability in self.stock:
                return {"availability": availability}
        return {}


def _is_for_sale(row: dict[str, str]) -> bool:
    status = row.get("status", "active").strip().casefold()
    return status == "active" and row.get("published", "true").strip().casefold() != "false"


def _position(row: dict[str, str], column: str) -> float:
    try:
        return float(values.whole_number("Image Position", row["position"])) if column == "image" else _VARIANT_POSITION
    except (KeyError, ContractError):
        return _UNKNOWN_POSITION


def _availability(row: dict[str, str], columns: frozenset[str]) -> str:
    """Return a variant's availability, "" if unknown: an export of several stock locations has no quantity."""
    if "tracker" in columns and "tracker" not in row:
        return "in_stock"  # untracked stock: Shopify always sells the product
    if "quantity" not in row:
        return ""
    if values.whole_number("Variant Inventory Qty", row["quantity"]) > 0:
        return "in_stock"
    return "backorder" if row.get("policy", "").strip().casefold() in ("continue", "true") else "out_of_stock"
