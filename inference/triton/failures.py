"""The kinds of failed requests to Triton."""

from __future__ import annotations

from enum import Enum

import grpc


class Failure(Enum):
    """The kind of a failed request. It decides what the client does next.

    The catalogue consumer retries the batch after every `ServingError`, also after one that the client does not retry.
    """

    REJECTED = "the request itself is wrong: halve it, or reject its only product"
    RETRYABLE = "send the request again later"
    MISSING = "the model is not loaded: wait briefly for a restarting server, then give up"
    DEAD = "the model's process died and Triton does not replace it: reload the model, then send the request again"
    NOT_RETRIED = "the client does not send the request again: it raises `ServingError`"


_RETRYABLE_CODES = frozenset(
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ]
)
_SILENCE = frozenset([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])


def classify(code: grpc.StatusCode, details: str) -> Failure:
    """Return the kind of a failure.

    Args:
        code: Triton's gRPC status code.
        details: Triton's error message. The texts are those of Triton 2.51.
    """
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return Failure.REJECTED
    if code is grpc.StatusCode.NOT_FOUND:
        return Failure.MISSING
    if code is grpc.StatusCode.INTERNAL and ("not healthy" in details or "health mutex" in details):
        return Failure.DEAD
    if code is grpc.StatusCode.UNAVAILABLE and "restricted" in details:  # a wrong key for a protected interface
        return Failure.NOT_RETRIED
    return Failure.RETRYABLE if code in _RETRYABLE_CODES else Failure.NOT_RETRIED


def is_silence(code: grpc.StatusCode) -> bool:
    """Return whether the status code means that the server did not answer at all."""
    return code in _SILENCE
