"""Engagements: what shoppers did with a product after a query.

A task is a query kind together with an action, such as "image/click". The tasks share every training batch; they differ
only in the frozen encoder that embeds the query (ItemSage, section 3.3).
"""

from __future__ import annotations

from typing import Literal

import msgspec

QueryKind = Literal["image", "search"]
QUERY_KINDS: tuple[QueryKind, ...] = ("image", "search")
TASKS = tuple(f"{kind}/{action}" for kind in QUERY_KINDS for action in ("click", "save", "add_to_cart", "checkout"))
"""The paper's eight tasks."""


class Engagement(msgspec.Struct, frozen=True):
    """`count` engagements of one kind with one product after one query."""

    kind: QueryKind
    query: str  # the text of a search, or the id of the product whose main image was the query
    product_id: str
    action: str
    count: int = 1
