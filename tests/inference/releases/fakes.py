"""A small model and its tokenizer, for the tests of releases."""

from __future__ import annotations

from inference.model import ItemSage, ItemSageConfig
from inference.tokenizer import Tokenizer

INPUTS = ("images", "image_counts", "token_ids", "field_lengths")
TOKENIZER = Tokenizer.fit([{"title": "red shoe", "brand": "ACME"}, {"title": "blue lamp"}])


def small_model(tokenizer: Tokenizer) -> ItemSage:
    return ItemSage(
        ItemSageConfig(tokenizer.size, table_rows=101, width=32, heads=4, feedforward=64, head_hidden=64)
    ).eval()
