"""The errors of streaming.

StreamingError
├── ContractError (ValueError)     a message or a row breaks the contract; names the field and the rule
├── FeedError (ValueError)         a whole feed file cannot be read
├── ImageError (ValueError)        one image cannot be fetched or used; `retryable`: whether a later attempt may succeed
├── DeadLetterError (LookupError)  a dead letter does not exist, or cannot be replayed now
├── PoisonRateError (RuntimeError) most messages cannot be used
├── ReleaseError (RuntimeError)    a release is much worse than the live one, or too different
├── TopicError (RuntimeError)      a topic is missing or has wrong settings
├── SchemaError (RuntimeError)     the schema registry does not accept one of our schemas
├── RegistryError (ConnectionError)  the schema registry cannot be reached
└── BrokerError (ConnectionError)  Kafka cannot be reached, refuses us, or did not accept a message
"""

from __future__ import annotations


class StreamingError(Exception):
    """Base of all errors that streaming raises on purpose; the message is meant for a person."""


class ContractError(StreamingError, ValueError):
    """A message breaks the contract.

    Attributes:
        field: Path of the field; "" for the whole message.
        rule: The rule that the field breaks.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}" if field else rule)
        self.field = field
        self.rule = rule


class FeedError(StreamingError, ValueError):
    """A whole feed file cannot be read: it is missing, empty, or not in the format that it claims."""


class ImageError(StreamingError, ValueError):
    """An image cannot be fetched or decoded.

    Attributes:
        retryable: Whether a later attempt may succeed.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class DeadLetterError(StreamingError, LookupError):
    """A dead letter does not exist, or cannot be replayed now."""


class PoisonRateError(StreamingError, RuntimeError):
    """So many messages cannot be used that the fault must lie with the producer."""


class ReleaseError(StreamingError, RuntimeError):
    """A release is much worse than the live one, or too different, to replace it without an operator's consent."""


class TopicError(StreamingError, RuntimeError):
    """A topic is missing or has settings that would lose data."""


class SchemaError(StreamingError, RuntimeError):
    """The schema registry refuses one of our schemas: it is incompatible with the subject's other schemas."""


class RegistryError(StreamingError, ConnectionError):
    """The schema registry does not answer or refuses us; a later attempt may succeed."""


class BrokerError(StreamingError, ConnectionError):
    """Kafka cannot be reached, refuses us, or did not accept a message."""
