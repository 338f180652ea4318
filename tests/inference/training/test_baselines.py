"""The baselines: ItemSage's inputs and outputs, by the simplest means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.inputs import ProductInput
from inference.model import ItemSageConfig
from inference.tokenizer import Tokenizer
from inference.training.encoders import build_encoder
from inference.training.packed import PackedProducts
from tests.inference.builders import catalogue, unit

NAMES = ["itemsage", "sum_mlp", "mlp_concat_mlp"]


@pytest.fixture(scope="module")
def packed() -> PackedProducts:
    odd = [
        ProductInput("bare", {}, np.zeros((0, 256), np.float32)),
        ProductInput("pictures", {}, unit(np.random.default_rng(0), 20)),
    ]
    products = [*catalogue(2), *odd]
    return PackedProducts(products, Tokenizer.fit([p.text for p in products]))


def build(name: str, packed: PackedProducts) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ItemSageConfig(packed.vocabulary, table_rows=100, width=32, heads=4, feedforward=64, head_hidden=64)
    return build_encoder(name, config).eval()


@pytest.mark.parametrize("name", NAMES)
def test_a_product_gets_a_unit_vector_that_no_neighbour_changes(packed: PackedProducts, name: str) -> None:
    encoder = build(name, packed)
    with torch.inference_mode():
        together = encoder(*packed.batch(np.arange(len(packed))))
        alone = torch.cat([encoder(*packed.batch(np.array([row]))) for row in range(len(packed))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(packed)))


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_trained(packed: PackedProducts, name: str) -> None:
    encoder = build(name, packed)
    (encoder(*packed.batch(np.arange(len(packed)))) * torch.randn(256)).sum().backward()
    for parameter, value in encoder.named_parameters():
        assert value.grad is not None, parameter
        assert torch.isfinite(value.grad).all(), parameter


@pytest.mark.parametrize("name", NAMES)
def test_images_and_text_both_count_and_their_order_does_not(packed: PackedProducts, name: str) -> None:
    encoder = build(name, packed)
    with torch.inference_mode():
        images, counts, tokens, lengths = packed.batch(np.array([1, 3]))  # two images each
        whole = encoder(images, counts, tokens, lengths)
        torch.testing.assert_close(encoder(images[:, [1, 0]], counts, tokens, lengths), whole)
        assert not torch.allclose(encoder(images, counts * 0, tokens, lengths), whole, atol=1e-3)
        assert not torch.allclose(encoder(images, counts, tokens, lengths * 0), whole, atol=1e-3)
