"""ItemSage: its size, its masks, its invariances, and the shortcut for `[CLS]`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.model import EncoderLayer, HashEmbedding, ItemSage, ItemSageConfig

VOCABULARY = 500
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def model() -> ItemSage:
    torch.manual_seed(0)
    config = ItemSageConfig(VOCABULARY, table_rows=101, width=32, heads=4, feedforward=64, head_hidden=64, layers=2)
    return ItemSage(config).eval()


def product(images: int, lengths: list[int], seed: int) -> Batch:
    """A batch of one product."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.nn.functional.normalize(torch.randn(1, images, 256, generator=generator), dim=2),
        torch.tensor([images]),
        torch.randint(0, VOCABULARY, (1, sum(lengths)), generator=generator),
        torch.tensor([lengths]),
    )


def join(products: list[Batch], filler: float = 0.0, token: int = -1) -> Batch:
    """Products as one batch; what pads them is the caller's choice."""
    slots = max(p[0].shape[1] for p in products)
    width = max(p[2].shape[1] for p in products)
    images = torch.full((len(products), slots, 256), filler)
    tokens = torch.full((len(products), width), token)
    for row, (own, _, ids, _) in enumerate(products):
        images[row, : own.shape[1]] = own[0]
        tokens[row, : ids.shape[1]] = ids[0]
    return images, torch.cat([p[1] for p in products]), tokens, torch.cat([p[3] for p in products])


TEXT = [4, 9, 0, 1, 0, 3, 0, 0, 2, 0, 0, 5]
NO_TEXT = [0] * 12
PRODUCTS = [product(2, TEXT, 1), product(0, TEXT, 2), product(20, NO_TEXT, 3), product(0, NO_TEXT, 4)]


def embed(model: ItemSage, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return model(*batch)


@pytest.mark.parametrize(("layers", "parameters"), [(1, 33_120_256), (2, 36_272_640), (3, 39_425_024), (4, 42_577_408)])
def test_the_full_model_has_the_papers_number_of_parameters(layers: int, parameters: int) -> None:
    with torch.device("meta"):
        model = ItemSage(ItemSageConfig(layers=layers))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_embeddings_are_float32_unit_vectors_with_any_input_missing(model: ItemSage) -> None:
    out = embed(model, join(PRODUCTS))
    assert out.shape == (4, 256)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(4))


def test_neighbours_in_the_batch_do_not_change_a_product(model: ItemSage) -> None:
    together = embed(model, join(PRODUCTS))
    for row, alone in enumerate(PRODUCTS):
        torch.testing.assert_close(embed(model, alone)[0], together[row], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(embed(model, join(PRODUCTS[::-1])).flip(0), together, rtol=1e-4, atol=1e-6)


def test_padding_does_not_change_the_vectors(model: ItemSage) -> None:
    expected = embed(model, join(PRODUCTS))
    torch.testing.assert_close(embed(model, join(PRODUCTS, filler=1e3, token=7)), expected, rtol=1e-4, atol=1e-6)


def test_every_input_does_change_it(model: ItemSage) -> None:
    images, counts, tokens, lengths = PRODUCTS[0]
    base = embed(model, PRODUCTS[0])
    for field in (0, 1, 3, 5, 8, 11):
        start = int(lengths[0, :field].sum())
        other = tokens.clone()
        other[0, start] = (other[0, start] + 1) % VOCABULARY
        assert not torch.allclose(embed(model, (images, counts, other, lengths)), base, atol=1e-5)
    for slot in (0, 1):
        other_image = images.clone()
        other_image[0, slot] = -other_image[0, slot]
        assert not torch.allclose(embed(model, (other_image, counts, tokens, lengths)), base, atol=1e-5)


def test_images_are_a_set_and_fields_are_bags(model: ItemSage) -> None:
    images, counts, tokens, lengths = product(20, [50] + [0] * 11, 5)
    base = embed(model, (images, counts, tokens, lengths))
    shuffled = images[:, torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(embed(model, (shuffled, counts, tokens, lengths)), base, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(embed(model, (images, counts, tokens.flip(1), lengths)), base, rtol=1e-4, atol=1e-5)


def test_the_same_words_in_another_field_are_another_product(model: ItemSage) -> None:
    """Fields have no position: only through which words share a bag does a field matter."""
    images, counts, tokens, _ = PRODUCTS[0]
    one = torch.tensor([[24] + [0] * 11])
    two = torch.tensor([[12, 12] + [0] * 10])
    moved = torch.tensor([[0, 24] + [0] * 10])
    base = embed(model, (images, counts, tokens, one))
    assert not torch.allclose(embed(model, (images, counts, tokens, two)), base, atol=1e-4)
    torch.testing.assert_close(embed(model, (images, counts, tokens, moved)), base, rtol=1e-4, atol=1e-6)


def test_thousands_of_words_stay_finite_and_equal_from_run_to_run(model: ItemSage) -> None:
    long = product(1, [5_000, 40_000] + [1] * 10, 6)
    first = embed(model, long)
    assert torch.isfinite(first).all()
    assert torch.equal(first, embed(model, long))


def test_the_last_layer_for_cls_only_equals_the_first_row_of_the_full_layer() -> None:
    torch.manual_seed(1)
    layer = EncoderLayer(32, 4, 64)
    x = torch.randn(5, 9, 32)
    present = torch.rand(5, 9) < 0.5
    present[:, 0] = True
    torch.testing.assert_close(layer(x, present, first_only=True), layer(x, present)[:, :1])
    x[:, 0] = x[0, 0]
    torch.testing.assert_close(layer(x, present, first_only=True, first_alike=True), layer(x, present)[:, :1])


def test_the_layer_is_a_textbook_pre_norm_layer() -> None:
    torch.manual_seed(2)
    layer = EncoderLayer(32, 4, 64).eval()
    judge = torch.nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_weight": "in_proj.weight",
        "self_attn.in_proj_bias": "in_proj.bias",
        "self_attn.out_proj.weight": "out_proj.weight",
        "self_attn.out_proj.bias": "out_proj.bias",
    }
    own = layer.state_dict()
    judge.load_state_dict({name: own[names.get(name, name)] for name in judge.state_dict()})
    x = torch.randn(3, 6, 32)
    present = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    expected = judge(x, src_key_padding_mask=~present)
    torch.testing.assert_close(layer(x, present)[present], expected[present], rtol=1e-4, atol=1e-5)


def test_a_bag_is_the_weighted_sum_of_two_rows_per_token() -> None:
    torch.manual_seed(3)
    embedding = HashEmbedding(50, 12, 8)
    assert embedding.moduli == (11, 7)
    bags = [[3, 3, 49], [], [0, 18]]
    ids = torch.tensor([i for bag in bags for i in bag])
    out = embedding(ids, torch.tensor([0, 3, 3]))
    for row, bag in enumerate(bags):
        expected = torch.zeros(8)
        for i in bag:
            for column, modulus in enumerate((11, 7)):
                expected = expected + embedding.importance[i, column] * embedding.table[i % modulus]
        torch.testing.assert_close(out[row], expected)


def test_no_two_ids_share_both_rows() -> None:
    with torch.device("meta"):
        p, q = HashEmbedding(10, 100_000, 4).moduli
    assert (p, q) == (99_991, 99_989)
    assert p * q > 2**31
    small_p, small_q = 13, 11
    assert len({(i % small_p, i % small_q) for i in range(small_p * small_q)}) == small_p * small_q


def test_gradients_reach_every_parameter_and_not_the_padding(model: ItemSage) -> None:
    images, *rest = join(PRODUCTS)
    images.requires_grad_(True)
    model.zero_grad()
    model(images, *rest)[:, :3].sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert images.grad is not None
    assert not images.grad[0, 2:].any()
    assert images.grad[0, :2].any(1).all()
    model.zero_grad()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vocabulary": 0}, "must be >= 1"),
        ({"layers": 0}, "must be >= 1"),
        ({"width": 30}, "multiple of heads"),
        ({"table_rows": 4}, "table_rows"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemSageConfig(**sizes)
