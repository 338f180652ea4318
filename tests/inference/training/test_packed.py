"""The training set: packed products against the products, and which engagements count."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import InputError
from inference.inputs import TEXT_FIELDS, ProductInput, stack_images
from inference.tokenizer import Tokenizer
from inference.training.packed import PackedProducts, sum_images
from tests.inference.builders import catalogue, unit


@pytest.fixture(scope="module")
def products() -> list[ProductInput]:
    rng = np.random.default_rng(3)
    return [
        *catalogue(2),
        ProductInput("bare", {}, np.zeros((0, 256), np.float32)),
        ProductInput("pictures", {}, unit(rng, 20)),
        ProductInput("words", {name: f"red {name}" for name in TEXT_FIELDS}, np.zeros((0, 256), np.float32)),
    ]


@pytest.fixture(scope="module")
def tokenizer(products: list[ProductInput]) -> Tokenizer:
    return Tokenizer.fit([p.text for p in products])


@pytest.fixture(scope="module")
def packed(products: list[ProductInput], tokenizer: Tokenizer) -> PackedProducts:
    return PackedProducts(products, tokenizer)


@pytest.mark.parametrize("rows", [[0], [12, 11, 10], [10], [4, 4, 11, 0, 12, 10]])
def test_a_batch_equals_the_tensors_that_serving_sends(
    products: list[ProductInput], tokenizer: Tokenizer, packed: PackedProducts, rows: list[int]
) -> None:
    images, counts = stack_images([products[r].images for r in rows])
    tokens, lengths = tokenizer.encode([products[r].text for r in rows])
    got = packed.batch(np.array(rows))
    np.testing.assert_array_equal(got[0].numpy(), images)
    np.testing.assert_array_equal(got[1].numpy(), counts)
    used = np.arange(tokens.shape[1]) < lengths.sum(1, keepdims=True)
    assert got[2].shape == tokens.shape
    np.testing.assert_array_equal(got[2].numpy()[used], tokens[used])
    np.testing.assert_array_equal(got[3].numpy(), lengths)


def test_a_modality_can_be_left_out(packed: PackedProducts) -> None:
    _, counts, _, lengths = packed.batch(np.arange(3), images=False)
    assert not counts.any()
    assert lengths.any()
    _, counts, _, lengths = packed.batch(np.arange(3), text=False)
    assert counts.all()
    assert not lengths.any()


def test_main_images_are_the_first_ones(products: list[ProductInput], packed: PackedProducts) -> None:
    main, has = packed.main_images()
    assert has.tolist() == [len(p.images) > 0 for p in products]
    for row, product in enumerate(products):
        np.testing.assert_array_equal(main[row], product.images[0] if has[row] else np.zeros(256))


def test_the_sum_baseline_is_the_unit_length_sum_of_the_images(
    products: list[ProductInput], packed: PackedProducts
) -> None:
    got = packed.summed_images()
    assert got.dtype == np.float32
    for row, product in enumerate(products):
        total = product.images.astype(np.float64).sum(0)
        expected = total / np.linalg.norm(total) if len(product.images) else np.zeros(256)
        np.testing.assert_allclose(got[row], expected, atol=1e-6)
    assert sum_images([]).shape == (0, 256)


def test_a_doubled_id_and_broken_images_are_named(tokenizer: Tokenizer) -> None:
    lamp = ProductInput("lamp", {}, np.zeros((0, 256), np.float32))
    with pytest.raises(InputError, match="'lamp' occurs twice"):
        PackedProducts([lamp, lamp], tokenizer)
    with pytest.raises(InputError, match="product 'boot' hold NaN"):
        PackedProducts([lamp, ProductInput("boot", {}, np.full((1, 256), np.nan, np.float32))], tokenizer)
