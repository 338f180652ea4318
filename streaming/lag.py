"""How far a consumer group is behind."""

from __future__ import annotations

from streaming.errors import TopicError
from streaming.kafka import Connection, TopicPartition


class LagMeter:
    """Asks the broker for one group's committed offsets on one topic, and for the topic's ends.

    Raises:
        TopicError: there is no such topic: a lag of zero would be a lie.
    """

    def __init__(self, connection: Connection, group: str, topic: str) -> None:
        # A member-less consumer of the group: it may ask for its offsets without joining.
        self._consumer = connection.consumer(group)
        self._partitions = [TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic) or ())]
        if not self._partitions:
            self._consumer.close()
            raise TopicError(f"topic {topic} does not exist; the consumers create the topics when they start")

    def lag(self) -> int:
        """Records of the topic that the group has not committed yet."""
        ends = self._consumer.end_offsets(self._partitions)
        starts = self._consumer.beginning_offsets(self._partitions)
        # What the broker has deleted before it was read is no work to come.
        return sum(int(ends[tp] - max(self._consumer.committed(tp) or 0, starts[tp])) for tp in self._partitions)

    def end(self) -> int:
        """Records ever written to the topic (less what the broker has deleted counts still)."""
        return sum(int(offset) for offset in self._consumer.end_offsets(self._partitions).values())

    def close(self) -> None:
        """Give the connection back."""
        self._consumer.close()

    def __enter__(self) -> LagMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
