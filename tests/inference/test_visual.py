"""The frozen visual encoder: what it answers, and a colour histogram that can be computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from inference.visual import IMAGE_SIZE, VECTOR_DIM, VisualEncoder, colour_histogram


@pytest.fixture(scope="module")
def encoder() -> VisualEncoder:
    return VisualEncoder.pretrained()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    coarse = torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(0)) * 255
    smooth = torch.nn.functional.interpolate(coarse, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic").clamp(0, 255)
    return smooth.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def encode(encoder: VisualEncoder, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return encoder(pixels)


def test_vectors_are_float32_of_unit_length(encoder: VisualEncoder, pixels: Tensor) -> None:
    out = encode(encoder, pixels)
    assert out.shape == (5, VECTOR_DIM)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(5))
    assert (out @ out.T)[~torch.eye(5, dtype=torch.bool)].max() < 0.999, "different images, different vectors"


def test_an_image_has_the_same_vector_in_any_batch(encoder: VisualEncoder, pixels: Tensor) -> None:
    together = encode(encoder, pixels)
    for row in (0, 4):
        alone = encode(encoder, pixels[row : row + 1])[0]
        assert torch.cosine_similarity(alone, together[row], dim=0) > 0.9995  # bfloat16 where the machine has it
    assert torch.equal(encode(encoder, pixels), together)


def test_uniform_images_have_finite_vectors(encoder: VisualEncoder) -> None:
    flat = torch.stack([torch.full((IMAGE_SIZE, IMAGE_SIZE, 3), v, dtype=torch.uint8) for v in (0, 128, 255)])
    torch.testing.assert_close(encode(encoder, flat).norm(dim=1), torch.ones(3))


def test_nothing_in_it_can_be_trained(encoder: VisualEncoder) -> None:
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_projection_is_orthonormal_and_its_signs_are_fixed(encoder: VisualEncoder) -> None:
    projection = encoder.projection
    assert projection.shape == (224, 1280)
    torch.testing.assert_close(projection @ projection.T, torch.eye(224), rtol=0, atol=1e-5)
    leading = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    assert (leading > 0).all()


def test_the_projection_keeps_the_directions_in_which_the_classes_differ() -> None:
    """The leading singular directions of the centred classifier: no other 224 keep more of it."""
    generator = torch.Generator().manual_seed(1)
    classifier = torch.randn(300, 1280, generator=generator) * torch.linspace(3, 0.01, 1280)
    kept = (classifier - classifier.mean(0)) @ VisualEncoder(classifier).projection.T
    singular = torch.linalg.svdvals((classifier - classifier.mean(0)).double())
    assert kept.double().square().sum().item() == pytest.approx(singular[:224].square().sum().item(), rel=1e-4)


def histogram(*colours: tuple[float, float, float]) -> dict[int, float]:
    """Bins of an image made of equal bands of these colours."""
    bands = [torch.tensor(c).view(3, 1, 1).expand(3, 8, 16) for c in colours]
    result = colour_histogram(torch.cat(bands, 1)[None])[0]
    return {i: round(result[i].item() ** 2, 5) for i in result.nonzero().flatten().tolist()}


@pytest.mark.parametrize(
    ("colour", "bin_number"),
    [
        ((1.0, 0.0, 0.0), 2),  # red: hue bin 0, brightest of 3 values
        ((0.5, 0.0, 0.0), 1),
        ((0.2, 0.0, 0.0), 0),
        ((0.0, 1.0, 0.0), 2 * 3 + 2),  # green: a third of 8 hues
        ((0.0, 0.0, 1.0), 5 * 3 + 2),  # blue: two thirds
        ((1.0, 1.0, 0.0), 1 * 3 + 2),  # yellow: a sixth
        ((1.0, 0.0, 0.5), 7 * 3 + 2),  # rose: eleven twelfths
        ((0.0, 0.0, 0.0), 24),
        ((0.5, 0.5, 0.5), 24 + 4),
        ((1.0, 1.0, 1.0), 24 + 7),
        ((0.5, 0.45, 0.45), 24 + 4),  # too pale to have a hue
    ],
)
def test_a_colour_falls_into_its_bin(colour: tuple[float, float, float], bin_number: int) -> None:
    assert histogram(colour) == {bin_number: 1.0}


def test_shares_add_up_and_similarity_is_that_of_the_shares() -> None:
    red, grey = (1.0, 0.0, 0.0), (0.5, 0.5, 0.5)
    assert histogram(red, grey, grey, grey) == {2: 0.25, 28: 0.75}
    bands = torch.tensor([red] * 8 + [grey] * 8).T.reshape(1, 3, 16, 1).expand(1, 3, 16, 16)
    result = colour_histogram(bands)[0]
    assert result.norm().item() == pytest.approx(1.0)
    assert result[2].item() == pytest.approx(math.sqrt(0.5))
