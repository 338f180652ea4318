"""The topics, their settings and why; made at start when missing, checked when there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import (
    AuthorizationError,
    InvalidReplicationFactorError,
    KafkaError,
    PolicyViolationError,
    TopicAlreadyExistsError,
)

from streaming.errors import BrokerError, TopicError
from streaming.kafka.connection import Connection, explained

CATALOG_UPDATES = "catalog.updates"
PRODUCT_EMBEDDINGS = "product.embeddings"
PRODUCT_OFFERS = "product.offers"
EVENTS = "events"
REPLAYED = "dlq.replayed"
"""Which dead letters were replayed; see `streaming.dead_letters.replay`."""

DEAD_LETTER_BYTES = 2_000_000
"""Of one dead letter, headers included: any message that its topic takes uncompressed, and what is said about it."""

TOMBSTONES_KEPT_MS = 86_400_000
"""How long a deletion stays on a compacted topic, where nobody said otherwise: as long a reader may be away."""

_CREATION_S = 10.0


def dead_letter_topic(topic: str) -> str:
    """Where the messages go that a consumer of `topic` cannot use."""
    return f"{topic}.dlq"


class Topic(msgspec.Struct, frozen=True):
    """A topic as we need it; settings not named are the broker's."""

    name: str
    partitions: int
    settings: dict[str, str]


# A fresh reader rebuilds exactly what is live.
_COMPACTED = {"cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONES_KEPT_MS)}
_DEAD_LETTERS = {
    "cleanup.policy": "delete",
    "retention.ms": str(30 * 86_400_000),
    "max.message.bytes": str(2 * DEAD_LETTER_BYTES),
}

TOPICS: tuple[Topic, ...] = (
    # The broker's clock stamps each update: freshness is measured from its arrival.
    Topic(CATALOG_UPDATES, 8, {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}),
    Topic(PRODUCT_EMBEDDINGS, 8, _COMPACTED),
    Topic(PRODUCT_OFFERS, 8, _COMPACTED),
    Topic(EVENTS, 8, {"cleanup.policy": "delete"}),
    Topic(dead_letter_topic(CATALOG_UPDATES), 1, _DEAD_LETTERS),
    Topic(dead_letter_topic(EVENTS), 1, _DEAD_LETTERS),
    Topic(REPLAYED, 1, {"cleanup.policy": "compact"}),
)


def ensure_topics(connection: Connection, *, replication: int = 1) -> None:
    """Create the missing topics and check the others.

    Raises:
        TopicError: a topic has another setting than we need, or cannot be made; names it and what mends it.
        BrokerError: no broker answers.
    """
    admin = connection.admin()
    try:
        present = set(admin.list_topics())
        for topic in TOPICS:
            if topic.name in present:
                _check(topic, _settings(admin, topic.name))
            else:
                _create(admin, topic, replication)
    except KafkaError as error:
        raise BrokerError(
            f"{connection.bootstrap_servers} does not answer about its topics: {explained(error)}"
        ) from error
    finally:
        admin.close()


def log_id(connection: Connection, topic: str) -> str:
    """Identifies a topic's log among those of all clusters and of all times: one made anew has another.

    Raises:
        BrokerError: no broker answers, or it does not know the topic.
    """
    admin = connection.admin()
    try:
        end = time.monotonic() + _CREATION_S
        while (found := admin.describe_topics([topic])[0])["error_code"]:
            if time.monotonic() > end:
                raise BrokerError(
                    f"{connection.bootstrap_servers} does not know topic {topic}; it must be created first"
                )
            time.sleep(0.1)  # made a moment ago, it is not known everywhere yet
        return f"{admin.describe_cluster()['cluster_id']}/{found['topic_id']}"
    except KafkaError as error:
        raise BrokerError(
            f"{connection.bootstrap_servers} does not say what topic {topic} is: {explained(error)}"
        ) from error
    finally:
        admin.close()


def tombstones_kept_ms(connection: Connection, topics: Sequence[str]) -> int:
    """For how many milliseconds deletions stay at least on all of these compacted topics.

    Raises:
        BrokerError: no broker answers.
    """
    admin = connection.admin()
    try:
        return min(int(_settings(admin, t).get("delete.retention.ms") or TOMBSTONES_KEPT_MS) for t in topics)
    except KafkaError as error:
        raise BrokerError(
            f"{connection.bootstrap_servers} does not answer about its topics: {explained(error)}"
        ) from error
    finally:
        admin.close()


def _create(admin: Any, topic: Topic, replication: int) -> None:
    # Another process may have been quicker: it makes them as we would.
    with contextlib.suppress(TopicAlreadyExistsError):
        try:
            admin.create_topics([NewTopic(topic.name, topic.partitions, replication, topic_configs=topic.settings)])
        except AuthorizationError as error:
            raise TopicError(
                f"topic {topic.name} cannot be created: {explained(error)}; or create it by hand"
            ) from None
        except (InvalidReplicationFactorError, PolicyViolationError) as error:
            raise TopicError(
                f"topic {topic.name} cannot be created with {topic.partitions} partitions and replication factor "
                f"{replication}: {explained(error)}; create it by hand, or set SAGELIFT_KAFKA__REPLICATION"
            ) from None


def _settings(admin: Any, name: str) -> dict[str, str]:
    """The topic's settings; a topic that is being created this moment has none for a while."""
    end = time.monotonic() + _CREATION_S
    while True:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
        settings = {key: entry["value"] for key, entry in found["topic"][name].items()}
        if settings or time.monotonic() > end:
            return settings
        time.sleep(0.1)


def _check(topic: Topic, actual: dict[str, str]) -> None:
    for key, wanted in topic.settings.items():
        if key == "max.message.bytes":
            fits = int(actual.get(key) or 0) >= int(wanted)
        else:  # how long messages are kept is the operator's to say
            fits = key.endswith("retention.ms") or actual.get(key) == wanted
        if not fits:
            raise TopicError(
                f"topic {topic.name} has {key}={actual.get(key)}, must be {wanted}; mend it with: "
                f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} --add-config {key}={wanted}"
            )
