"""Connections to Kafka: all client settings in one place, each with a comment on the failure it prevents."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    AuthorizationError,
    ClusterAuthorizationFailedError,
    CorruptRecordError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from kafka.partitioner.default import DefaultPartitioner, murmur2

from streaming.contracts import MAX_MESSAGE_BYTES
from streaming.errors import BrokerError
from streaming.kafka.codec import JSON, Codec
from streaming.kafka.handshake import check, tls_context

__all__ = [
    "Connection",
    "ConsumerRebalanceListener",
    "CorruptRecordError",
    "KafkaConsumer",
    "KafkaError",
    "KafkaProducer",
    "TopicPartition",
    "explained",
    "unreadable_partition",
]

_KEYS_REMEMBERED = 65_536

POLL_MS = 500
"""Longest wait of a poll, so that a stop signal takes effect soon (kafka-python has no wakeup)."""


class _Partitioner(DefaultPartitioner):  # type: ignore[misc]
    """Chooses partitions as every Kafka client does (murmur2), with a cache: the hash is slow in Python."""

    def partition(self, topic: str, key: Any, serialized_key: bytes | None, *rest: Any) -> int:
        cluster = rest[-1]
        partitions = cluster.partitions_for_topic(topic)
        if serialized_key is None or not partitions:
            return int(super().partition(topic, key, serialized_key, *rest))
        partition: int = sorted(partitions)[_positive_murmur2(serialized_key) % len(partitions)]
        return partition


@lru_cache(_KEYS_REMEMBERED)
def _positive_murmur2(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


class Connection(msgspec.Struct, frozen=True):
    """How to reach a Kafka cluster, and how its messages are encoded.

    Attributes:
        bootstrap_servers: `host:port` of one or several brokers, separated by commas.
        client: Further settings of kafka-python (security). They are never printed.
        codec: Encodes and decodes the messages of all topics.
    """

    bootstrap_servers: str
    client: Mapping[str, Any] = {}
    codec: Codec = JSON

    def __repr__(self) -> str:
        return f"Connection({self.bootstrap_servers})"

    def admin(self) -> KafkaAdminClient:
        """Return a client for topics and groups."""
        return self._create(lambda common: KafkaAdminClient(**common))

    def producer(self, **settings: Any) -> KafkaProducer:
        """Return a producer: idempotent, acks=all (kafka-python's defaults since 3.0), batched and compressed."""
        return self._create(
            lambda common: KafkaProducer(
                **{
                    **common,
                    # 30,000 messages/s at 1.5 kB instead of 8,000 with the defaults.
                    "linger_ms": 20,
                    "batch_size": 262_144,
                    "compression_type": "lz4",
                    "partitioner": _Partitioner(),
                    "max_request_size": 8 * MAX_MESSAGE_BYTES,
                    **settings,
                }
            )
        )

    def consumer(self, group: str | None = None, **settings: Any) -> KafkaConsumer:
        """Return a consumer of raw bytes that never commits by itself.

        kafka-python must not deserialize: a deserializer that raises makes the next poll spin forever.

        Args:
            group: Consumer group; None for a consumer without a group.
            settings: Settings of kafka-python that replace ours.
        """
        return self._create(
            lambda common: KafkaConsumer(
                **{
                    **common,
                    "group_id": group,
                    "enable_auto_commit": False,
                    "auto_offset_reset": "earliest",
                    # The broker answers as soon as it has one message: freshness before throughput.
                    "fetch_min_bytes": 1,
                    "fetch_max_wait_ms": 100,
                    # The group replaces a dead member within this time; a consumer at long work polls to stay a member.
                    "session_timeout_ms": 10_000,
                    "heartbeat_interval_ms": 2_000,
                    "max_poll_interval_ms": 300_000,
                    # When a member joins or leaves, only the partitions that must move are moved.
                    "partition_assignment_strategy": [CooperativeStickyAssignor],
                    **settings,
                }
            )
        )

    def _common(self, context: ssl.SSLContext | None) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap_servers,
            # kafka-python waits up to 30 s between attempts by default; reconnect soon after a broker restarts.
            "reconnect_backoff_max_ms": 1000,
            # Report a wrong address sooner than after the default of 30 s.
            "bootstrap_timeout_ms": 10_000,
            # Our own TLS context: when kafka-python cannot create one, it retries forever without an error.
            **{name: value for name, value in self.client.items() if not name.startswith("ssl_")},
            **({} if context is None else {"ssl_context": context}),
        }

    def check(self) -> None:
        """Connect and authenticate once.

        Raises:
            BrokerError: The connection fails; the error gives the reason (credentials, certificates, another protocol,
                or no broker at the address).
        """
        if reason := check(self.bootstrap_servers, self.client, tls_context(self.client)):
            raise self._unreachable(reason)

    def _create(self, make: Callable[[dict[str, Any]], Any]) -> Any:
        context = tls_context(self.client)
        unreachable = check(self.bootstrap_servers, self.client, context)
        try:  # even if no broker answered just now: kafka-python waits for a broker that is starting
            return make(self._common(context))
        except KafkaError as error:
            raise self._unreachable(unreachable or type(error).__name__) from None

    def _unreachable(self, why: str) -> BrokerError:
        return BrokerError(
            f"no Kafka broker answers at {self.bootstrap_servers} ({why}): "
            "start the local stack with `sagelift up`, or set SAGELIFT_KAFKA__BOOTSTRAP_SERVERS"
        )


def unpark(consumer: KafkaConsumer) -> None:
    """Let the next poll return the records that were set aside for paused partitions; call it before each poll.

    kafka-python 3.0.12 parks such records and returns them only while `_next_partition_records` is None, but leaves
    the last drained batch there. A partition that is resumed after that is never fetched again, and its consumer waits
    forever without an error. No public interface helps. In a version without the attribute this function does nothing.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    if fetcher is not None and not getattr(fetcher, "_next_partition_records", None):
        fetcher._next_partition_records = None


_RIGHTS_ON = {
    TopicAuthorizationFailedError: "the topic",
    GroupAuthorizationFailedError: "the consumer group",
    ClusterAuthorizationFailedError: "the cluster",
}


def explained(error: Exception) -> str:
    """Return a Kafka error as text; an authorization error names the missing right and says how to get it."""
    name = type(error).__name__
    if not isinstance(error, AuthorizationError):
        text = str(error)  # most texts of kafka-python already begin with the name
        return text if text.startswith(name) else f"{name}: {text}" if text else name
    what = _RIGHTS_ON.get(type(error), "it")
    named = error.args[0] if error.args else ""
    names = " ".join(sorted(named)) if isinstance(named, set | frozenset | list | tuple) else str(named)
    if "Request '" in names:  # the admin client reports the whole request
        names = ""
    return (
        f"this Kafka user may not use {what}{names and ' '}{names} ({name}); "
        "docs/operators/security.md lists the rights it needs"
    )


_PARTITION = re.compile(r"TopicPartition\(topic='([^']+)', partition=(\d+)\)")


def unreadable_partition(error: CorruptRecordError) -> TopicPartition | None:
    """Return the partition whose next bytes a poll could not read; None if the error does not name it.

    The caller must `seek` that partition after such a poll: kafka-python keeps the half-read batch, and the next poll
    would spin on it forever.
    """
    match = _PARTITION.search(str(error))
    return TopicPartition(match[1], int(match[2])) if match else None
