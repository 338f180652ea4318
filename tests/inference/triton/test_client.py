"""The Triton client without a server: its requests, answers and checks."""

from __future__ import annotations

import re
from typing import Any

import grpc
import numpy as np
import pytest

from inference.errors import InputError
from inference.triton.client import TritonClient
from tests.inference.triton.fakes import FakeTriton, answer, arrays, client_of, first_id, products

S = grpc.StatusCode
TYPES = {"FP16": np.float16, "INT32": np.int32, "UINT8": np.uint8}


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


def test_a_batch_with_bad_products_only_sends_nothing() -> None:
    triton = FakeTriton(lambda request: answer(request, first_id))
    _, ids, lengths = products(2)
    result = client_of(triton).embed([np.full((1, 256), np.nan)] * 2, ids, lengths, version="1")
    assert sorted(result.rejected) == [0, 1]
    assert triton.requests == []


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
    with pytest.raises(InputError, match="must have the same length"):
        client.embed(images[:2], ids, lengths, version="1")
    with pytest.raises(InputError, match="int64"):
        client.embed(images, ids.astype(np.int64), lengths, version="1")


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 257}, {"window": 0}, {"deadline_s": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        TritonClient("shop:8001", **options)
