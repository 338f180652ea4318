"""How far a consumer group is behind."""

from __future__ import annotations

from streaming.errors import BrokerError, TopicError
from streaming.kafka.connection import Connection, KafkaError, TopicPartition, explained


class LagMeter:
    """Asks the broker for one group's committed offsets on one topic, and for the topic's ends.

    Not for several threads at once. Its questions raise BrokerError when the broker does not answer.

    Raises:
        TopicError: there is no such topic: a lag of zero would be a lie.
        BrokerError: no broker answers.
    """

    def __init__(self, connection: Connection, group: str, topic: str) -> None:
        # A member-less consumer of the group: it may ask for its offsets without joining.
        self._consumer = connection.consumer(group)
        self._topic = topic
        try:
            found = self._consumer.partitions_for_topic(topic)
        except KafkaError as error:
            self._consumer.close()
            raise self._silent(error) from error
        self._partitions = [TopicPartition(topic, number) for number in sorted(found or ())]
        if not self._partitions:
            self._consumer.close()
            raise TopicError(
                f"topic {topic} does not exist, or this user may not see it; the consumers create the topics when they "
                "start"
            )

    def lag(self) -> int:
        """Records of the topic that the group has not committed yet."""
        return sum(self.by_partition().values())

    def by_partition(self) -> dict[int, int]:
        """The same for each partition."""
        try:
            ends = self._consumer.end_offsets(self._partitions)
            starts = self._consumer.beginning_offsets(self._partitions)
            # What the broker has deleted before it was read is no work to come.
            return {
                tp.partition: int(ends[tp] - max(self._consumer.committed(tp) or 0, starts[tp]))
                for tp in self._partitions
            }
        except KafkaError as error:
            raise self._silent(error) from error

    def end(self) -> int:
        """Records ever written to the topic (less what the broker has deleted counts still)."""
        try:
            return sum(int(offset) for offset in self._consumer.end_offsets(self._partitions).values())
        except KafkaError as error:
            raise self._silent(error) from error

    def close(self) -> None:
        """Give the connection back."""
        self._consumer.close()

    def __enter__(self) -> LagMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _silent(self, error: KafkaError) -> BrokerError:
        return BrokerError(f"{self._topic}: the broker does not say how far it goes: {explained(error)}")
