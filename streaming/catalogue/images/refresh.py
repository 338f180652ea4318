"""Request the images of products again: they have changed, but their links have not.

The consumer does not fetch a link twice, even if later updates name it again. Otherwise a shop that sends all products
every hour would fetch all its images every hour. The sender (`ProductUpdate.refresh_images`) or an operator must ask
for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from feature_repo.rows import ProductFeatures
from streaming.contracts import ProductUpdate
from streaming.errors import ContractError
from streaming.feature_store import FeatureReader


def read_products(ids: Iterable[str], store: FeatureReader) -> list[ProductFeatures]:
    """Read the products whose images must be fetched again.

    Args:
        ids: Product ids; repeated ids count once.
        store: The feature store.

    Raises:
        ContractError: A product does not exist, or has no images.
    """
    unique_ids = list(dict.fromkeys(ids))
    stored = store.read_features(unique_ids)
    for product_id in unique_ids:
        product = stored.get(product_id)
        if product is None or product.deleted:
            raise ContractError("id", f"product {product_id!r} does not exist; publish it first")
        if not product.image_urls:
            raise ContractError("id", f"product {product_id!r} has no images; publish their links first")
    return [stored[product_id] for product_id in unique_ids]


def refresh_updates(products: Iterable[ProductFeatures]) -> Iterator[ProductUpdate]:
    """Yield an update of each product with images that changes nothing and asks to fetch its images again.

    The update has the product's own version. So the next update of the source passes, for any kind of versions. If a
    newer update arrives first, the images are still fetched.
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
