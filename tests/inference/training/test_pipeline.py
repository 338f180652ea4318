"""Training: learning, repeatability, and the run folder."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import torch

from inference.errors import InputError
from inference.inputs import ProductInput, stack_images
from inference.training.config import TrainConfig
from inference.training.engagements import Engagement
from inference.training.evaluation import embed_all, evaluate, query_vectors
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs
from inference.training.pipeline import train
from inference.training.result import TrainedModel
from tests.inference.builders import catalogue, engagements
from tests.inference.training.configs import FEW_STEPS, SMALL


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train(catalogue(), engagements(), SMALL)


# ---------------------------------------------------------------------------------------------------------- learning


def test_it_learns_a_relation_that_only_the_text_shows(trained: TrainedModel) -> None:
    """The images are noise, so their sum finds one in six: ten of sixty products."""
    result = trained.result
    assert result.sum.mean_recall < 0.25
    assert result.itemsage.mean_recall > result.sum.mean_recall + 0.3
    assert result.itemsage.coverage > 0.5
    assert result.loss[-1] < 0.8 * result.loss[0]


def test_products_of_a_kind_lie_together_and_near_the_search_for_them(trained: TrainedModel) -> None:
    packed = PackedProducts(catalogue(), trained.tokenizer)
    vectors = embed_all(trained.model, packed)
    kind = np.array([p.partition("-")[0] for p in packed.ids])
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    nearest = np.argsort(-scores, axis=1)[:, :5]
    assert (kind[nearest] == kind[:, None]).mean() > 0.9, "by chance 0.19"
    for one in sorted(set(kind)):
        result = np.argsort(-(vectors @ trained.search([f"{one} please"])[0]))[:10]
        assert (kind[result] == one).mean() > 0.7, f"a search for {one}"


def test_the_result_reports_the_run(trained: TrainedModel) -> None:
    result = trained.result
    assert result.parameters == sum(p.numel() for p in trained.model.parameters())
    assert result.vocabulary == trained.tokenizer.size == trained.model.config.vocabulary
    assert result.training_pairs + result.held_out_pairs == len(engagements())
    assert len(result.loss) == SMALL.steps
    assert set(result.itemsage.recall) == {"image/click", "image/save", "image/checkout", "search/click"}


def test_the_reported_recall_is_that_of_the_model_as_it_is_served(trained: TrainedModel) -> None:
    products = catalogue()
    packed = PackedProducts(products, trained.tokenizer)
    pairs = Pairs(engagements(), packed)
    images, counts = stack_images([p.images for p in products])
    tokens, lengths = trained.tokenizer.encode([p.text for p in products])
    with torch.inference_mode():
        vectors = trained.model(*map(torch.from_numpy, (images, counts, tokens, lengths))).numpy()
    again = evaluate(vectors, query_vectors(pairs, packed, trained.search), pairs)
    assert again.mean_recall == pytest.approx(trained.result.itemsage.mean_recall, abs=0.02)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        model = train(catalogue(), engagements(), msgspec.structs.replace(FEW_STEPS, seed=seed))
        return {**model.model.state_dict(), **{f"search.{k}": v for k, v in model.search.encoder.state_dict().items()}}

    torch.manual_seed(1)
    first = weights(1)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = weights(1)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are left alone"
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(weights(2)["cls"], first["cls"])


def test_progress_is_reported_step_by_step() -> None:
    progress: list[tuple[str, int, int]] = []
    train(catalogue(), engagements(), FEW_STEPS, lambda *step: progress.append(step))
    assert [t for t in progress if t[0] == "search encoder"] == [("search encoder", n, 2) for n in (1, 2)]
    assert [t for t in progress if t[0] == "ItemSage"] == [("ItemSage", n, 3) for n in (1, 2, 3)]
    assert all(a[1] < b[1] or a[0] != b[0] for a, b in pairwise(progress))


def test_products_without_images_or_without_text_train_along() -> None:
    bare = np.zeros((0, 256), np.float32)
    odd = [ProductInput("nothing", {}, bare), ProductInput("wordy", {"title": "lamp"}, bare)]
    log = [*engagements(), Engagement("search", "lamp", "wordy", "click"), Engagement("search", "!", "nothing", "save")]
    model = train([*catalogue(), *odd], log, FEW_STEPS)
    assert all(torch.isfinite(value).all() for value in model.model.state_dict().values())
    assert math.isfinite(model.result.loss[-1])


def test_a_catalogue_without_any_image_trains_on_searches() -> None:
    products = [msgspec.structs.replace(p, images=p.images[:0]) for p in catalogue()]
    model = train(products, engagements(), FEW_STEPS)
    assert all(kind.startswith("search/") for kind in model.result.itemsage.recall)


# ------------------------------------------------------------------------------------------------------- what fails


def test_an_empty_training_set_is_a_clear_error() -> None:
    with pytest.raises(InputError, match="no product to train on"):
        train([], engagements(), FEW_STEPS)
    with pytest.raises(InputError, match="none of the 0 engagements"):
        train(catalogue(), [], FEW_STEPS)
    silent = [msgspec.structs.replace(p, text={}) for p in catalogue()]
    with pytest.raises(InputError, match="has no word"):
        train(silent, [e for e in engagements() if e.kind == "image"], FEW_STEPS)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_run_ends_with_an_error_not_with_a_model() -> None:
    with pytest.raises(InputError, match="training diverged: the loss is nan; lower learning_rate"):
        train(catalogue(), engagements(), msgspec.structs.replace(SMALL, learning_rate=1e30, weight_decay=0.0))


@pytest.mark.parametrize("name", ["steps", "batch", "random_negatives", "search_steps"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} \(0\) must be at least 1"):
        TrainConfig(**{name: 0})


# ---------------------------------------------------------------------------------------------------- the run folder
