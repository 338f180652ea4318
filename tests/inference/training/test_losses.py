"""The sampled softmax against a slow float64 computation, term by term."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inference.training.losses import INITIAL_SCALE, MAX_SCALE, Temperature, sampled_softmax


def slow(q, p, n, scale, positive_log_q, negative_log_q, masked) -> float:  # type: ignore[no-untyped-def]
    """-log of the positive's share of the sum, one query after the other."""
    total = 0.0
    for i in range(len(q)):
        positive = math.exp(scale * sum(a * b for a, b in zip(q[i], p[i], strict=True)) - positive_log_q[i])
        others = 0.0
        for j in range(len(n)):
            if not masked[i][j]:
                others += math.exp(scale * sum(a * b for a, b in zip(q[i], n[j], strict=True)) - negative_log_q[j])
        total += -math.log(positive / (positive + others))
    return total / len(q)


@pytest.fixture
def case() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)

    def unit(rows: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(rows, 5))), dim=1)

    return {
        "queries": unit(6),
        "positives": unit(6),
        "negatives": unit(9),
        "scale": torch.tensor(7.5, dtype=torch.float64),
        "positive_log_q": torch.from_numpy(rng.normal(size=6)),
        "negative_log_q": torch.from_numpy(rng.normal(size=9)),
        "masked": torch.from_numpy(rng.random((6, 9)) < 0.3),
    }


def test_it_is_the_slow_loss(case: dict[str, torch.Tensor]) -> None:
    expected = slow(*(value.tolist() for value in case.values()))
    assert sampled_softmax(**case).item() == pytest.approx(expected, rel=1e-12)
    single = {name: value if name == "masked" else value.float() for name, value in case.items()}
    assert sampled_softmax(**single).item() == pytest.approx(expected, rel=1e-5)


def test_without_correction_and_mask_it_is_cross_entropy(case: dict[str, torch.Tensor]) -> None:
    case |= {"positive_log_q": torch.zeros(6), "negative_log_q": torch.zeros(9), "masked": torch.zeros(6, 9).bool()}
    positive = (case["queries"] * case["positives"]).sum(1, keepdim=True)
    logits = 7.5 * torch.cat([positive, case["queries"] @ case["negatives"].T], 1)
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(sampled_softmax(**case), expected)


def test_a_masked_negative_has_no_influence_and_no_gradient(case: dict[str, torch.Tensor]) -> None:
    case["masked"][:, 4] = True
    case["negatives"] = case["negatives"].clone().requires_grad_(True)
    loss = sampled_softmax(**case)
    loss.backward()
    assert not case["negatives"].grad[4].any()
    assert case["negatives"].grad[:4].any(1).all()
    moved = case["negatives"].detach().clone()
    moved[4] = -moved[4]
    torch.testing.assert_close(sampled_softmax(**case | {"negatives": moved}), loss.detach())


def test_with_everything_masked_there_is_nothing_to_learn(case: dict[str, torch.Tensor]) -> None:
    case["masked"][:] = True
    case["queries"] = case["queries"].clone().requires_grad_(True)
    loss = sampled_softmax(**case)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.isfinite(case["queries"].grad).all()


def test_the_correction_makes_popular_negatives_count_as_often_as_they_would_evenly(
    case: dict[str, torch.Tensor],
) -> None:
    """A negative drawn twice with log Q one bit higher weighs what it weighs once: that is all that logQ does."""
    once = sampled_softmax(**case)
    twice = case | {
        "negatives": torch.cat([case["negatives"], case["negatives"][:1]]),
        "negative_log_q": torch.cat([case["negative_log_q"], case["negative_log_q"][:1]]),
        "masked": torch.cat([case["masked"], case["masked"][:, :1]], 1),
    }
    twice["negative_log_q"][[0, -1]] += math.log(2)
    torch.testing.assert_close(sampled_softmax(**twice), once)


def test_extreme_scales_do_not_overflow(case: dict[str, torch.Tensor]) -> None:
    single = {name: value if name == "masked" else value.float() for name, value in case.items()}
    assert torch.isfinite(sampled_softmax(**single | {"scale": torch.tensor(1e4)}))


def test_the_temperature_starts_at_one_over_007_is_learned_and_capped() -> None:
    temperature = Temperature()
    assert temperature().item() == pytest.approx(INITIAL_SCALE, rel=1e-6)
    temperature().backward()
    assert temperature.log_scale.grad.item() == pytest.approx(INITIAL_SCALE, rel=1e-5)
    with torch.no_grad():
        temperature.log_scale.fill_(50.0)
    assert temperature().item() == MAX_SCALE
