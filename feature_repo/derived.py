"""Features that are computed when they are asked for, from what the views hold: Feast's on-demand view.

Feast keeps the function itself in its registry and runs it in whichever process asks, so it imports what it needs
inside and leans on nothing else of this package.
"""

from __future__ import annotations

from typing import Any


def derive_offer(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns of products in, columns of as many products out; a product that is unknown or deleted gives null.

    `log_amount` is the natural logarithm of 1 plus the price in minor units: comparable within one currency only.
    """
    from math import log1p

    return {
        "in_stock": [None if state is None else state == "in_stock" for state in inputs["availability"]],
        "log_amount": [None if amount is None or amount < 0 else log1p(amount) for amount in inputs["amount_minor"]],
        "image_count": [None if hashes is None else sum(map(bool, hashes)) for hashes in inputs["hashes"]],
    }
