"""Shopify's product export."""

from collections.abc import Callable

import pytest

from streaming.contracts import MAX_IMAGES, ProductUpdate
from streaming.feeds import BadRow, Row

Read = Callable[..., list[Row]]

HEADER = (
    "Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Option1 Name,Option1 Value,Option2 Name,"
    "Option2 Value,Variant SKU,Variant Inventory Tracker,Variant Inventory Qty,Variant Inventory Policy,Variant Price,"
    "Image Src,Image Position,Variant Image,Google Shopping / Google Product Category,Status"
)


def table(*rows: dict[str, str]) -> str:
    names = HEADER.split(",")
    quoted = (",".join('"' + row.get(name, "").replace('"', '""') + '"' for name in names) for row in rows)
    return "\n".join([HEADER, *quoted]) + "\n"


TEE = {
    "Handle": "tee",
    "Title": "Tee",
    "Body (HTML)": "<p>Soft &amp; <b>light</b>.</p><ul><li>Cotton</li></ul>",
    "Vendor": "Loom",
    "Product Category": "Apparel & Accessories > Clothing",
    "Type": "Shirts",
    "Published": "true",
    "Status": "active",
    "Option1 Name": "Colour",
    "Option1 Value": "Red",
    "Option2 Name": "Size",
    "Option2 Value": "S",
    "Variant Inventory Tracker": "shopify",
    "Variant Inventory Qty": "0",
    "Variant Inventory Policy": "deny",
    "Variant Price": "19.90",
    "Image Src": "https://cdn.example/2.jpg",
    "Image Position": "2",
}


def variant(**cells: str) -> dict[str, str]:
    return {
        "Handle": "tee",
        "Option1 Value": "Red",
        "Option2 Value": "M",
        "Variant Price": "24.90",
        "Variant Inventory Tracker": "shopify",
        "Variant Inventory Qty": "3",
        "Variant Inventory Policy": "deny",
    } | {name.replace("_", " "): value for name, value in cells.items()}


def test_the_rows_of_one_handle_are_one_product(read: Read) -> None:
    rows = (
        TEE,
        variant(Image_Src="https://cdn.example/1.jpg", Image_Position="1"),
        variant(Option1_Value="Blue", Variant_Image="https://cdn.example/blue.jpg"),
        {"Handle": "tee", "Image Src": "https://cdn.example/3.jpg", "Image Position": "3"},
        {**TEE, "Handle": "cap", "Title": "Cap"},
    )
    tee, cap = read("a.csv", table(*rows))
    assert isinstance(tee, ProductUpdate), tee
    assert (tee.id, tee.title, tee.brand) == ("tee", "Tee", "Loom")
    assert tee.description == "Soft & light. Cotton"
    assert (tee.product_type, tee.google_product_category) == (["Shirts"], "Apparel & Accessories > Clothing")
    assert (tee.color, tee.size) == ("Red/Blue", "S/M")
    assert tee.price
    assert (str(tee.price.amount), tee.price.currency) == ("19.90", "USD"), "the first variant's"
    assert tee.availability == "in_stock", "one variant is"
    images = [tee.image_link, *(tee.additional_image_link or [])]
    assert images == [f"https://cdn.example/{name}.jpg" for name in ("1", "2", "3", "blue")]
    assert isinstance(cap, ProductUpdate)
    assert cap.id == "cap"


def test_the_column_names_of_the_newer_export_are_read_too(read: Read) -> None:
    content = (
        "Title,URL handle,Description,Vendor,Type,Published on online store,Status,Option1 name,Option1 value,Price,"
        "Inventory tracker,Inventory quantity,Continue selling when out of stock,Product image URL,Image position\n"
        "Tee,tee,<p>Soft</p>,Loom,Shirts,TRUE,Active,Color,Red,19.90,shopify,0,CONTINUE,https://cdn.example/1.jpg,1\n"
    )
    (row,) = read("a.csv", content, currency="EUR")
    assert isinstance(row, ProductUpdate), row
    assert (row.id, row.description, row.color, row.availability) == ("tee", "Soft", "Red", "backorder")
    assert row.price
    assert (row.price.amount_minor, row.price.currency) == (1990, "EUR")


@pytest.mark.parametrize(
    ("cells", "availability"),
    [
        ({"Variant Inventory Qty": "5"}, "in_stock"),
        ({"Variant Inventory Qty": "0"}, "out_of_stock"),
        ({"Variant Inventory Qty": "-2"}, "out_of_stock"),
        ({"Variant Inventory Qty": "0", "Variant Inventory Policy": "continue"}, "backorder"),
        ({"Variant Inventory Tracker": ""}, "in_stock"),
        ({"Variant Inventory Qty": ""}, None),
    ],
)
def test_stock_becomes_availability(read: Read, cells: dict[str, str], availability: str | None) -> None:
    (row,) = read("a.csv", table({**TEE, **cells}))
    assert isinstance(row, ProductUpdate), row
    assert (row.availability or None) == availability


@pytest.mark.parametrize("cells", [{"Status": "draft"}, {"Status": "archived"}, {"Published": "FALSE"}])
def test_a_product_that_is_not_on_sale_is_a_deletion(read: Read, cells: dict[str, str]) -> None:
    """Its older version must not be recommended any longer."""
    (row,) = read("a.csv", table({**TEE, **cells}, variant()))
    assert isinstance(row, ProductUpdate)
    assert (row.id, row.op) == ("tee", "delete")


@pytest.mark.parametrize(
    ("cells", "field", "rule"),
    [
        ({"Title": ""}, "title", "needs a title"),
        ({"Variant Price": "-1"}, "price.amount", ">= 0"),
        ({"Variant Price": "19,90"}, "price", "with a dot"),
        ({"Variant Inventory Qty": "many"}, "Variant Inventory Qty", "(row 2)"),
        ({"Image Src": "ftp://cdn.example/1.jpg"}, "image_link", "must be http"),
        ({"Body (HTML)": "x" * 60_000}, "description", "length <= 50000"),
    ],
)
def test_a_bad_product_is_refused_once_under_its_first_row(
    read: Read, cells: dict[str, str], field: str, rule: str
) -> None:
    bad, good = read("a.csv", table({**TEE, **cells}, variant(), {**TEE, "Handle": "cap"}))
    assert isinstance(bad, BadRow), bad
    assert (bad.row, bad.product_id, bad.field) == (2, "tee", field)
    assert rule in bad.rule
    assert isinstance(good, ProductUpdate)


def test_a_handle_that_comes_back_later_is_refused_with_both_rows(read: Read) -> None:
    rows = read("a.csv", table(TEE, {**TEE, "Handle": "cap"}, TEE))
    assert [row.id if isinstance(row, ProductUpdate) else (row.row, row.rule) for row in rows] == [
        "tee",
        "cap",
        (4, "is already used in row 2; use each id once"),
    ]


def test_the_first_images_by_position_are_kept_and_further_ones_dropped(read: Read) -> None:
    """Shopify allows 250 for a product; a catalogue of it must not be refused for that."""
    rows = [
        {"Handle": "tee", "Image Src": f"https://cdn.example/{n}.jpg", "Image Position": str(n)}
        for n in range(60, 2, -1)
    ]
    (row,) = read("a.csv", table(TEE, *rows))
    assert isinstance(row, ProductUpdate)
    assert row.image_link == "https://cdn.example/2.jpg"
    assert row.additional_image_link == [f"https://cdn.example/{n}.jpg" for n in range(3, 2 + MAX_IMAGES)]


def test_a_product_without_images_has_none(read: Read) -> None:
    (row,) = read("a.csv", table({**TEE, "Image Src": ""}))
    assert isinstance(row, ProductUpdate)
    assert not row.image_link
