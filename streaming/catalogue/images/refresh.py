"""Images that changed behind their links: products whose images are to be fetched again.

A link that is known is not fetched again, whatever updates name it: a shop that sends every product every hour would
fetch its whole catalogue of images as often. The sender says so (`ProductUpdate.refresh_images`), or an operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from feature_repo.rows import ProductFeatures
from streaming.contracts import ProductUpdate
from streaming.errors import ContractError


class FeatureReader(Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that products are looked up in."""

    def read_features(self, ids: Iterable[str]) -> Mapping[str, ProductFeatures]: ...


def chosen(ids: Iterable[str], store: FeatureReader) -> list[ProductFeatures]:
    """The products of these ids.

    Raises:
        ContractError: one of them is not there, or has no images.
    """
    names = list(dict.fromkeys(ids))
    found = store.read_features(names)
    for name in names:
        product = found.get(name)
        if product is None or product.deleted:
            raise ContractError("id", f"there is no product {name!r}; publish it first")
        if not product.image_urls:
            raise ContractError("id", f"product {name!r} has no images; publish their links first")
    return [found[name] for name in names]


def refreshes(products: Iterable[ProductFeatures]) -> Iterator[ProductUpdate]:
    """An update of each product with images that says nothing but that they are to be fetched again.

    It bears the product's own version, so that the next update of the source passes whatever it counts in. Should one
    pass before it, the images are fetched all the same.
    """
    for product in products:
        if product.image_urls:
            yield ProductUpdate(
                id=product.id,
                version=product.version,
                event_time=product.event_time,
                op="patch",
                refresh_images=True,
            )
