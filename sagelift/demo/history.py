"""The days before the experiment: a shop with conventional recommendations, whose events train the model."""

from __future__ import annotations

from collections.abc import Sequence

from inference.arrays import Float32Array
from inference.recommend import Recommender
from sagelift.demo.shop import UsualShop
from sagelift.demo.waiting import wait_for_events
from sagelift.demo.world import World
from sagelift.progress import Stage


def run_history(world: World, stage: Stage) -> None:
    """Let the shoppers visit the usual shop and wait until their events are stored."""
    similar = Recommender(world.sum_index(), _no_search, world.main_images)
    world.visit(UsualShop(similar, world.products, world.config.seed), world.config.days_before, stage)
    wait_for_events(world.services, stage)


def _no_search(texts: Sequence[str]) -> Float32Array:
    raise AssertionError("the usual shop searches by keywords")
