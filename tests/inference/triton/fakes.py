"""Fakes for the tests of the Triton client: a channel, its calls, a clock, and products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from inference.triton.client import TritonClient

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
    """A 'model' whose vector repeats the product's first token id, which identifies the product."""
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
    """Time that passes only when the client sleeps or a test advances it."""

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
