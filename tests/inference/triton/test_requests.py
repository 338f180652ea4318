"""Encoded requests and their tensors."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from inference.triton.requests import encode_request
from tests.inference.triton.fakes import arrays


def test_a_request_on_the_wire_is_the_protobuf_message_that_triton_expects() -> None:
    tensors = {"images": np.arange(600, dtype=np.float16).reshape(1, 300, 2), "image_counts": np.array([[3]], np.int32)}
    request = pb.ModelInferRequest.FromString(encode_request("itemsage", "4", tensors))
    assert (request.model_name, request.model_version) == ("itemsage", "4")
    assert [t.datatype for t in request.inputs] == ["FP16", "INT32"]
    for name, array in arrays(request).items():
        np.testing.assert_array_equal(array, tensors[name])
