"""The search encoder's training."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from inference.training.dataset import TrainingSet
from inference.training.search import train_search
from tests.inference.builders import catalogue, engagements
from tests.inference.training.configs import FEW_STEPS, SMALL


def test_a_search_comes_nearer_to_the_images_of_its_products() -> None:
    config = msgspec.structs.replace(SMALL, search_steps=60)
    data = TrainingSet.build(catalogue(), engagements(), config)
    main, _ = data.packed.main_images()
    lamps = main[[row for row, name in enumerate(data.packed.ids) if name.startswith("lamp")]].mean(0)

    def cosine(steps: int) -> float:
        search = train_search(data, msgspec.structs.replace(config, search_steps=steps))
        return float(search(["lamp please"])[0] @ lamps / np.linalg.norm(lamps))

    assert cosine(60) > cosine(1) + 0.1


def test_without_images_the_encoder_is_a_random_projection_and_takes_no_step() -> None:
    products = [msgspec.structs.replace(p, images=p.images[:0]) for p in catalogue()]
    data = TrainingSet.build(products, engagements(), FEW_STEPS)
    search = train_search(data, FEW_STEPS, lambda *_: pytest.fail("made a step"))
    assert np.linalg.norm(search(["lamp"])[0]) == pytest.approx(1, abs=1e-5)


def test_each_step_is_reported() -> None:
    data = TrainingSet.build(catalogue(), engagements(), FEW_STEPS)
    reported: list[tuple[str, int, int]] = []
    with torch.random.fork_rng(devices=[]):
        train_search(data, FEW_STEPS, lambda *progress: reported.append(progress))
    assert reported == [("search encoder", 1, 2), ("search encoder", 2, 2)]
