"""The topics: their names, and the settings with which we create them."""

from __future__ import annotations

import msgspec

CATALOG_UPDATES = "catalog.updates"
PRODUCT_EMBEDDINGS = "product.embeddings"
PRODUCT_OFFERS = "product.offers"
EVENTS = "events"
REPLAYED = "dlq.replayed"
"""Which dead letters were replayed; see `streaming.dead_letters.replay_log`."""

DEAD_LETTER_BYTES = 2_000_000
"""Maximum size of a dead letter, headers included: it fits any uncompressed message of its topic, and our headers."""

TOMBSTONES_KEPT_MS = 86_400_000
"""Default of `delete.retention.ms`: how long a tombstone stays on a compacted topic, and so how long a reader may be
stopped and still resume."""


def dead_letter_topic(topic: str) -> str:
    """Return the topic for messages that a consumer of `topic` cannot use."""
    return f"{topic}.dlq"


class Topic(msgspec.Struct, frozen=True):
    """A topic with the settings that we need; the broker's defaults apply to all others."""

    name: str
    partitions: int
    settings: dict[str, str]


# Compaction keeps the last record of each key, so a new reader gets exactly the live products.
_COMPACTED = {"cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONES_KEPT_MS)}
_DEAD_LETTERS = {
    "cleanup.policy": "delete",
    "retention.ms": str(30 * 86_400_000),
    "max.message.bytes": str(2 * DEAD_LETTER_BYTES),
}

TOPICS: tuple[Topic, ...] = (
    # The broker's clock stamps each update: freshness is measured from the arrival in Kafka.
    Topic(CATALOG_UPDATES, 8, {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}),
    Topic(PRODUCT_EMBEDDINGS, 8, _COMPACTED),
    Topic(PRODUCT_OFFERS, 8, _COMPACTED),
    Topic(EVENTS, 8, {"cleanup.policy": "delete"}),
    Topic(dead_letter_topic(CATALOG_UPDATES), 1, _DEAD_LETTERS),
    Topic(dead_letter_topic(EVENTS), 1, _DEAD_LETTERS),
    Topic(REPLAYED, 1, {"cleanup.policy": "compact"}),
)
