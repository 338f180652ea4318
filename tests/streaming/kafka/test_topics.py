"""The topics that we create."""

from __future__ import annotations

from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, PRODUCT_EMBEDDINGS, TOPICS, dead_letter_topic


def test_every_topic_with_a_consumer_group_has_a_dead_letter_topic() -> None:
    names = [topic.name for topic in TOPICS]
    assert {dead_letter_topic(CATALOG_UPDATES), dead_letter_topic(EVENTS)} <= set(names)
    assert len(names) == len(set(names))


def test_the_broker_stamps_updates_so_that_freshness_counts_from_their_arrival() -> None:
    settings = {topic.name: topic.settings for topic in TOPICS}
    assert settings[CATALOG_UPDATES]["message.timestamp.type"] == "LogAppendTime"
    assert settings[PRODUCT_EMBEDDINGS]["cleanup.policy"] == "compact"
