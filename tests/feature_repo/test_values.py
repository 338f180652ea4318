"""The fast path over bytes equals Feast's own serializer and converters."""

from __future__ import annotations

import numpy as np
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, RepeatedValue, Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.types import Array, Float32, Int64, String

from feature_repo import values


@pytest.mark.parametrize("dim", [1, 2, 31, 32, 256, 4096])
def test_vector_bytes_equal_those_of_feasts_converter(dim: int) -> None:
    vector = np.random.default_rng(dim).normal(size=dim).astype(np.float32)
    (expected,) = python_values_to_proto_values([vector.tolist()], Array(Float32).to_value_type())
    blob = values.encode_vector(vector)
    assert blob == expected.SerializeToString()
    assert np.array_equal(values.decode_vector(blob, dim), vector)


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 20])
def test_image_vector_bytes_equal_those_of_feasts_message_in_float32(n: int) -> None:
    vectors = np.random.default_rng(n).normal(size=(n, 256)).astype(np.float32)
    rows = [Value(float_list_val=FloatList(val=row.tolist())) for row in vectors]
    expected = Value(list_val=RepeatedValue(val=rows))
    blob = values.encode_vectors(vectors)
    assert blob == expected.SerializeToString()
    assert np.array_equal(values.decode_vectors(blob), vectors)
    assert feast_value_type_to_python_type(Value.FromString(blob)) == vectors.tolist()


def test_vectors_that_feast_converted_to_doubles_are_read_too() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)
    (value,) = python_values_to_proto_values([vectors.tolist()], Array(Array(Float32)).to_value_type())
    assert np.array_equal(values.decode_vectors(value.SerializeToString()), vectors)


def test_vectors_not_in_memory_order_are_encoded_by_their_values() -> None:
    vectors = np.asfortranarray(np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32))
    assert np.array_equal(values.decode_vectors(values.encode_vectors(vectors)), vectors)
    assert np.array_equal(values.decode_vector(values.encode_vector(vectors[:, 0]), 3), vectors[:, 0])


@pytest.mark.parametrize("text", ["", "plain", "Größe ✓ 靴", "nul \0 inside", "x" * 20_000])
def test_text_round_trips(text: str) -> None:
    (expected,) = python_values_to_proto_values([text], String.to_value_type())
    assert values.encode_string(text) == expected.SerializeToString()
    assert values.decode_string(values.encode_string(text)) == text


def test_lists_of_text_equal_those_of_feasts_converter() -> None:
    (expected,) = python_values_to_proto_values([["a", "", "ü"]], Array(String).to_value_type())
    assert values.encode_strings(["a", "", "ü"]) == expected.SerializeToString()
    assert values.decode_strings(values.encode_strings(["a", "", "ü"])) == ["a", "", "ü"]


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, -5, 2**62])
def test_numbers_equal_those_of_feasts_converter(number: int) -> None:
    (expected,) = python_values_to_proto_values([number], Int64.to_value_type())
    assert values.encode_optional_int(number) == expected.SerializeToString()
    assert values.decode_optional_int(values.encode_optional_int(number)) == number


def test_null_is_neither_zero_nor_empty() -> None:
    assert values.decode_optional_int(values.encode_optional_int(None)) is None
    assert values.decode_optional_string(values.encode_optional_string(None)) is None
    assert values.decode_optional_string(values.encode_optional_string("")) == ""


@pytest.mark.parametrize("product_id", ["a", "sku-1", "靴", "x" * 300, "nul\0", "42"])
def test_entity_keys_equal_feasts(product_id: str) -> None:
    key = EntityKey(join_keys=["product_id"], entity_values=[Value(string_val=product_id)])
    assert values.encode_key(product_id) == serialize_entity_key(key, entity_key_serialization_version=3)
    assert values.decode_key(values.encode_key(product_id)) == product_id


def test_a_vector_read_back_lies_aligned_as_compiled_readers_need_it() -> None:
    """A search index in C refuses a view into the middle of the serialized bytes."""
    assert values.decode_vector(values.encode_vector(np.ones(256, np.float32))).flags.aligned
    assert values.decode_vectors(values.encode_vectors(np.ones((3, 256), np.float32))).flags.aligned


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 16_382, 16_383, 16_384, 70_000])
@pytest.mark.parametrize("letter", ["a", "ü", "靴"])
def test_texts_of_any_length_are_the_bytes_that_feast_writes(size: int, letter: str) -> None:
    text = letter * (size // len(letter.encode())) + "x" * (size % len(letter.encode()))
    blob = values.encode_string(text)
    assert blob == Value(string_val=text).SerializeToString()
    assert values.decode_string(blob) == values.decode_optional_string(blob) == text
