"""A layer must exist before a config names it; its held and free parts are listed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import ExperimentConfig, LayerRange
from experiments.errors import ConfigError, ConflictError, UnknownExperimentError
from experiments.layers import Held, free_parts
from experiments.store import ExperimentStore

WHO = {"actor": "ada", "reason": "test"}


@given(st.sets(st.integers(0, 10_000), max_size=12), st.randoms(use_true_random=False))
def test_held_and_free_parts_make_up_the_layer(cuts: set[int], random: object) -> None:
    edges = sorted(cuts)
    parts = [Held(f"e{start}", start, end) for start, end in zip(edges[::2], edges[1::2], strict=False)]
    random.shuffle(parts)  # type: ignore[attr-defined]
    free = free_parts(parts)
    covered = sorted([(part.start, part.end) for part in parts] + list(free))
    assert all(start < end for start, end in free)
    assert [start for start, _ in covered] == [0, *(end for _, end in covered)][:-1]
    assert covered[-1][1] == 10_000


def test_a_misspelt_layer_is_no_new_one(store: ExperimentStore, config: ExperimentConfig) -> None:
    """A misspelled layer would have no neighbours, and two exclusive experiments would overlap."""
    store.create_layer("product-page", **WHO)
    wrong = msgspec.structs.replace(config, layer=LayerRange("produkt-page", 0, 5_000))
    with pytest.raises(
        ConfigError, match=r"layer 'produkt-page' does not exist \(did you mean 'product-page'\?\); create it first"
    ):
        store.publish(wrong, actor="ada", create=True)
    with pytest.raises(UnknownExperimentError):
        store.history(config.key)
    right = msgspec.structs.replace(config, layer=LayerRange("product-page", 0, 5_000))
    assert store.publish(right, actor="ada", create=True) == 1
    store.start(config.key, **WHO)
    with pytest.raises(ConfigError, match="layer 'produkt-page' does not exist"):
        store.new_phase(msgspec.structs.replace(wrong, salt="ranking-2"), **WHO)
    assert store.experiments()[0].phase == 1


def test_only_live_experiments_hold_a_part(store: ExperimentStore, config: ExperimentConfig) -> None:
    store.create_layer("home", **WHO, description="the first page")
    store.create_layer("search", **WHO)
    for number, (start, end) in enumerate(((6_000, 7_000), (0, 1_000), (2_000, 3_000))):
        one = msgspec.structs.replace(config, key=f"e{number}", salt=f"e{number}", layer=LayerRange("home", start, end))
        store.publish(one, actor="ada", create=True)
    store.start("e0", **WHO)
    store.start("e1", **WHO)
    store.pause("e1", **WHO)
    home, search = store.layers()
    assert (home.key, home.description, home.created_by) == ("home", "the first page", "ada")
    assert home.held == (Held("e1", 0, 1_000), Held("e0", 6_000, 7_000))
    assert home.free == ((1_000, 6_000), (7_000, 10_000))
    assert (search.held, search.free) == ((), ((0, 10_000),))
    store.stop("e0", **WHO)
    assert store.layers()[0].free == ((1_000, 10_000),)


def test_a_layer_is_made_once_under_a_key_and_audited(store: ExperimentStore) -> None:
    store.create_layer("home", **WHO)
    with pytest.raises(ConflictError, match="'home' exists already"):
        store.create_layer("home", **WHO)
    with pytest.raises(ConfigError, match="layer 'Home page' must begin with"):
        store.create_layer("Home page", **WHO)
    with pytest.raises(ConfigError, match="the description holds a NUL"):
        store.create_layer("search", **WHO, description="a\0")
    (entry,) = store.audit("home")
    assert (entry.action, entry.actor, entry.reason) == ("create_layer", "ada", "test")
    assert [layer.key for layer in store.layers()] == ["home"]


def test_what_no_database_can_hold_is_refused_before_it_gets_there(store: ExperimentStore) -> None:
    with pytest.raises(ConfigError, match="the reason holds a NUL"):
        store.create_layer("home", actor="ada", reason="a\0")
    with pytest.raises(ConfigError, match="the actor holds a lone surrogate"):
        store.create_layer("home", actor="\ud800", reason="")
