"""Requests in flight: what the dispatcher does after every kind of failure, without a server."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from inference.errors import ServingError, Unavailable
from inference.triton.circuit import CircuitBreaker
from tests.inference.triton.fakes import Clock, FakeTriton, RpcFailure, answer, arrays, client_of, first_id, products

S = grpc.StatusCode


@pytest.mark.parametrize("guilty", [{0}, {255}, {17, 18}, set(range(100, 120))])
def test_bisection_rejects_exactly_the_bad_products(guilty: set[int]) -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        if guilty & {int(i) - 1 for i in arrays(request)["token_ids"][:, 0]}:
            raise RpcFailure(S.INVALID_ARGUMENT, "token_ids must be within 0 and 42\n\nAt: model.py(77): execute")
        return answer(request, first_id)

    triton = FakeTriton(infer)
    result = client_of(triton).embed(*products(256), version="1")
    assert set(result.rejected) == guilty
    assert set(result.rejected.values()) == {"token_ids must be within 0 and 42"}
    innocent = np.array(sorted(set(range(256)) - guilty))
    np.testing.assert_array_equal(result.vectors[innocent, 0], innocent + 1)
    assert np.isnan(result.vectors[sorted(guilty)]).all()
    assert len(triton.requests) <= 1 + 2 * 8 * len(guilty), "halving, not one by one"


def test_a_retryable_failure_is_retried_with_growing_jittered_pauses() -> None:
    failures = [RpcFailure(S.UNAVAILABLE, "no route")] * 5 + [RpcFailure(S.DEADLINE_EXCEEDED)] * 3

    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        if failures:
            raise failures.pop()
        return answer(request, first_id)

    clock = Clock()
    result = client_of(FakeTriton(infer), clock).embed(*products(3), version="1")
    assert result.rejected == {}
    assert clock.slept == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


@pytest.mark.parametrize("code", [S.UNAVAILABLE, S.DEADLINE_EXCEEDED, S.RESOURCE_EXHAUSTED, S.INTERNAL])
def test_when_time_is_up_unavailable_names_address_model_version_and_reason(code: grpc.StatusCode) -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        raise RpcFailure(code, "broken wire")

    clock = Clock()
    triton = FakeTriton(infer)
    with pytest.raises(Unavailable, match=r"shop:8001, model itemsage version 5 .*broken wire"):
        client_of(triton, clock, max_elapsed_s=20, batch=1).embed(*products(4), version="5")
    assert clock.now - 100.0 == pytest.approx(20)
    assert max(triton.timeouts) == 10
    assert min(triton.timeouts) >= 1
    assert triton.flying == 0, "what was still in flight is cancelled"


def test_a_permanent_failure_raises_at_once_and_cancels_the_rest() -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        raise RpcFailure(S.PERMISSION_DENIED, "no")

    clock = Clock()
    triton = FakeTriton(infer)
    with pytest.raises(ServingError, match="PERMISSION_DENIED") as caught:
        client_of(triton, clock, batch=1).embed(*products(9), version="1")
    assert not isinstance(caught.value, Unavailable)
    assert clock.slept == []
    assert triton.flying == 0


def test_a_model_that_is_not_loaded_is_waited_for_briefly_then_a_clear_error() -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        raise RpcFailure(S.NOT_FOUND, "unknown model: 'itemsage' version 7 is not found")

    clock = Clock()
    with pytest.raises(ServingError, match=r"version 7 is not served.*load it first"):
        client_of(FakeTriton(infer), clock).embed(*products(1), version="7")
    assert 10 <= clock.now - 100 < 15


def test_a_dead_process_is_reloaded_once_for_all_failed_requests() -> None:
    clock = Clock()
    healed: list[str] = []

    def heal(model: str) -> None:
        healed.append(model)
        clock.now += 7

    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        if not healed:
            raise RpcFailure(S.INTERNAL, "Stub process 'itemsage_0_0' is not healthy.")
        if len(triton.requests) <= 3:  # of the first window, sent before the healing
            raise RpcFailure(S.INTERNAL, "Stub process 'itemsage_0_0' is not healthy.")
        return answer(request, first_id)

    triton = FakeTriton(infer)
    result = client_of(triton, clock, batch=2, heal=heal).embed(*products(6), version="1")
    assert healed == ["itemsage"]
    np.testing.assert_array_equal(result.vectors[:, 0], np.arange(1, 7))


def test_a_process_that_cannot_be_reloaded_ends_in_unavailable() -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        raise RpcFailure(S.INTERNAL, "Stub process 'itemsage_0_0' is not healthy.")

    def heal(model: str) -> None:
        raise ServingError("explicit model load / unload is not allowed")

    with pytest.raises(Unavailable, match="not healthy"):
        client_of(FakeTriton(infer), heal=heal).embed(*products(1), version="1")


def test_an_answer_of_another_version_is_never_taken() -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = answer(request, first_id)
        response.model_version = "2"
        return response

    with pytest.raises(ServingError, match="version 1 answered as version 2"):
        client_of(FakeTriton(infer)).embed(*products(1), version="1")


def test_an_answer_with_too_few_numbers_is_an_error() -> None:
    with pytest.raises(ServingError, match="256 numbers for 2 rows"):
        client_of(FakeTriton(lambda r: answer(r, lambda t: first_id(t)[:1]))).embed(*products(2), version="1")


def test_a_row_answered_with_nan_is_rejected_alone() -> None:
    def spoiled(tensors: dict[str, np.ndarray]) -> np.ndarray:
        return np.where(tensors["token_ids"][:, :1] == 2, np.nan, first_id(tensors))

    result = client_of(FakeTriton(lambda request: answer(request, spoiled))).embed(*products(3), version="1")
    assert list(result.rejected) == [1]
    np.testing.assert_array_equal(result.vectors[[0, 2], 0], [1, 3])


def test_a_silent_server_gets_no_requests_for_a_while_and_then_a_probe() -> None:
    """Calls fail at once while the circuit is open; the first that finds the server back goes through."""
    clock, down = Clock(), True

    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        if down:
            raise RpcFailure(S.UNAVAILABLE, "connection refused")
        return answer(request, first_id)

    triton = FakeTriton(infer)
    client = client_of(triton, clock, breaker=CircuitBreaker(failures=5, pause_s=2.0, clock=clock))
    with pytest.raises(Unavailable, match=r"version 1 gave no answer: the last 5 requests got no answer .*refused"):
        client.embed(*products(2), version="1")
    assert len(triton.requests) == 5
    for _ in range(10):
        with pytest.raises(Unavailable, match=r"No request is sent to .*: the last 5 requests got no answer"):
            client.embed(*products(2), version="1")
    assert len(triton.requests) == 5, "nothing was sent"
    clock.now += 2
    with pytest.raises(Unavailable):
        client.embed(*products(2), version="1")
    assert len(triton.requests) == 6, "one probe"
    down = False
    clock.now += 2
    result = client.embed(*products(600), version="1")
    assert result.rejected == {}, "what takes several requests gets through too: the first of them is the probe"
    assert not np.isnan(result.vectors).any()
    assert triton.flying == 0


@pytest.mark.parametrize(
    "failure",
    [RpcFailure(S.INTERNAL, "out of shared memory"), RpcFailure(S.NOT_FOUND), RpcFailure(S.RESOURCE_EXHAUSTED)],
)
def test_a_server_that_answers_with_failures_is_not_silent(failure: RpcFailure) -> None:
    failures, clock = [failure] * 6, Clock()

    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        if failures:
            raise failures.pop()
        return answer(request, first_id)

    client = client_of(FakeTriton(infer), clock, breaker=CircuitBreaker(failures=2, clock=clock))
    assert client.embed(*products(2), version="1").rejected == {}
