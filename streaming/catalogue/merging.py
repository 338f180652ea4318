"""The pure part of the catalogue consumer: which updates apply, and the resulting product.

An update that is older than the stored product is stale, whatever the order of arrival. An equal version is applied
again, so a redelivery after a crash completes the interrupted work. A delete leaves a tombstone with its version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from feature_repo.rows import ALL_VIEWS, MAX_IMAGES, OfferRow, ProductFeatures
from inference.inputs import TEXT_FIELDS
from streaming.contracts import ATTRIBUTES, Price, ProductUpdate, image_links
from streaming.errors import ContractError


class Product(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A product as the catalogue states it: image links instead of vectors."""

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
        """Return the product that stored features describe."""
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


def applicable_updates(updates: Sequence[ProductUpdate], stored_version: int) -> tuple[list[ProductUpdate], int]:
    """Select the updates of one product that apply.

    Args:
        updates: The product's updates, in any order.
        stored_version: Version of the stored product; 0 if it is not stored.

    Returns:
        The updates from the last full statement (upsert or delete) on, oldest version first, and the number of stale
        updates. Updates before the last full statement are superseded, not stale.
    """
    if len(updates) == 1:  # the usual case
        return (list(updates), 0) if updates[0].version >= stored_version else ([], 1)
    current = sorted((u for u in updates if u.version >= stored_version), key=lambda u: u.version)
    start = max((i for i, u in enumerate(current) if u.op != "patch"), default=0)
    return current[start:], len(updates) - len(current)


def merge(current: Product | None, update: ProductUpdate) -> Product:
    """Return the product after an update that is not stale.

    Raises:
        ContractError: A patch of a product that was never stated, or was deleted.
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
    text = dict(base.text) or dict.fromkeys(TEXT_FIELDS, "")
    for name, value in zip(_STATED, _stated(update), strict=True):
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


_STATED = tuple(name for name in TEXT_FIELDS if name in ATTRIBUTES)  # all but the domain, which comes from the link
_stated = attrgetter(*_STATED)
_OFFER = ("price", "availability")
_others = attrgetter(*(name for name in ATTRIBUTES if name not in _OFFER))
_NO_OTHERS = (UNSET,) * (len(ATTRIBUTES) - len(_OFFER))
_offer = attrgetter("amount_minor", "currency", "availability")


def is_offer_patch(update: ProductUpdate) -> bool:
    """Return whether an update states nothing but price and availability."""
    return update.op == "patch" and not update.refresh_images and _others(update) == _NO_OTHERS


def merge_offer(current: OfferRow, updates: Sequence[ProductUpdate]) -> OfferRow:
    """Return the offer of a live product after offer patches, oldest version first; the fast form of `merge`."""
    amount, currency, availability = _offer(current)
    for update in updates:
        price: Price | None | msgspec.UnsetType = update.price
        if price is not UNSET:
            amount, currency = (price.amount_minor, price.currency) if price else (None, None)
        if update.availability is not UNSET:
            availability = update.availability
    last = updates[-1]
    return OfferRow(
        id=last.id,
        version=last.version,
        event_time=last.event_time,
        amount_minor=amount,
        currency=currency,
        availability=availability,
    )


def offer_changed(before: OfferRow | ProductFeatures, after: OfferRow | ProductFeatures) -> bool:
    """Return whether price or availability differ."""
    return bool(_offer(before) != _offer(after))


_PLAIN_LINK = re.compile(r"https?://([a-zA-Z0-9.-]+)(?::[0-9]*)?(?:[/?#]|\Z)")


def _domain(link: str) -> str:
    if match := _PLAIN_LINK.match(link):  # nearly all links, and ten times faster
        return match[1].lower()
    try:
        return urlsplit(link).hostname or ""
    except ValueError:  # such as an unclosed bracket: the link stays in the text, without a domain
        return ""


def changed_views(before: ProductFeatures | None, after: Product, visual_version: str) -> tuple[str, ...]:
    """Return the feature views that an update changes: some of text, images, offer; all of them for a new product.

    Images that another visual encoder than `visual_version` encoded count as changed.
    """
    if before is None or before.deleted:
        return ALL_VIEWS
    old = Product.of(before)
    views = []
    if old.text != after.text:
        views.append("text")
    if old.links != after.links or (after.links and before.visual_version != visual_version):
        views.append("images")
    if _offer(old) != _offer(after):
        views.append("offer")
    return tuple(views)
