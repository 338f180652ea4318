"""The texts of Kafka errors."""

import pytest
from kafka.errors import GroupAuthorizationFailedError, KafkaTimeoutError, TopicAuthorizationFailedError

from streaming.kafka.connection import Connection, explained


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TopicAuthorizationFailedError({"b", "a"}), "this Kafka user may not use the topic a b ("),
        (TopicAuthorizationFailedError("Request 'X(topics=[..])' failed"), "this Kafka user may not use the topic ("),
        (GroupAuthorizationFailedError("sink"), "this Kafka user may not use the consumer group sink ("),
        (KafkaTimeoutError("after 3 s"), "KafkaTimeoutError: "),
    ],
)
def test_an_authorization_error_names_the_resource_and_where_the_rights_are_listed(error: Exception, said: str) -> None:
    assert explained(error).startswith(said)
    assert ("docs/operators/security.md" in explained(error)) == ("may not" in said)


def test_a_connection_does_not_show_its_credentials() -> None:
    assert "hunter2" not in f"{Connection('kafka:9092', {'sasl_plain_password': 'hunter2'})!r}"
