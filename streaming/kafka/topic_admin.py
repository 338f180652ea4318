"""Administration of the topics: create the missing ones, check the others, and answer questions about their logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import (
    AuthorizationError,
    InvalidReplicationFactorError,
    KafkaError,
    PolicyViolationError,
    TopicAlreadyExistsError,
)

from streaming.errors import BrokerError, TopicError
from streaming.kafka.connection import Connection, explained
from streaming.kafka.topics import TOMBSTONES_KEPT_MS, TOPICS, Topic

CREATION_S = 10.0
"""How long a topic that was just created may be unknown to some brokers, in seconds."""


def ensure_topics(connection: Connection, *, replication: int = 1) -> None:
    """Create the missing topics and check the settings of the others.

    Args:
        connection: The Kafka cluster.
        replication: Replication factor of the topics that are created.

    Raises:
        TopicError: A topic has a setting that would lose data, or cannot be created; the error says how to fix it.
        BrokerError: No broker answers.
    """
    with _admin(connection, "does not describe its topics") as admin:
        present = set(admin.list_topics())
        for topic in TOPICS:
            if topic.name in present:
                _check(topic, _settings(admin, topic.name))
            else:
                _create(admin, topic, replication)


def log_id(connection: Connection, topic: str, *, timeout_s: float = CREATION_S) -> str:
    """Return an id of a topic's log that is unique among all clusters and times: a topic created again has another id.

    Args:
        connection: The Kafka cluster.
        topic: Name of the topic.
        timeout_s: How long to wait for a topic that is just being created, in seconds.

    Raises:
        BrokerError: No broker answers, or the cluster does not have the topic.
    """
    with _admin(connection, f"does not describe topic {topic}") as admin:
        end = time.monotonic() + timeout_s
        while (description := admin.describe_topics([topic])[0])["error_code"]:
            if time.monotonic() > end:
                raise BrokerError(
                    f"{connection.bootstrap_servers} does not know topic {topic}; it must be created first"
                )
            time.sleep(0.1)
        return f"{admin.describe_cluster()['cluster_id']}/{description['topic_id']}"


def tombstones_kept_ms(connection: Connection, topics: Sequence[str]) -> int:
    """Return the minimum time that tombstones stay on these compacted topics, in milliseconds.

    Raises:
        BrokerError: No broker answers.
    """
    with _admin(connection, "does not describe its topics") as admin:
        return min(int(_settings(admin, t).get("delete.retention.ms") or TOMBSTONES_KEPT_MS) for t in topics)


@contextlib.contextmanager
def _admin(connection: Connection, failure: str) -> Iterator[KafkaAdminClient]:
    admin = connection.admin()
    try:
        yield admin
    except KafkaError as error:
        raise BrokerError(f"{connection.bootstrap_servers} {failure}: {explained(error)}") from error
    finally:
        admin.close()


def _create(admin: Any, topic: Topic, replication: int) -> None:
    # Another process may create the topic at the same time, with the same settings.
    with contextlib.suppress(TopicAlreadyExistsError):
        try:
            admin.create_topics([NewTopic(topic.name, topic.partitions, replication, topic_configs=topic.settings)])
        except AuthorizationError as error:
            raise TopicError(
                f"topic {topic.name} cannot be created: {explained(error)}; you can also create it by hand"
            ) from None
        except (InvalidReplicationFactorError, PolicyViolationError) as error:
            raise TopicError(
                f"topic {topic.name} cannot be created with {topic.partitions} partitions and replication factor "
                f"{replication}: {explained(error)}; create it by hand, or set SAGELIFT_KAFKA__REPLICATION"
            ) from None


def _settings(admin: Any, name: str) -> dict[str, str]:
    """Return the topic's settings; a topic that is just being created has none for a while."""
    end = time.monotonic() + CREATION_S
    while True:
        answer = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
        settings = {key: entry["value"] for key, entry in answer["topic"][name].items()}
        if settings or time.monotonic() > end:
            return settings
        time.sleep(0.1)


def _check(topic: Topic, actual: dict[str, str]) -> None:
    for key, required in topic.settings.items():
        if key == "max.message.bytes":
            fits = int(actual.get(key) or 0) >= int(required)
        else:  # the operator decides how long messages are kept
            fits = key.endswith("retention.ms") or actual.get(key) == required
        if not fits:
            raise TopicError(
                f"topic {topic.name} has {key}={actual.get(key)}, must be {required}; fix it with: kafka-configs.sh "
                f"--alter --entity-type topics --entity-name {topic.name} --add-config {key}={required}"
            )
