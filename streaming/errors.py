"""What can go wrong in streaming.

StreamingError
├── ContractError (ValueError)     a message or a row breaks the contract: names field, value, rule
├── FeedError (ValueError)         a whole feed file cannot be read
├── ImageError (ValueError)        one image cannot be had or used; `retryable` says whether later may help
├── DeadLetterError (LookupError)  there is no such dead letter, or it cannot be replayed now
├── PoisonRateError (RuntimeError) most messages cannot be used
├── ReleaseError (RuntimeError)    a release is too much worse than the live one, or too different
├── TopicError (RuntimeError)      a topic is missing or has wrong settings
├── SchemaError (RuntimeError)     the schema registry does not take one of our schemas
├── RegistryError (ConnectionError)  the schema registry cannot be reached
└── BrokerError (ConnectionError)  Kafka cannot be reached
"""

from __future__ import annotations


class StreamingError(Exception):
    """Base of everything that streaming raises on purpose; the message is fit for a person."""


class ContractError(StreamingError, ValueError):
    """A message breaks the contract.

    `field` is the path of the offending field ("" for the whole message), `rule` the rule that it breaks.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}" if field else rule)
        self.field = field
        self.rule = rule


class FeedError(StreamingError, ValueError):
    """A feed file as a whole cannot be read (missing, empty, not in the format that it claims)."""


class ImageError(StreamingError, ValueError):
    """An image cannot be fetched or decoded."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class DeadLetterError(StreamingError, LookupError):
    """There is no such dead letter, or it cannot be replayed now."""


class PoisonRateError(StreamingError, RuntimeError):
    """So large a share of the messages cannot be used that the fault lies with whoever sends them."""


class ReleaseError(StreamingError, RuntimeError):
    """A release is too much worse than the live one, or too different, to follow it unasked."""


class TopicError(StreamingError, RuntimeError):
    """A topic is missing or has settings that would lose data."""


class SchemaError(StreamingError, RuntimeError):
    """The schema registry does not take one of our schemas: it is not compatible with what the subject has."""


class RegistryError(StreamingError, ConnectionError):
    """The schema registry does not answer, or does not let us in; later may help."""


class BrokerError(StreamingError, ConnectionError):
    """No Kafka broker answers at the configured address."""
