"""How far a consumer group is behind."""

from __future__ import annotations

from streaming.kafka import Connection, TopicPartition


class LagMeter:
    """Asks the broker for one group's committed offsets on one topic, and for the topic's ends."""

    def __init__(self, connection: Connection, group: str, topic: str) -> None:
        # A member-less consumer of the group: it may ask for its offsets without joining.
        self._consumer = connection.consumer(group)
        self._partitions = [TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic) or ())]

    def lag(self) -> int:
        """Records of the topic that the group has not committed yet."""
        ends = self._consumer.end_offsets(self._partitions)
        starts = self._consumer.beginning_offsets(self._partitions)
        return sum(int(ends[tp] - (self._consumer.committed(tp) or starts[tp])) for tp in self._partitions)

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
