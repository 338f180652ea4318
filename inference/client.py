"""The client of the models on Triton: batches in, vectors and the version that made them out.

What it adds to a bare call:
* products are grouped by their number of images, so that hardly an empty image slot is sent or computed;
* a few requests are in flight at once, each written with one copy of its arrays;
* every failure is met by its kind (`classify`): what passes is retried with jittered back-off until time is up, a
  refused batch is halved until the guilty product stands alone, a dead model process is replaced, the rest raises;
* a server that answers nothing at all is let alone for a while, where there is a `CircuitBreaker`;
* every answer is checked: its version, its shape, that its numbers are finite.

A client may be shared by threads.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from inference.channel import Tls, open_channel
from inference.errors import ArtifactError, InputError, ServingError, Unavailable
from inference.failures import CircuitBreaker, Failure, classify, is_silence
from inference.inputs import MAX_IMAGES, VECTOR_DIM, Float32Array, FloatArray, ProductInput
from inference.repository import ITEMSAGE, VISUAL_ENCODER, live_version
from inference.tokenizer import IntArray, Tokenizer

Array = np.ndarray[Any, np.dtype[Any]]

MAX_BATCH = 256  # as in itemsage/config.pbtxt
_IMAGE_BATCH = 16  # of 150 kB each: half a second on two cores, so that three in flight stay far within a deadline
_IMAGE_SHAPE = (224, 224, 3)
_IMAGE_BUCKETS = np.array([1, 2, 4, 8, 12, MAX_IMAGES])
_MIN_BUCKET = 32  # a request costs about 0.6 ms however small: below this many products, padding is cheaper
_PROBE_COSINE = 0.999
_VISUAL_PROBE_COSINE = 0.995  # a convolutional network in bfloat16 against one in float32
_MISSING_GRACE_S = 10.0  # a server that was just restarted knows no model for a moment
_LOAD_TIMEOUT_S = 180.0  # a model that imports torch takes its time on a busy machine
_DATATYPES = {"float16": "FP16", "float32": "FP32", "int32": "INT32", "uint8": "UINT8"}


class Embedded(NamedTuple):
    """`vectors` `[B, 256]` float32, unit length, NaN where `rejected` (row -> reason) has the row."""

    vectors: Float32Array
    rejected: dict[int, str]
    model_version: str


def bucketed(counts: IntArray, batch: int, tokens: IntArray | None = None) -> Iterator[Array]:
    """Row numbers of products with alike numbers of images, at most `batch` together, fewest images first.

    With the products' numbers of `tokens`, those of alike length stand together too: less padding on the wire.
    """
    order = np.argsort(counts, kind="stable") if tokens is None else np.lexsort((tokens, counts))
    buckets = np.searchsorted(_IMAGE_BUCKETS, counts[order])
    start = 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or end - start == batch
        if full or (buckets[end] != buckets[end - 1] and end - start >= _MIN_BUCKET):
            yield order[start:end]
            start = end


def encode_request(model: str, version: str, tensors: Mapping[str, Array]) -> bytes:
    """A `ModelInferRequest` on the wire, each array copied once (tritonclient copies it three times)."""
    head = pb.ModelInferRequest(model_name=model, model_version=version)
    raw: list[bytes | memoryview] = []
    for name, array in tensors.items():
        tensor = head.inputs.add(name=name, datatype=_DATATYPES[array.dtype.name])
        tensor.shape.extend(array.shape)
        # Field 7, raw_input_contents: tag, length, bytes.
        raw += [b"\x3a", _varint(array.nbytes), np.ascontiguousarray(array).data.cast("B")]
    return b"".join([head.SerializeToString(), *raw])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Chunk(NamedTuple):
    """One request's tensors and which rows of the caller's batch they are."""

    rows: Array
    tensors: dict[str, Array]

    def halves(self) -> tuple[_Chunk, _Chunk]:
        middle = len(self.rows) // 2
        first, second = (
            _Chunk(self.rows[part], {name: array[part] for name, array in self.tensors.items()})
            for part in (slice(middle), slice(middle, None))
        )
        return first, second


class _Sent(NamedTuple):
    chunk: _Chunk
    call: Any
    started: float  # of the first attempt
    sent: float  # of this one
    attempt: int


class _Job(NamedTuple):
    """One call of `embed` or `encode_images`: which model, and where the answers go."""

    model: str
    version: str
    vectors: Float32Array
    rejected: dict[int, str]


class TritonClient:
    """Embeds products and images on a Triton server.

    Args:
        url: `host:port` of Triton's gRPC.
        deadline_s: of one request.
        window: requests in flight per call.
        max_elapsed_s: how long a request is retried before `Unavailable`.
        batch: products per request, at most 256.
        heal: brings a model whose process died back; by default unloads and loads it.
        breaker: for a caller who tries again by itself: has calls fail at once while the server answers nothing.
            Without it each call waits out its own time.
        tls: how to speak TLS with it; without, the connection is not encrypted.
        channel, clock, sleep, uniform: the world, for tests.
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
            raise InputError(f"batch ({batch}) must be within 1 and {MAX_BATCH}")
        if window < 1 or deadline_s <= 0 or max_elapsed_s <= 0:
            raise InputError(f"window ({window}), deadline_s ({deadline_s}), max_elapsed_s ({max_elapsed_s}): all > 0")
        self.url = url
        self._deadline_s, self._max_elapsed_s, self._window, self._batch = deadline_s, max_elapsed_s, window, batch
        self._clock, self._sleep, self._uniform = clock, sleep, uniform
        self._channel = channel or open_channel(url, tls)
        self._infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=None,  # encode_request has done it
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._breaker = breaker
        self._heal = heal or self._reload
        self._heal_lock = threading.Lock()
        self._healed: dict[str, float] = {}  # by model: when

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; what is in flight is cancelled."""
        self._channel.close()

    def embed(
        self, images: Sequence[FloatArray], token_ids: IntArray, field_lengths: IntArray, *, version: str
    ) -> Embedded:
        """Embed `B` products with one release of ItemSage.

        Args:
            images: of each product `[n <= 20, 256]`.
            token_ids: `[B, T]` int32, as `Tokenizer.encode` returns them.
            field_lengths: `[B, 12]` int32, likewise.
            version: of the release whose tokenizer made the ids.

        Raises:
            InputError: the three do not describe the same `B` products.
            Unavailable: no answer until time was up, or the breaker is open.
            ServingError: Triton refuses for another reason than the products.
        """
        if not len(images) == len(token_ids) == len(field_lengths):
            raise InputError(
                f"{len(images)} products' images, {len(token_ids)} rows of token_ids and {len(field_lengths)} of "
                "field_lengths: they must be equally many"
            )
        if token_ids.dtype != np.int32 or field_lengths.dtype != np.int32:
            raise InputError(f"token_ids ({token_ids.dtype}) and field_lengths ({field_lengths.dtype}) must be int32")
        job = _Job(ITEMSAGE, version, _nan_rows(len(images)), {})
        for row, vectors in enumerate(images):
            if vectors.ndim != 2 or vectors.shape[1] != VECTOR_DIM or len(vectors) > MAX_IMAGES:
                job.rejected[row] = (
                    f"image vectors have shape {list(vectors.shape)}, must be [n <= {MAX_IMAGES}, {VECTOR_DIM}]"
                )
        accepted = np.array([row for row in range(len(images)) if row not in job.rejected], np.int64)
        counts = np.array([len(images[row]) for row in accepted], np.int32)
        tokens = field_lengths[accepted].sum(1)
        groups = (accepted[group] for group in bucketed(counts, self._batch, tokens))
        self._run(job, (_product_chunk(rows, images, token_ids, field_lengths, job.rejected) for rows in groups))
        return Embedded(job.vectors, dict(sorted(job.rejected.items())), version)

    def encode_images(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[Float32Array, dict[int, str]]:
        """`[N, 224, 224, 3]` uint8 RGB -> `[N, 256]` float32 unit vectors, NaN in rejected rows, and why (by row).

        Raises:
            InputError: another shape or type.
            Unavailable, ServingError: as for `embed`.
        """
        if pixels.shape[1:] != _IMAGE_SHAPE or pixels.dtype != np.uint8:
            raise InputError(f"pixels are {pixels.dtype} {list(pixels.shape)}, must be uint8 [N, 224, 224, 3]")
        job = _Job(VISUAL_ENCODER, "", _nan_rows(len(pixels)), {})
        groups = (np.arange(i, min(i + _IMAGE_BATCH, len(pixels))) for i in range(0, len(pixels), _IMAGE_BATCH))
        self._run(job, (_Chunk(rows, {"pixels": pixels[rows[0] : rows[-1] + 1]}) for rows in groups))
        return job.vectors, job.rejected

    def probe(self, known: Path | Mapping[str, Array], version: str = "") -> float:
        """Ask a model what its release knows the answers to; returns the smallest cosine between the two.

        Args:
            known: the folder of a release or of the visual encoder, or the arrays of its probe.safetensors.
            version: of the release.

        Raises:
            ServingError: the answers differ (other weights, or a server that garbles its tensors).
            ArtifactError: the folder has no readable probe.
        """
        arrays = _load_probe(known) if isinstance(known, Path) else known
        if "pixels" in arrays:
            model, expected, least = VISUAL_ENCODER, arrays["image_embedding"], _VISUAL_PROBE_COSINE
            vectors, rejected = self.encode_images(arrays["pixels"])
        else:
            model, expected, least = ITEMSAGE, arrays["item_embedding"], _PROBE_COSINE
            images = [v[:n] for v, n in zip(arrays["images"], arrays["image_counts"], strict=True)]
            vectors, rejected, _ = self.embed(images, arrays["token_ids"], arrays["field_lengths"], version=version)
        where = self._where(model, version)
        if rejected:
            raise ServingError(f"{where} refuses its own known-answer probe: {next(iter(rejected.values()))}")
        worst = float((vectors * expected).sum(1).min())
        if not worst >= least:
            raise ServingError(
                f"{where} answers its known-answer probe with cosine {worst:.5f}, must be >= {least}: it does not "
                "serve these weights, or not rightly"
            )
        return worst

    def server_ready(self) -> bool:
        """Whether the server answers and calls itself ready (a release that failed to load makes it say no)."""
        try:
            return bool(self._stub.ServerReady(pb.ServerReadyRequest(), timeout=self._deadline_s).ready)
        except grpc.RpcError:
            return False

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether Triton calls the model ready; a model whose process died is still called so (`probe` tells)."""
        request = pb.ModelReadyRequest(name=name, version=version)
        try:
            return bool(self._stub.ModelReady(request, timeout=self._deadline_s).ready)
        except grpc.RpcError:
            return False

    def load(self, name: str) -> None:
        """Load a model, or what changed in it; requests go on meanwhile.

        Raises:
            ServingError: Triton's reason. The versions served before go on being served.
        """
        request = pb.RepositoryModelLoadRequest(model_name=name)
        self._administer("load", name, lambda: self._stub.RepositoryModelLoad(request, timeout=_LOAD_TIMEOUT_S))

    def unload(self, name: str) -> None:
        """Stop serving all versions of a model.

        Raises:
            ServingError: Triton's reason.
        """
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        self._administer("unload", name, lambda: self._stub.RepositoryModelUnload(request, timeout=_LOAD_TIMEOUT_S))

    def _administer(self, verb: str, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except grpc.RpcError as error:
            kind = Unavailable if error.code() is grpc.StatusCode.UNAVAILABLE else ServingError
            raise kind(f"{self._where(name)} cannot be {verb}ed: {_first_line(error)}") from None

    def _reload(self, name: str) -> None:
        self.unload(name)  # loading alone changes nothing: Triton believes that the dead process is there
        self.load(name)

    def _run(self, job: _Job, chunks: Iterable[_Chunk]) -> None:
        """Send all chunks, a window of them at a time, and settle each."""
        flying: deque[_Sent] = deque()
        try:
            for chunk in chunks:
                while flying and len(flying) >= self._room:
                    self._settle(job, flying)
                if len(chunk.rows):
                    flying.append(self._send(job, chunk))
            while flying:
                self._settle(job, flying)
        finally:
            for sent in flying:
                sent.call.cancel()

    @property
    def _room(self) -> int:
        """Requests in flight at once: while it is not known whether the server is back, only the one that finds out."""
        return self._window if self._breaker is None or self._breaker.closed else 1

    def _send(self, job: _Job, chunk: _Chunk, started: float | None = None, attempt: int = 0) -> _Sent:
        if self._breaker is not None and not self._breaker.allows():
            raise Unavailable(f"{self._where(job.model, job.version)} is not asked: {self._breaker.reason}")
        now = self._clock()
        started = now if started is None else started
        # A second at least: after a model was brought back, one more attempt is made even if time is up.
        timeout = min(self._deadline_s, max(1.0, started + self._max_elapsed_s - now))
        body = encode_request(job.model, job.version, chunk.tensors)
        return _Sent(chunk, self._infer.future(body, timeout=timeout), started, now, attempt)

    def _settle(self, job: _Job, flying: deque[_Sent]) -> None:
        """Wait for the oldest request in flight; store its answer, or put back what its failure asks for."""
        sent = flying.popleft()
        try:
            response = sent.call.result()
        except grpc.RpcError as error:
            code, reason = error.code(), _first_line(error)
            failure = classify(code, error.details() or "")
            self._tell_breaker(None if failure is not Failure.TRANSIENT or not is_silence(code) else reason)
        else:
            self._tell_breaker(None)
            self._store(job, sent.chunk.rows, response)
            return
        if failure is Failure.REJECTED:
            if len(sent.chunk.rows) == 1:
                job.rejected[int(sent.chunk.rows[0])] = reason
            else:
                halves = [self._send(job, half, sent.started) for half in sent.chunk.halves()]
                flying.extendleft(reversed(halves))
            return
        elapsed = self._clock() - sent.started
        where = self._where(job.model, job.version)
        if failure is Failure.FATAL:
            raise ServingError(f"{where} fails with {code.name}: {reason}")
        if failure is Failure.MISSING and elapsed >= min(_MISSING_GRACE_S, self._max_elapsed_s):
            raise ServingError(f"{where} is not served: {reason}; load it first")
        if self._breaker is not None and not self._breaker.closed:
            raise Unavailable(f"{where} gave no answer: {self._breaker.reason}")
        if elapsed >= self._max_elapsed_s:
            raise Unavailable(f"{where} gave no answer in {elapsed:.0f} s; last failure: {code.name}: {reason}")
        if failure is Failure.DEAD:
            self._heal_once(job.model, sent.sent)
        self._sleep(min(self._backoff(sent.attempt), max(0.0, self._max_elapsed_s - elapsed)))
        flying.appendleft(self._send(job, sent.chunk, sent.started, sent.attempt + 1))

    def _tell_breaker(self, silence: str | None) -> None:
        """What a request met: None for an answer, of whatever kind."""
        if self._breaker is None:
            return
        if silence is None:
            self._breaker.answered()
        else:
            self._breaker.failed(silence)

    def _store(self, job: _Job, rows: Array, response: Any) -> None:
        where = self._where(job.model, job.version)
        if job.version and response.model_version != job.version:
            raise ServingError(f"{where} answered as version {response.model_version}")
        answer = np.frombuffer(response.raw_output_contents[0], np.float32)
        if answer.size != len(rows) * VECTOR_DIM:
            raise ServingError(f"{where} answered {answer.size} numbers for {len(rows)} rows of {VECTOR_DIM}")
        answer = answer.reshape(len(rows), VECTOR_DIM)
        finite = np.isfinite(answer).all(1)
        if not finite.all():
            for row in rows[~finite]:
                job.rejected[int(row)] = f"{where} answered NaN or infinity"
            rows, answer = rows[finite], answer[finite]
        job.vectors[rows] = answer

    def _heal_once(self, model: str, sent: float) -> None:
        """Bring a dead model back, unless another thread has done so since the failed request was sent."""
        with self._heal_lock:
            if self._healed.get(model, -np.inf) >= sent:
                return
            try:
                self._heal(model)
            except ServingError:
                return  # the request's own time limit decides how often this is tried
            self._healed[model] = self._clock()

    def _backoff(self, attempt: int) -> float:
        """0.05 s, doubled at each attempt up to 2 s, times 0.5 to 1.5: clients that failed together part ways."""
        return float(min(2.0, 0.05 * 2.0 ** min(attempt, 10)) * (0.5 + self._uniform()))

    def _where(self, model: str, version: str = "") -> str:
        return f"Triton at {self.url}, model {model}" + (f" version {version}" if version else "")


class ItemEmbedder:
    """A release's tokenizer and the client, so that ids and weights are always of one training.

    Args:
        version: of the release to use; without it the live one, as of the last `refresh`.

    Raises:
        ArtifactError: the repository has no such release, or its tokenizer cannot be read.
    """

    def __init__(self, client: TritonClient, repo: Path, version: str | None = None) -> None:
        self._client = client
        self._repo = repo
        self._pinned = version
        self._release = self._read()

    @property
    def model_version(self) -> str:
        """Of the release in use."""
        return self._release[0]

    def refresh(self) -> bool:
        """Take over a release that was made live meanwhile; whether there was one.

        Raises:
            ArtifactError: its tokenizer cannot be read; the old release stays in use.
        """
        if self._pinned is not None or live_version(self._repo) == self.model_version:
            return False
        self._release = self._read()
        return True

    def embed_products(self, products: Sequence[ProductInput]) -> Embedded:
        """Embed products with the release in use; see `TritonClient.embed`."""
        version, tokenizer = self._release
        token_ids, field_lengths = tokenizer.encode([product.text for product in products])
        return self._client.embed([p.images for p in products], token_ids, field_lengths, version=version)

    def _read(self) -> tuple[str, Tokenizer]:
        version = self._pinned or live_version(self._repo)
        if version is None:
            raise ArtifactError(f"the model repository {self._repo} has no live release: export one and make it live")
        return version, Tokenizer.load(self._repo / ITEMSAGE / version / "tokenizer.json")


def _product_chunk(
    rows: Array, images: Sequence[FloatArray], token_ids: IntArray, field_lengths: IntArray, rejected: dict[int, str]
) -> _Chunk:
    """The request for some products; those whose vectors float16 cannot hold are rejected here."""
    counts = np.array([len(images[row]) for row in rows], np.int32)
    stacked = np.zeros((len(rows), max(1, int(counts.max(initial=0))), VECTOR_DIM), np.float16)
    with np.errstate(over="ignore", invalid="ignore"):  # found below
        given = np.concatenate([images[row] for row in rows], dtype=np.float16, casting="same_kind")
    stacked[np.arange(stacked.shape[1]) < counts[:, None]] = given
    # NaN and infinity have all five exponent bits set (many times faster than isfinite, which float16 lacks in SIMD).
    magnitudes = stacked.view(np.uint16) & 0x7FFF
    if magnitudes.max() >= 0x7C00:
        bad = (magnitudes >= 0x7C00).any((1, 2))
        for row in rows[bad]:
            rejected[int(row)] = "image vectors hold NaN, infinity or numbers above 65504"
        rows, stacked, counts = rows[~bad], stacked[~bad], counts[~bad]
    lengths = field_lengths[rows]
    width = max(1, int(lengths.sum(1, dtype=np.int64).max(initial=0)))  # of the padding only what is needed
    return _Chunk(
        rows,
        {
            "images": stacked,
            "image_counts": counts[:, None],
            "token_ids": token_ids[rows, :width],
            "field_lengths": lengths,
        },
    )


def _load_probe(folder: Path) -> dict[str, Array]:
    path = folder / "probe.safetensors"
    try:
        return dict(load_file(path))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or 'no such file'}") from None
    except SafetensorError:
        raise ArtifactError(f"{path} is no safetensors file or was cut off; export the model again") from None


def _nan_rows(count: int) -> Float32Array:
    return np.full((count, VECTOR_DIM), np.nan, np.float32)


def _first_line(error: grpc.RpcError) -> str:
    """Triton's message without the Python traceback that may follow."""
    details = (error.details() or error.code().name).removeprefix("[request id: <id_unknown>] ")
    return str(details.split("\n", 1)[0])[:300]
