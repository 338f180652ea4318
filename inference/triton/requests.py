"""Build the tensors of one request and encode them as a `ModelInferRequest`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from inference.arrays import AnyArray, FloatArray, Int32Array, Int64Array, UInt8Array
from inference.inputs import VECTOR_DIM

# One image has 150 kB. 16 images take half a second on two cores, so three requests in flight stay far within a
# deadline.
_IMAGE_BATCH = 16
_DATATYPES = {"float16": "FP16", "float32": "FP32", "int32": "INT32", "uint8": "UINT8"}


class Chunk(NamedTuple):
    """The tensors of one request, and the rows of the caller's batch that they come from."""

    rows: Int64Array
    tensors: dict[str, AnyArray]

    def halves(self) -> tuple[Chunk, Chunk]:
        """Return the first and the second half of the rows, each as a request of its own."""
        middle = len(self.rows) // 2
        first, second = (
            Chunk(self.rows[part], {name: array[part] for name, array in self.tensors.items()})
            for part in (slice(middle), slice(middle, None))
        )
        return first, second


def encode_request(model: str, version: str, tensors: Mapping[str, AnyArray]) -> bytes:
    """Encode a `ModelInferRequest` and copy each array only once (tritonclient copies it three times).

    Args:
        model: Name of the model.
        version: Version of the model; empty for the one that Triton chooses.
        tensors: The inputs by name.
    """
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


def product_chunk(
    rows: Int64Array,
    images: Sequence[FloatArray],
    token_ids: Int32Array,
    field_lengths: Int32Array,
    rejected: dict[int, str],
) -> Chunk:
    """Build the ItemSage request for some rows of a batch.

    Args:
        rows: `[n]`, row numbers into the batch.
        images: The batch's image vectors, `[<= 20, 256]` for each product.
        token_ids: `[B, T]` int32.
        field_lengths: `[B, 12]` int32.
        rejected: Receives the reason, by row, for each product whose vectors float16 cannot represent. The request
            omits these products.
    """
    counts = np.array([len(images[row]) for row in rows], np.int32)
    stacked = np.zeros((len(rows), max(1, int(counts.max(initial=0))), VECTOR_DIM), np.float16)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        vectors = np.concatenate([images[row] for row in rows], dtype=np.float16, casting="same_kind")
    stacked[np.arange(stacked.shape[1]) < counts[:, None]] = vectors
    # NaN and infinity have all five exponent bits set (many times faster than isfinite, which float16 lacks in SIMD).
    magnitudes = stacked.view(np.uint16) & 0x7FFF
    if magnitudes.max() >= 0x7C00:
        bad = (magnitudes >= 0x7C00).any((1, 2))
        for row in rows[bad]:
            rejected[int(row)] = "image vectors contain NaN, infinity or numbers above 65504"
        rows, stacked, counts = rows[~bad], stacked[~bad], counts[~bad]
    lengths = field_lengths[rows]
    width = max(1, int(lengths.sum(1, dtype=np.int64).max(initial=0)))  # send no more padding than these rows need
    return Chunk(
        rows,
        {
            "images": stacked,
            "image_counts": counts[:, None],
            "token_ids": token_ids[rows, :width],
            "field_lengths": lengths,
        },
    )


def image_chunks(pixels: UInt8Array) -> Iterator[Chunk]:
    """Yield the visual encoder's requests for `[N, 224, 224, 3]` pixels."""
    for start in range(0, len(pixels), _IMAGE_BATCH):
        rows = np.arange(start, min(start + _IMAGE_BATCH, len(pixels)))
        yield Chunk(rows, {"pixels": pixels[rows[0] : rows[-1] + 1]})
