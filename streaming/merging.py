"""The pure part of the catalogue consumer: which updates count, and what a product is after them.

An update older than what is stored is stale, whatever the order of arrival. An equal version is applied again: that
is how a re-delivery after a crash finishes what was begun. A delete leaves a tombstone with its version.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from feature_repo.rows import ProductFeatures
from inference.inputs import TEXT_FIELDS
from streaming.contracts import MAX_IMAGES, Price, ProductUpdate, image_links
from streaming.errors import ContractError

VIEWS = ("text", "images", "offer")
"""The feature views of a product."""


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """A product as the catalogue states it: no vectors, only links."""

    id: str
    version: int
    event_time: datetime
    deleted: bool = False
    text: dict[str, str] = {}
    links: tuple[str, ...] = ()
    amount_minor: int | None = None
    currency: str | None = None
    availability: str | None = None

    @classmethod
    def of(cls, stored: ProductFeatures) -> Product:
        """The product behind stored features."""
        return cls(
            id=stored.id,
            version=stored.version,
            event_time=stored.event_time,
            deleted=stored.deleted,
            text=dict(stored.text),
            links=tuple(stored.image_urls),
            amount_minor=stored.amount_minor,
            currency=stored.currency,
            availability=stored.availability,
        )


def in_order(updates: Sequence[ProductUpdate], stored_version: int) -> tuple[list[ProductUpdate], int]:
    """One product's updates that count, oldest version first, and how many are stale.

    Only what follows the last full statement (upsert or delete) counts; earlier ones are superseded, not stale.
    """
    fresh = sorted((u for u in updates if u.version >= stored_version), key=lambda u: u.version)
    start = max((i for i, u in enumerate(fresh) if u.op != "patch"), default=0)
    return fresh[start:], len(updates) - len(fresh)


def merge(current: Product | None, update: ProductUpdate) -> Product:
    """The product after an update that is not stale.

    Raises:
        ContractError: a patch of a product that was never stated, or was deleted.
    """
    if update.op == "delete":
        return Product(id=update.id, version=update.version, event_time=update.event_time, deleted=True)
    if update.op == "patch":
        if current is None or current.deleted:
            state = "deleted" if current else "unknown"
            raise ContractError("op", f"a patch of {state} product {update.id!r}: publish a full upsert first")
        base = current
    else:
        base = Product(id=update.id, version=update.version, event_time=update.event_time)
    text = {name: base.text.get(name, "") for name in TEXT_FIELDS}
    for name in TEXT_FIELDS:
        value = getattr(update, name, UNSET)
        if value is not UNSET:
            text[name] = " > ".join(value) if isinstance(value, list) else value or ""
    text["domain"] = _domain(text["link"])
    links = image_links(update)
    price: Price | None | msgspec.UnsetType = update.price
    return Product(
        id=update.id,
        version=update.version,
        event_time=update.event_time,
        text=text,
        links=base.links if links is None else tuple(dict.fromkeys(links))[:MAX_IMAGES],
        amount_minor=base.amount_minor if price is UNSET else price.amount_minor if price else None,
        currency=base.currency if price is UNSET else price.currency if price else None,
        availability=base.availability if update.availability is UNSET else update.availability,
    )


def _domain(link: str) -> str:
    try:
        return urlsplit(link).hostname or ""
    except ValueError:  # such as an unclosed bracket: the link stays text, it just has no domain
        return ""


def changed_views(before: ProductFeatures | None, after: Product, visual_version: str) -> tuple[str, ...]:
    """Which feature views an applied update changes: of text, images, offer (all of them for a new product).

    Images that another visual encoder than `visual_version` saw are to be seen anew.
    """
    if before is None or before.deleted:
        return VIEWS
    old = Product.of(before)
    views = []
    if old.text != after.text:
        views.append("text")
    if old.links != after.links or (after.links and before.visual_version != visual_version):
        views.append("images")
    offer = ("amount_minor", "currency", "availability")
    if any(getattr(old, name) != getattr(after, name) for name in offer):
        views.append("offer")
    return tuple(views)
