"""The errors of streaming: each is also the builtin error that a caller would catch."""

from __future__ import annotations

import pytest

from streaming import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ContractError("id", "is missing"), ValueError),
        (errors.FeedError("a"), ValueError),
        (errors.ImageError("a"), ValueError),
        (errors.DeadLetterError("a"), LookupError),
        (errors.PoisonRateError("a"), RuntimeError),
        (errors.ReleaseError("a"), RuntimeError),
        (errors.TopicError("a"), RuntimeError),
        (errors.SchemaError("a"), RuntimeError),
        (errors.RegistryError("a"), ConnectionError),
        (errors.BrokerError("a"), ConnectionError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_an_error_is_a_streaming_error_and_a_builtin_one(error: Exception, builtin: type[Exception]) -> None:
    assert isinstance(error, errors.StreamingError)
    assert isinstance(error, builtin)


def test_a_contract_error_names_the_field_and_the_rule() -> None:
    error = errors.ContractError("price.amount", "must be >= 0")
    assert (str(error), error.field, error.rule) == ("price.amount: must be >= 0", "price.amount", "must be >= 0")
    assert str(errors.ContractError("", "not JSON")) == "not JSON"


def test_an_image_error_is_permanent_unless_it_says_otherwise() -> None:
    assert not errors.ImageError("is empty").retryable
    assert errors.ImageError("timed out", retryable=True).retryable
