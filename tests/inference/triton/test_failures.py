"""Kinds of failed requests."""

from __future__ import annotations

import grpc
import pytest

from inference.triton.failures import Failure, classify, is_silence

S = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (S.INVALID_ARGUMENT, "images hold NaN or infinity", Failure.REJECTED),
        (S.UNAVAILABLE, "failed to connect to all addresses", Failure.RETRYABLE),
        (S.UNAVAILABLE, "Exceeds maximum queue size", Failure.RETRYABLE),
        (S.DEADLINE_EXCEEDED, "Deadline Exceeded", Failure.RETRYABLE),
        (S.INTERNAL, "Failed to increase the shared memory pool size", Failure.RETRYABLE),
        (S.INTERNAL, "Stub process 'itemsage_0_0' is not healthy.", Failure.DEAD),
        (S.NOT_FOUND, "Request for unknown model: 'itemsage' version 7 is not found", Failure.MISSING),
        (
            S.UNAVAILABLE,
            "This protocol is restricted, expecting header 'triton-grpc-protocol-key'",
            Failure.NOT_RETRIED,
        ),
        (S.UNAUTHENTICATED, "", Failure.NOT_RETRIED),
        (S.UNIMPLEMENTED, "", Failure.NOT_RETRIED),
    ],
)
def test_a_status_code_and_its_message_give_the_kind_of_failure(
    code: grpc.StatusCode, details: str, expected: Failure
) -> None:
    assert classify(code, details) is expected


def test_only_a_server_that_does_not_answer_is_silent() -> None:
    assert [code for code in S if is_silence(code)] == [S.DEADLINE_EXCEEDED, S.UNAVAILABLE]
