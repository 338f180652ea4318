"""The topics' settings: one that would lose data is refused by name, with the command that fixes it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from kafka.errors import InvalidReplicationFactorError, KafkaConnectionError, TopicAlreadyExistsError

from streaming.errors import BrokerError, TopicError
from streaming.kafka.topic_admin import ensure_topics, log_id, tombstones_kept_ms
from streaming.kafka.topics import PRODUCT_EMBEDDINGS, PRODUCT_OFFERS, TOMBSTONES_KEPT_MS, TOPICS, dead_letter_topic


class FakeCluster:
    """A connection and its admin client: topics with all their settings, defaults included."""

    bootstrap_servers = "broker:9092"
    DEFAULTS: ClassVar = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime",
        "max.message.bytes": "1048588",
    }

    def __init__(self) -> None:
        self.topics: dict[str, dict[str, str]] = {}
        self.closed = False
        self.fail: Exception | None = None

    def admin(self) -> FakeCluster:
        return self

    def list_topics(self) -> list[str]:
        return list(self.topics)

    def create_topics(self, new: list[Any]) -> None:
        if self.fail:
            raise self.fail
        for topic in new:
            self.topics[topic.name] = {**self.DEFAULTS, **topic.topic_configs}

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        settings = self.topics[resources[0].name]
        return {"topic": {resources[0].name: {key: {"value": value} for key, value in settings.items()}}}

    def close(self) -> None:
        self.closed = True


def test_missing_topics_are_created_and_pass_their_own_check() -> None:
    cluster = FakeCluster()
    ensure_topics(cluster)  # type: ignore[arg-type]
    assert set(cluster.topics) == {topic.name for topic in TOPICS}
    assert cluster.topics[PRODUCT_EMBEDDINGS]["cleanup.policy"] == "compact"
    assert cluster.topics[PRODUCT_OFFERS]["cleanup.policy"] == "compact"
    ensure_topics(cluster)  # type: ignore[arg-type]
    assert cluster.closed


@pytest.mark.parametrize(
    ("topic", "key", "value"),
    [
        (PRODUCT_EMBEDDINGS, "cleanup.policy", "delete"),
        (PRODUCT_OFFERS, "cleanup.policy", "delete"),
        ("catalog.updates", "message.timestamp.type", "CreateTime"),
        ("events", "cleanup.policy", "compact"),
        (dead_letter_topic("events"), "max.message.bytes", "1048588"),
    ],
)
def test_a_setting_that_would_lose_data_is_named_with_its_remedy(topic: str, key: str, value: str) -> None:
    cluster = FakeCluster()
    ensure_topics(cluster)  # type: ignore[arg-type]
    cluster.topics[topic][key] = value
    with pytest.raises(TopicError, match=rf"{topic} has {key}={value}.*kafka-configs.sh .*--entity-name {topic}"):
        ensure_topics(cluster)  # type: ignore[arg-type]
    assert cluster.closed


def test_the_operator_decides_how_long_messages_are_kept() -> None:
    cluster = FakeCluster()
    ensure_topics(cluster)  # type: ignore[arg-type]
    cluster.topics[PRODUCT_EMBEDDINGS]["delete.retention.ms"] = "1000"
    cluster.topics[dead_letter_topic("events")] |= {"retention.ms": "1000", "max.message.bytes": "9000000"}
    ensure_topics(cluster)  # type: ignore[arg-type]


def test_another_process_may_create_them_first() -> None:
    cluster = FakeCluster()
    cluster.fail = TopicAlreadyExistsError()
    ensure_topics(cluster)  # type: ignore[arg-type]


def test_a_refusal_of_the_cluster_and_an_unreachable_cluster_are_different_errors() -> None:
    cluster = FakeCluster()
    cluster.fail = InvalidReplicationFactorError()
    with pytest.raises(TopicError, match=r"catalog\.updates cannot be created .* replication factor 3"):
        ensure_topics(cluster, replication=3)  # type: ignore[arg-type]
    cluster.fail = KafkaConnectionError("gone")
    with pytest.raises(BrokerError, match="broker:9092"):
        ensure_topics(cluster)  # type: ignore[arg-type]


def test_the_topic_with_the_shortest_retention_decides_how_long_tombstones_stay() -> None:
    cluster = FakeCluster()
    ensure_topics(cluster)  # type: ignore[arg-type]
    both = (PRODUCT_EMBEDDINGS, PRODUCT_OFFERS)
    assert tombstones_kept_ms(cluster, both) == TOMBSTONES_KEPT_MS  # type: ignore[arg-type]
    cluster.topics[PRODUCT_OFFERS]["delete.retention.ms"] = "5000"
    assert tombstones_kept_ms(cluster, both) == 5000  # type: ignore[arg-type]
    assert cluster.closed


def test_a_topic_created_again_has_another_log_and_a_missing_topic_is_named() -> None:
    class Described(FakeCluster):
        error, made = 0, 1

        def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
            return [{"error_code": self.error, "topic_id": f"id{self.made}"}]

        def describe_cluster(self) -> dict[str, str]:
            return {"cluster_id": "c"}

    cluster = Described()
    assert log_id(cluster, "events") == "c/id1"  # type: ignore[arg-type]
    cluster.made = 2
    assert log_id(cluster, "events") == "c/id2"  # type: ignore[arg-type]
    cluster.error = 3
    with pytest.raises(BrokerError, match="broker:9092 does not know topic events"):
        log_id(cluster, "events", timeout_s=0)  # type: ignore[arg-type]
    assert cluster.closed
