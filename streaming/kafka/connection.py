"""How we connect to Kafka: one place for the client settings, each with the failure that it prevents."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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
from streaming.kafka.handshake import check, tls_context

if TYPE_CHECKING:
    from streaming.kafka.schema_registry.codec import RegistryWire

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
"""No poll waits longer, so that a signal to stop is heard (kafka-python has no wakeup)."""


class _Partitioner(DefaultPartitioner):  # type: ignore[misc]
    """The partitions of every Kafka client (murmur2); in Python that takes long, and keys come again."""

    def partition(self, topic: str, key: Any, serialized_key: bytes | None, *rest: Any) -> int:
        cluster = rest[-1]
        partitions = cluster.partitions_for_topic(topic)
        if serialized_key is None or not partitions:
            return int(super().partition(topic, key, serialized_key, *rest))
        chosen: int = sorted(partitions)[_positive_murmur2(serialized_key) % len(partitions)]
        return chosen


@lru_cache(_KEYS_REMEMBERED)
def _positive_murmur2(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


class Connection(msgspec.Struct, frozen=True):
    """Where the brokers are. `client` holds further settings of kafka-python (security), never printed.

    `wire` is how messages stand on the topics where a schema registry is in use; without one they are bare JSON.
    """

    bootstrap_servers: str
    client: Mapping[str, Any] = {}
    wire: RegistryWire | None = None

    def __repr__(self) -> str:
        return f"Connection({self.bootstrap_servers})"

    def admin(self) -> KafkaAdminClient:
        """A client for topics and groups."""
        return self._made(lambda common: KafkaAdminClient(**common))

    def producer(self, **settings: Any) -> KafkaProducer:
        """A producer: idempotent and acks=all (kafka-python's defaults since 3.0), batched and compressed."""
        return self._made(
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
        """A consumer of raw bytes that never commits by itself.

        Deserializers are never given to kafka-python: one that raises makes the next poll spin for ever.
        """
        return self._made(
            lambda common: KafkaConsumer(
                **{
                    **common,
                    "group_id": group,
                    "enable_auto_commit": False,
                    "auto_offset_reset": "earliest",
                    # An answer as soon as there is one message: freshness before throughput.
                    "fetch_min_bytes": 1,
                    "fetch_max_wait_ms": 100,
                    # A dead member is replaced within this time; long work keeps its membership by polling.
                    "session_timeout_ms": 10_000,
                    "heartbeat_interval_ms": 2_000,
                    "max_poll_interval_ms": 300_000,
                    # A member that joins or leaves moves only the partitions that must move.
                    "partition_assignment_strategy": [CooperativeStickyAssignor],
                    **settings,
                }
            )
        )

    def _common(self, context: ssl.SSLContext | None) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap_servers,
            # kafka-python would wait up to 30 s between tries; a broker that is back should be found at once.
            "reconnect_backoff_max_ms": 1000,
            # A wrong address should be told to a person sooner than after the 30 s of the default.
            "bootstrap_timeout_ms": 10_000,
            # Our own context: of its own kafka-python says nothing when it cannot make one, and tries for ever.
            **{name: value for name, value in self.client.items() if not name.startswith("ssl_")},
            **({} if context is None else {"ssl_context": context}),
        }

    def check(self) -> None:
        """Connect and sign on once.

        Raises:
            BrokerError: why that fails: credentials, certificates, another protocol, or no broker is there.
        """
        if away := check(self.bootstrap_servers, self.client, tls_context(self.client)):
            raise self._unreachable(away)

    def _made(self, make: Callable[[dict[str, Any]], Any]) -> Any:
        context = tls_context(self.client)
        away = check(self.bootstrap_servers, self.client, context)
        try:  # also when none was reached just now: one that is starting is waited for
            return make(self._common(context))
        except KafkaError as error:
            raise self._unreachable(away or type(error).__name__) from None

    def _unreachable(self, why: str) -> BrokerError:
        return BrokerError(
            f"no Kafka broker answers at {self.bootstrap_servers} ({why}): "
            "start the local stack with `sagelift up`, or set SAGELIFT_KAFKA__BOOTSTRAP_SERVERS"
        )


def unpark(consumer: KafkaConsumer) -> None:
    """Let the next poll look at what was set aside for partitions that were paused; call it before each poll.

    kafka-python 3.0.12 parks such records and takes them up again only while `_next_partition_records` is None, but
    leaves the last drained batch there: a partition resumed after that is never fetched again, and its consumer waits
    for ever without an error. There is no public way out; where the attribute is gone, so is this.
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
    """A failure of Kafka in words; of one for want of rights, which and who gives them."""
    name = type(error).__name__
    if not isinstance(error, AuthorizationError):
        said = str(error)  # most of kafka-python's begin with the name themselves
        return said if said.startswith(name) else f"{name}: {said}" if said else name
    what = _RIGHTS_ON.get(type(error), "it")
    named = error.args[0] if error.args else ""
    names = " ".join(sorted(named)) if isinstance(named, set | frozenset | list | tuple) else str(named)
    if "Request '" in names:  # the admin client gives the whole request
        names = ""
    return (
        f"this user has no right to {what}{names and ' '}{names} ({name}); docs/security.md lists the rights it needs"
    )


_PARTITION = re.compile(r"TopicPartition\(topic='([^']+)', partition=(\d+)\)")


def unreadable_partition(error: CorruptRecordError) -> TopicPartition | None:
    """The partition whose next bytes a poll could not read; None when the error does not say.

    Such a poll must be followed by a `seek` of that partition: kafka-python keeps the half-read batch, and the next
    poll would spin on it for ever.
    """
    found = _PARTITION.search(str(error))
    return TopicPartition(found[1], int(found[2])) if found else None
