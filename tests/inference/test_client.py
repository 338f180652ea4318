"""The Triton client without a server: what it sends, and what it makes of every kind of failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from inference.client import ItemEmbedder, TritonClient, bucketed, encode_request
from inference.errors import ArtifactError, InputError, ServingError, Unavailable
from inference.failures import CircuitBreaker, Failure, classify
from inference.inputs import ProductInput
from inference.tokenizer import Tokenizer

S = grpc.StatusCode
TYPES = {"FP16": np.float16, "INT32": np.int32, "UINT8": np.uint8}


class RpcFailure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


def arrays(request: pb.ModelInferRequest) -> dict[str, np.ndarray]:
    return {
        tensor.name: np.frombuffer(raw, TYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def answer(request: pb.ModelInferRequest, fill: Callable[[dict[str, np.ndarray]], np.ndarray]) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_version=request.model_version or "1")
    response.raw_output_contents.append(fill(arrays(request)).astype(np.float32).tobytes())
    return response


def first_id(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """A 'model' whose vector repeats the product's first token id: tells whose answer it is."""
    return np.repeat(tensors["token_ids"][:, :1], 256, axis=1)


class FakeTriton:
    """A channel whose ModelInfer is a function; everything that crosses it is real protobuf."""

    def __init__(self, infer: Callable[[pb.ModelInferRequest], pb.ModelInferResponse]) -> None:
        self.infer = infer
        self.requests: list[pb.ModelInferRequest] = []
        self.timeouts: list[float] = []
        self.flying = self.most_flying = 0

    def unary_unary(self, method: str, **_: Any) -> Any:
        return self if method.endswith("/ModelInfer") else None

    def stream_stream(self, method: str, **_: Any) -> None:
        """Streaming is never used; Triton's generated stub asks for it all the same."""

    def future(self, body: bytes, timeout: float) -> Any:
        request = pb.ModelInferRequest.FromString(body)
        self.requests.append(request)
        self.timeouts.append(timeout)
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        return FakeCall(self, request)


class FakeCall:
    def __init__(self, triton: FakeTriton, request: pb.ModelInferRequest) -> None:
        self.triton, self.request = triton, request

    def result(self) -> pb.ModelInferResponse:
        self.triton.flying -= 1
        return self.triton.infer(self.request)

    def cancel(self) -> None:
        self.triton.flying -= 1


class Clock:
    """Time that passes only when somebody sleeps (or a test says so)."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client_of(triton: FakeTriton, clock: Clock | None = None, **options: Any) -> TritonClient:
    clock = clock or Clock()
    return TritonClient(
        "shop:8001", channel=triton, clock=clock, sleep=clock.sleep, uniform=lambda: 0.5, **{"window": 3, **options}
    )


def products(count: int, images: int = 1) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Products whose first token id is their row number + 1."""
    ids = np.full((count, 6), -1, np.int32)
    ids[:, 0] = np.arange(1, count + 1)
    lengths = np.zeros((count, 12), np.int32)
    lengths[:, 0] = 1
    return [np.full((images, 256), 0.0625, np.float32)] * count, ids, lengths


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (S.INVALID_ARGUMENT, "images hold NaN or infinity", Failure.REJECTED),
        (S.UNAVAILABLE, "failed to connect to all addresses", Failure.TRANSIENT),
        (S.UNAVAILABLE, "Exceeds maximum queue size", Failure.TRANSIENT),
        (S.DEADLINE_EXCEEDED, "Deadline Exceeded", Failure.TRANSIENT),
        (S.INTERNAL, "Failed to increase the shared memory pool size", Failure.TRANSIENT),
        (S.INTERNAL, "Stub process 'itemsage_0_0' is not healthy.", Failure.DEAD),
        (S.NOT_FOUND, "Request for unknown model: 'itemsage' version 7 is not found", Failure.MISSING),
        (S.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-key'", Failure.FATAL),
        (S.UNAUTHENTICATED, "", Failure.FATAL),
        (S.UNIMPLEMENTED, "", Failure.FATAL),
    ],
)
def test_every_failure_is_met_by_its_kind(code: grpc.StatusCode, details: str, expected: Failure) -> None:
    assert classify(code, details) is expected


def test_a_request_on_the_wire_is_the_protobuf_message_that_triton_expects() -> None:
    tensors = {"images": np.arange(600, dtype=np.float16).reshape(1, 300, 2), "image_counts": np.array([[3]], np.int32)}
    request = pb.ModelInferRequest.FromString(encode_request("itemsage", "4", tensors))
    assert (request.model_name, request.model_version) == ("itemsage", "4")
    assert [t.datatype for t in request.inputs] == ["FP16", "INT32"]
    for name, array in arrays(request).items():
        np.testing.assert_array_equal(array, tensors[name])


def test_buckets_hold_every_row_once_alike_counts_together_and_no_crumbs() -> None:
    counts = np.random.default_rng(0).integers(0, 21, 700).astype(np.int32)
    groups = list(bucketed(counts, 256))
    assert sorted(np.concatenate(groups).tolist()) == list(range(700))
    assert all(len(group) <= 256 for group in groups)
    assert all(len(group) >= 32 for group in groups[:-1])
    slots = sum(len(group) * max(1, counts[group].max()) for group in groups)
    assert slots < 1.25 * counts.sum()


def test_few_products_are_one_request_whatever_their_images() -> None:
    assert len(list(bucketed(np.array([0, 1, 20, 5], np.int32), 256))) == 1
    assert list(bucketed(np.array([], np.int32), 256)) == []


def test_among_products_with_as_many_images_those_of_alike_length_stand_together() -> None:
    rng = np.random.default_rng(0)
    counts, tokens = rng.integers(0, 3, 1_000).astype(np.int32), rng.integers(1, 600, 1_000).astype(np.int32)
    groups = list(bucketed(counts, 64, tokens))
    assert sorted(np.concatenate(groups)) == list(range(1_000))
    assert all((np.diff(tokens[g][counts[g] == n]) >= 0).all() for g in groups for n in range(3))

    def padded(groups: list[np.ndarray]) -> int:
        return sum(len(g) * int(tokens[g].max()) for g in groups)

    assert padded(groups) < 0.7 * padded(list(bucketed(counts, 64)))


def test_ragged_products_get_their_own_answers_in_the_order_they_came_in() -> None:
    rng = np.random.default_rng(1)
    triton = FakeTriton(lambda request: answer(request, first_id))
    _, ids, lengths = products(300)
    images = [rng.normal(size=(n, 256)).astype(np.float32) for n in rng.integers(0, 21, 300)]
    result = client_of(triton).embed(images, ids, lengths, version="3")
    np.testing.assert_array_equal(result.vectors[:, 0], np.arange(1, 301))
    assert result.rejected == {}
    assert result.model_version == "3"
    assert triton.most_flying == 3, "window"
    for request in triton.requests:
        tensors = arrays(request)
        assert tensors["token_ids"].shape[1] == 1, "padding of other products is not sent"
        for row, count in enumerate(tensors["image_counts"][:, 0]):
            product = images[tensors["token_ids"][row, 0] - 1]
            assert count == len(product)
            np.testing.assert_array_equal(tensors["images"][row, :count], product.astype(np.float16))
            assert not tensors["images"][row, count:].any()


@pytest.mark.parametrize("guilty", [{0}, {255}, {17, 18}, set(range(100, 120))])
def test_bisection_rejects_the_guilty_products_and_no_other(guilty: set[int]) -> None:
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


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.full((2, 256), np.nan, np.float32), "NaN"),
        (np.full((1, 256), 1e6, np.float32), "65504"),
        (np.ones((21, 256), np.float32), r"\[21, 256\]"),
        (np.ones((2, 128), np.float32), r"\[2, 128\]"),
        (np.ones(256, np.float32), r"\[256\]"),
    ],
)
def test_vectors_that_cannot_be_sent_are_rejected_alone_before_sending(vectors: np.ndarray, reason: str) -> None:
    triton = FakeTriton(lambda request: answer(request, first_id))
    images, ids, lengths = products(4)
    images[2] = vectors
    result = client_of(triton).embed(images, ids, lengths, version="1")
    assert list(result.rejected) == [2]
    assert re.search(reason, result.rejected[2])
    assert [arrays(r)["token_ids"][:, 0].tolist() for r in triton.requests] == [[1, 2, 4]]
    np.testing.assert_array_equal(result.vectors[[0, 1, 3], 0], [1, 2, 4])


def test_a_batch_of_nothing_but_poison_sends_nothing() -> None:
    triton = FakeTriton(lambda request: answer(request, first_id))
    _, ids, lengths = products(2)
    result = client_of(triton).embed([np.full((1, 256), np.nan)] * 2, ids, lengths, version="1")
    assert sorted(result.rejected) == [0, 1]
    assert triton.requests == []


def test_what_passes_is_retried_with_growing_jittered_pauses() -> None:
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


def test_a_fatal_failure_raises_at_once_and_cancels_the_rest() -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        raise RpcFailure(S.PERMISSION_DENIED, "no")

    clock = Clock()
    triton = FakeTriton(infer)
    with pytest.raises(ServingError, match="PERMISSION_DENIED") as caught:
        client_of(triton, clock, batch=1).embed(*products(9), version="1")
    assert not isinstance(caught.value, Unavailable)
    assert clock.slept == []
    assert triton.flying == 0


def test_a_model_that_is_not_loaded_gets_a_moment_then_a_clear_error() -> None:
    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        raise RpcFailure(S.NOT_FOUND, "unknown model: 'itemsage' version 7 is not found")

    clock = Clock()
    with pytest.raises(ServingError, match=r"version 7 is not served.*load it first"):
        client_of(FakeTriton(infer), clock).embed(*products(1), version="7")
    assert 10 <= clock.now - 100 < 15


def test_a_dead_process_is_healed_once_for_all_requests_that_it_failed() -> None:
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


def test_a_process_that_cannot_be_healed_ends_in_unavailable() -> None:
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


def test_images_go_in_small_batches_and_come_back_in_order() -> None:
    def brightness(tensors: dict[str, np.ndarray]) -> np.ndarray:
        return np.repeat(tensors["pixels"][:, 0, 0, :1], 256, axis=1)

    triton = FakeTriton(lambda request: answer(request, brightness))
    pixels = np.zeros((37, 224, 224, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(37)
    vectors, rejected = client_of(triton).encode_images(pixels)
    np.testing.assert_array_equal(vectors[:, 0], np.arange(37))
    assert rejected == {}
    assert {request.model_name for request in triton.requests} == {"visual_encoder"}
    assert max(request.inputs[0].shape[0] for request in triton.requests) <= 32


@pytest.mark.parametrize("pixels", [np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8)])
def test_pixels_of_another_shape_or_type_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="must be uint8"):
        client_of(FakeTriton(lambda request: answer(request, first_id))).encode_images(pixels)


def test_inputs_that_do_not_describe_the_same_products_are_refused() -> None:
    client = client_of(FakeTriton(lambda request: answer(request, first_id)))
    images, ids, lengths = products(3)
    with pytest.raises(InputError, match="equally many"):
        client.embed(images[:2], ids, lengths, version="1")
    with pytest.raises(InputError, match="int64"):
        client.embed(images, ids.astype(np.int64), lengths, version="1")


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 257}, {"window": 0}, {"deadline_s": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        TritonClient("shop:8001", **options)


def test_the_embedder_pairs_tokenizer_and_version_of_the_live_release_and_follows_it(tmp_path: Any) -> None:
    triton = FakeTriton(lambda request: answer(request, first_id))
    for version, corpus in (("1", "red shoe"), ("2", "a red red shoe")):
        (tmp_path / "itemsage" / version).mkdir(parents=True)
        Tokenizer.fit([{"title": corpus}]).save(tmp_path / "itemsage" / version / "tokenizer.json")
    with pytest.raises(ArtifactError, match="no live release"):
        ItemEmbedder(client_of(triton), tmp_path)
    live = tmp_path / "itemsage" / "LIVE"
    live.write_text("1\n")
    embedder = ItemEmbedder(client_of(triton), tmp_path)
    product = ProductInput("p", {"title": "shoe"}, np.zeros((0, 256), np.float32))
    assert (
        embedder.embed_products([product]).vectors[0, 0]
        == Tokenizer.load(live.parent / "1/tokenizer.json").ids("shoe")[0]
    )
    assert not embedder.refresh()

    live.write_text("2\n")
    assert embedder.refresh()
    result = embedder.embed_products([product])
    assert result.model_version == embedder.model_version == triton.requests[-1].model_version == "2"
    assert result.vectors[0, 0] == Tokenizer.load(live.parent / "2/tokenizer.json").ids("shoe")[0]

    live.write_text("3\n")
    with pytest.raises(ArtifactError, match="cannot be read"):
        embedder.refresh()
    assert embedder.model_version == "2", "a release that cannot be read does not displace the one in use"


def test_a_server_that_answers_nothing_is_let_alone_and_asked_again_later() -> None:
    """Calls fail at once while the circuit is open; the first that finds the server back goes through."""
    clock, down = Clock(), True

    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        if down:
            raise RpcFailure(S.UNAVAILABLE, "connection refused")
        return answer(request, first_id)

    triton = FakeTriton(infer)
    client = client_of(triton, clock, breaker=CircuitBreaker(failures=5, pause_s=2.0, clock=clock))
    with pytest.raises(Unavailable, match=r"version 1 gave no answer: 5 requests in a row were not served, .*refused"):
        client.embed(*products(2), version="1")
    assert len(triton.requests) == 5
    for _ in range(10):
        with pytest.raises(Unavailable, match="is not asked: 5 requests in a row"):
            client.embed(*products(2), version="1")
    assert len(triton.requests) == 5, "nothing was sent"
    clock.now += 2
    with pytest.raises(Unavailable):
        client.embed(*products(2), version="1")
    assert len(triton.requests) == 6, "one probe"
    down = False
    clock.now += 2
    found = client.embed(*products(600), version="1")
    assert found.rejected == {}, "what takes several requests gets through too: the first of them is the probe"
    assert not np.isnan(found.vectors).any()
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
