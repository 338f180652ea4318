"""Features that are computed on request from stored ones: the function of Feast's on-demand view.

Feast stores the function's source in its registry and runs it in the process that asks. So the function imports what it
needs inside, and uses nothing else of this package.
"""

from __future__ import annotations

from typing import TypedDict


class OfferInputs(TypedDict):
    """Columns of stored features, one value per product; None for a product that is unknown or deleted."""

    availability: list[str | None]
    amount_minor: list[int | None]
    hashes: list[list[str] | None]


class OfferFeatures(TypedDict):
    """Columns of derived features, one value per product."""

    in_stock: list[bool | None]
    log_amount: list[float | None]
    image_count: list[int | None]


def derive_offer(inputs: OfferInputs) -> OfferFeatures:
    """Compute the derived features of products; a missing input gives None.

    `log_amount` is ln(1 + price in minor units): compare it within one currency only.
    """
    from math import log1p

    return {
        "in_stock": [None if state is None else state == "in_stock" for state in inputs["availability"]],
        "log_amount": [None if amount is None or amount < 0 else log1p(amount) for amount in inputs["amount_minor"]],
        "image_count": [None if hashes is None else sum(map(bool, hashes)) for hashes in inputs["hashes"]],
    }
