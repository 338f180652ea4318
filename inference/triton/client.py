"""`TritonClient`: embeds products and images on a Triton server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from inference.arrays import AnyArray, Float32Array, FloatArray, Int32Array, UInt8Array
from inference.errors import InputError, ServingError, Unavailable
from inference.inputs import MAX_IMAGES, VECTOR_DIM
from inference.releases.probes import load_probe
from inference.releases.repository import ITEMSAGE, VISUAL_ENCODER
from inference.triton.batching import group_by_size
from inference.triton.channel import Tls, open_channel
from inference.triton.circuit import CircuitBreaker
from inference.triton.dispatch import Dispatcher, Job, Limits, Timing, first_line
from inference.triton.requests import image_chunks, product_chunk

MAX_BATCH = 256  # as in itemsage/config.pbtxt
_IMAGE_SHAPE = (224, 224, 3)
_PROBE_COSINE = 0.999
_VISUAL_PROBE_COSINE = 0.995  # the server may compute the convolutional network in bfloat16
_LOAD_TIMEOUT_S = 180.0  # loading a model imports torch, which is slow on a busy machine


class Embedded(NamedTuple):
    """The embeddings of a batch of products."""

    vectors: Float32Array  # [B, 256], unit length; NaN in rejected rows
    rejected: dict[int, str]  # row -> reason
    model_version: str


class TritonClient:
    """Embeds products and images on a Triton server. Threads may share a client.

    Args:
        url: `host:port` of Triton's gRPC interface.
        deadline_s: Seconds until one request times out.
        window: Number of requests in flight in one call.
        max_elapsed_s: Seconds for which a request is retried before the call raises `Unavailable`.
        batch: Largest number of products in one request, at most 256.
        heal: Replaces the dead process of a model, by the model's name. By default the client unloads and loads it.
        breaker: Makes calls fail at once while the server does not answer; for callers that try again themselves.
            Without it, each call waits for its own time limit.
        tls: How to encrypt the connection; None leaves it unencrypted.
        channel: gRPC channel, for tests.
        clock: Returns the time in seconds, for tests.
        sleep: Waits for a number of seconds, for tests.
        uniform: Returns a random number from 0 to 1, for tests.

    Attributes:
        url: `host:port` of Triton's gRPC interface.
        dispatcher: Sends the requests, including requests that the caller built.

    Raises:
        InputError: If an option is out of range.
        ServingError: See `open_channel`.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = 10.0,
        window: int = 3,
        max_elapsed_s: float = 60.0,
        batch: int = MAX_BATCH,
        heal: Callable[[str], None] | None = None,
        breaker: CircuitBreaker | None = None,
        tls: Tls | None = None,
        channel: grpc.Channel | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        if not 1 <= batch <= MAX_BATCH:
            raise InputError(f"batch ({batch}) must be between 1 and {MAX_BATCH}")
        if window < 1 or deadline_s <= 0 or max_elapsed_s <= 0:
            raise InputError(
                f"window ({window}), deadline_s ({deadline_s}) and max_elapsed_s ({max_elapsed_s}) must be > 0"
            )
        self.url = url
        self._deadline_s, self._batch = deadline_s, batch
        self._channel = channel or open_channel(url, tls)
        infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=None,  # `encode_request` has already encoded it
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        limits = Limits(deadline_s, max_elapsed_s, window)
        self.dispatcher = Dispatcher(url, infer, heal or self._reload, limits, breaker, Timing(clock, sleep, uniform))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and cancel all requests in flight."""
        self._channel.close()

    def embed(
        self, images: Sequence[FloatArray], token_ids: Int32Array, field_lengths: Int32Array, *, version: str
    ) -> Embedded:
        """Embed `B` products with one release of ItemSage.

        Args:
            images: The image vectors of each product, `[n <= 20, 256]`.
            token_ids: `[B, T]` int32, as `Tokenizer.encode` returns them.
            field_lengths: `[B, 12]` int32, as `Tokenizer.encode` returns them.
            version: The release whose tokenizer made the ids.

        Raises:
            InputError: If the three arguments do not describe the same `B` products.
            Unavailable: If there is no answer within `max_elapsed_s`, or the circuit breaker is open.
            ServingError: If Triton refuses for a reason other than the products.
        """
        _check_batch(images, token_ids, field_lengths)
        job = Job.of(ITEMSAGE, version, len(images))
        for row, vectors in enumerate(images):
            if vectors.ndim != 2 or vectors.shape[1] != VECTOR_DIM or len(vectors) > MAX_IMAGES:
                job.rejected[row] = (
                    f"image vectors have shape {list(vectors.shape)}, must be [n <= {MAX_IMAGES}, {VECTOR_DIM}]"
                )
        accepted = np.array([row for row in range(len(images)) if row not in job.rejected], np.int64)
        counts = np.array([len(images[row]) for row in accepted], np.int32)
        tokens = field_lengths[accepted].sum(1)
        groups = (accepted[group] for group in group_by_size(counts, self._batch, tokens))
        self.dispatcher.run(
            job, (product_chunk(rows, images, token_ids, field_lengths, job.rejected) for rows in groups)
        )
        return Embedded(job.vectors, dict(sorted(job.rejected.items())), version)

    def encode_images(self, pixels: UInt8Array) -> tuple[Float32Array, dict[int, str]]:
        """Encode images with the visual encoder.

        Args:
            pixels: `[N, 224, 224, 3]` uint8 RGB.

        Returns:
            The unit vectors `[N, 256]` float32, NaN in rejected rows, and the reason for each rejected row.

        Raises:
            InputError: If `pixels` has another shape or type.
            Unavailable: As for `embed`.
            ServingError: As for `embed`.
        """
        if pixels.shape[1:] != _IMAGE_SHAPE or pixels.dtype != np.uint8:
            raise InputError(f"pixels are {pixels.dtype} {list(pixels.shape)}, must be uint8 [N, 224, 224, 3]")
        job = Job.of(VISUAL_ENCODER, "", len(pixels))
        self.dispatcher.run(job, image_chunks(pixels))
        return job.vectors, job.rejected

    def probe(self, known: Path | Mapping[str, AnyArray], version: str = "") -> float:
        """Send a model the inputs of its known-answer probe and compare the answers.

        Args:
            known: The folder of a release or of the visual encoder, or the arrays of its `probe.safetensors`.
            version: The version of the release; empty for the visual encoder.

        Returns:
            The smallest cosine between an answer and the known answer.

        Raises:
            ServingError: If the answers differ: the server has other weights, or corrupts tensors.
            ArtifactError: If the folder has no readable probe.
        """
        arrays = load_probe(known) if isinstance(known, Path) else known
        if "pixels" in arrays:
            model, expected, least = VISUAL_ENCODER, arrays["image_embedding"], _VISUAL_PROBE_COSINE
            vectors, rejected = self.encode_images(arrays["pixels"])
        else:
            model, expected, least = ITEMSAGE, arrays["item_embedding"], _PROBE_COSINE
            images = [v[:n] for v, n in zip(arrays["images"], arrays["image_counts"], strict=True)]
            vectors, rejected, _ = self.embed(images, arrays["token_ids"], arrays["field_lengths"], version=version)
        target = self.dispatcher.describe(model, version)
        if rejected:
            raise ServingError(f"{target} rejects its own known-answer probe: {next(iter(rejected.values()))}")
        worst = float((vectors * expected).sum(1).min())
        if not worst >= least:
            raise ServingError(
                f"{target} answers its known-answer probe with cosine {worst:.5f}, must be >= {least}: it has other "
                "weights, or computes wrongly with them"
            )
        return worst

    def server_ready(self) -> bool:
        """Return whether the server answers and reports ready. A release that failed to load makes it not ready."""
        try:
            return bool(self._stub.ServerReady(pb.ServerReadyRequest(), timeout=self._deadline_s).ready)
        except grpc.RpcError:
            return False

    def model_ready(self, name: str, version: str = "") -> bool:
        """Return whether Triton reports the model ready.

        Triton reports a model ready even if its process died; only `probe` notices that.
        """
        request = pb.ModelReadyRequest(name=name, version=version)
        try:
            return bool(self._stub.ModelReady(request, timeout=self._deadline_s).ready)
        except grpc.RpcError:
            return False

    def load(self, name: str) -> None:
        """Load a model, or the changes in its folder. Triton keeps answering requests during the load.

        Raises:
            ServingError: If Triton refuses, with its reason. It keeps serving the versions that it served before.
        """
        request = pb.RepositoryModelLoadRequest(model_name=name)
        self._administer("load", name, lambda: self._stub.RepositoryModelLoad(request, timeout=_LOAD_TIMEOUT_S))

    def unload(self, name: str) -> None:
        """Stop serving all versions of a model.

        Raises:
            ServingError: If Triton refuses, with its reason.
        """
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        self._administer("unload", name, lambda: self._stub.RepositoryModelUnload(request, timeout=_LOAD_TIMEOUT_S))

    def _administer(self, verb: str, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except grpc.RpcError as error:
            kind = Unavailable if error.code() is grpc.StatusCode.UNAVAILABLE else ServingError
            raise kind(f"{self.dispatcher.describe(name)} cannot be {verb}ed: {first_line(error)}") from None

    def _reload(self, name: str) -> None:
        self.unload(name)  # loading alone has no effect: Triton believes that the dead process is alive
        self.load(name)


def _check_batch(images: Sequence[FloatArray], token_ids: Int32Array, field_lengths: Int32Array) -> None:
    if not len(images) == len(token_ids) == len(field_lengths):
        raise InputError(
            f"images of {len(images)} products, {len(token_ids)} rows of token_ids and {len(field_lengths)} rows of "
            "field_lengths: all three must have the same length"
        )
    if token_ids.dtype != np.int32 or field_lengths.dtype != np.int32:
        raise InputError(f"token_ids ({token_ids.dtype}) and field_lengths ({field_lengths.dtype}) must be int32")
