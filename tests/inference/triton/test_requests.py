"""Encoded requests and their tensors."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from inference.triton.requests import Chunk, encode_request, image_chunks, product_chunk
from tests.inference.triton.fakes import arrays


def test_an_encoded_request_is_the_protobuf_message_that_triton_expects() -> None:
    tensors = {"images": np.arange(600, dtype=np.float16).reshape(1, 300, 2), "image_counts": np.array([[3]], np.int32)}
    request = pb.ModelInferRequest.FromString(encode_request("itemsage", "4", tensors))
    assert (request.model_name, request.model_version) == ("itemsage", "4")
    assert [t.datatype for t in request.inputs] == ["FP16", "INT32"]
    for name, array in arrays(request).items():
        np.testing.assert_array_equal(array, tensors[name])


def test_halves_keep_rows_and_tensors_together() -> None:
    first, second = Chunk(np.array([4, 7, 9]), {"token_ids": np.array([[1], [2], [3]])}).halves()
    assert (first.rows.tolist(), first.tensors["token_ids"].tolist()) == ([4], [[1]])
    assert (second.rows.tolist(), second.tensors["token_ids"].tolist()) == ([7, 9], [[2], [3]])


def test_a_product_that_float16_cannot_hold_is_left_out_with_its_reason() -> None:
    images = [np.ones((n, 256), np.float32) for n in (1, 3, 0)]
    images[0][0, 5] = 70_000
    ids, lengths = np.array([[1, 1], [2, -1], [3, -1]], np.int32), np.zeros((3, 12), np.int32)
    lengths[:, 0] = [2, 1, 1]
    rejected: dict[int, str] = {}
    chunk = product_chunk(np.array([2, 0, 1]), images, ids, lengths, rejected)
    assert rejected == {0: "image vectors contain NaN, infinity or numbers above 65504"}
    assert chunk.rows.tolist() == [2, 1]
    assert chunk.tensors["images"].shape == (2, 3, 256)
    assert chunk.tensors["image_counts"].tolist() == [[0], [3]]
    assert chunk.tensors["token_ids"].tolist() == [[3], [2]], "no more padding than the remaining products need"


def test_image_requests_cover_all_pixels_in_order() -> None:
    pixels = np.zeros((37, 224, 224, 3), np.uint8)
    chunks = list(image_chunks(pixels))
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == list(range(37))
    assert [len(chunk.tensors["pixels"]) for chunk in chunks] == [len(chunk.rows) for chunk in chunks]
