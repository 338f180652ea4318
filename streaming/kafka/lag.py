"""The lag of a consumer group: how many records it has not committed yet."""

from __future__ import annotations

from streaming.errors import BrokerError, TopicError
from streaming.kafka.connection import Connection, KafkaError, TopicPartition, explained


class LagMeter:
    """Measures the lag of a consumer group on one topic; not safe to share between threads. A context manager.

    Args:
        connection: The Kafka cluster.
        group: The consumer group.
        topic: The topic.

    Raises:
        TopicError: The topic does not exist; a lag of 0 would be misleading.
        BrokerError: No broker answers.
    """

    def __init__(self, connection: Connection, group: str, topic: str) -> None:
        # A consumer with the group's id that never joins the group: it only reads the group's offsets.
        self._consumer = connection.consumer(group)
        self._topic = topic
        try:
            partitions = self._consumer.partitions_for_topic(topic)
        except KafkaError as error:
            self._consumer.close()
            raise self._unreachable(error) from error
        self._partitions = [TopicPartition(topic, number) for number in sorted(partitions or ())]
        if not self._partitions:
            self._consumer.close()
            raise TopicError(
                f"topic {topic} does not exist, or this user may not see it; the consumers create the topics when they "
                "start"
            )

    def lag(self) -> int:
        """Return how many records of the topic the group has not committed yet.

        Raises:
            BrokerError: The broker does not answer.
        """
        return sum(self.by_partition().values())

    def by_partition(self) -> dict[int, int]:
        """Return the lag of each partition.

        Raises:
            BrokerError: The broker does not answer.
        """
        try:
            ends = self._consumer.end_offsets(self._partitions)
            starts = self._consumer.beginning_offsets(self._partitions)
            # Records that the broker deleted before they were read are not lag.
            return {
                tp.partition: int(ends[tp] - max(self._consumer.committed(tp) or 0, starts[tp]))
                for tp in self._partitions
            }
        except KafkaError as error:
            raise self._unreachable(error) from error

    def end(self) -> int:
        """Return how many records were ever written to the topic, including those that the broker has deleted.

        Raises:
            BrokerError: The broker does not answer.
        """
        try:
            return sum(int(offset) for offset in self._consumer.end_offsets(self._partitions).values())
        except KafkaError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def __enter__(self) -> LagMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unreachable(self, error: KafkaError) -> BrokerError:
        return BrokerError(f"{self._topic}: the offsets cannot be read: {explained(error)}")
