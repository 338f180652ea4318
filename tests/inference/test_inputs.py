"""Products as the model takes them: what is refused, and what counts as a change."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import InputError
from inference.inputs import MAX_IMAGES, TEXT_FIELDS, VECTOR_DIM, check_images, content_hash, stack_images


def images(count: int, value: float = 1.0) -> np.ndarray:
    return np.full((count, VECTOR_DIM), value, np.float32)


def test_ragged_images_are_padded_with_zeros_to_the_longest() -> None:
    stacked, counts = stack_images([images(2, 5.0), images(0), images(1, 7.0)])
    assert stacked.shape == (3, 2, VECTOR_DIM)
    assert stacked.dtype == np.float32
    assert counts.tolist() == [2, 0, 1]
    assert stacked[:, :, 0].tolist() == [[5.0, 5.0], [0.0, 0.0], [7.0, 0.0]]


def test_a_batch_without_any_image_keeps_one_empty_slot_and_no_batch_is_fine_too() -> None:
    assert stack_images([images(0), images(0)])[0].shape == (2, 1, VECTOR_DIM)
    assert stack_images([])[0].shape == (0, 1, VECTOR_DIM)


def test_twenty_images_are_allowed_and_twenty_one_are_not() -> None:
    assert stack_images([images(MAX_IMAGES)])[1].tolist() == [20]
    with pytest.raises(InputError, match="product 1 of the batch has 21 images; at most 20"):
        stack_images([images(1), images(21)])


@pytest.mark.parametrize("shape", [(3, 255), (256,), (0, 5), (1, 256, 1)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"image vectors of lamp have shape .* must be \[n, 256\]"):
        check_images("lamp", np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_and_the_product_named(value: float) -> None:
    bad = images(2)
    bad[1, 200] = value
    with pytest.raises(InputError, match="product 1 of the batch hold NaN or infinity"):
        stack_images([images(1), bad])


def test_the_hash_changes_with_every_input_of_the_model() -> None:
    base = content_hash({"title": "lamp"}, ["a", "b"], "v1")
    others = [
        content_hash({"title": "lamp"}, ["a", "b"], "v2"),
        content_hash({"title": "lamp"}, ["b", "a"], "v1"),
        content_hash({"title": "lamp"}, ["ab"], "v1"),
        content_hash({"title": "lamp"}, [], "v1"),
        *(content_hash({"title": "lamp", name: "x"}, ["a", "b"], "v1") for name in TEXT_FIELDS),
    ]
    assert len({base, *others}) == len(others) + 1


def test_the_hash_does_not_change_with_anything_else() -> None:
    base = content_hash({"title": "lamp", "brand": ""}, ["a"], "v1")
    assert base == content_hash({"price": "9.99", "title": "lamp"}, ["a"], "v1")
    assert base == content_hash({"title": "lamp"}, ("a",), "v1")


def test_text_that_moves_from_one_field_to_the_next_changes_the_hash() -> None:
    assert content_hash({"title": "ab"}, [], "v") != content_hash({"title": "a", "description": "b"}, [], "v")


def test_a_lone_surrogate_can_be_hashed() -> None:
    assert content_hash({"title": "\ud800"}, [], "v") != content_hash({"title": ""}, [], "v")
