"""The catalogue pipeline over stand-ins: what a batch changes, publishes and refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from inference.errors import ArtifactError
from inference.retrieval import Attributes
from streaming.consumer.observer import Observer
from streaming.dead_letters.writer import FailedRecord
from streaming.errors import BrokerError
from streaming.vectors.publisher import OutgoingOffer
from tests.streaming.builders import price, record, update
from tests.streaming.fakes import Crash
from tests.streaming.world import World, counts


def lamp(cents: int) -> Attributes:
    return Attributes(amount_minor=cents, currency="EUR", product_type="Home > Lamps", availability="in_stock")


class RecordingObserver(Observer):
    """An observer that remembers what became of batches."""

    def __init__(self) -> None:
        self.seen, self.letters = Counter[str](), Counter[str]()

    def counted(self, counts: Mapping[str, int]) -> None:
        self.seen.update(counts)

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        self.letters.update(by_stage)


def test_a_new_product_has_features_an_embedding_and_a_message() -> None:
    world = World()
    outcome = world.process(update("p1", 3, image_link="a", additional_image_link=["b"], price=price("12.30")))
    assert outcome.dead_letters == []
    product = world.store.read_features(["p1"])["p1"]
    assert (product.version, product.amount_minor, product.image_urls) == (3, 1230, ["a", "b"])
    (sent,) = world.topic.log
    assert sent[:3] == ("1", "p1", 3)
    assert sent[3] is not None
    assert sent[3].source_time == 1000
    np.testing.assert_allclose(sent[3].unpack(), world.store.embeddings["1"]["p1"].vector, atol=1e-3)


def test_an_older_version_after_a_newer_one_changes_nothing() -> None:
    world = World()
    world.process(update("p1", 5))
    before = world.state()
    outcome = world.process(update("p1", 4, title="old"), update("p1", 3, "delete"), update("p1", 2, "patch"))
    assert world.state() == before
    assert {(product, version) for _, product, version, _ in world.topic.log} == {("p1", 5)}, "at most once more"
    assert outcome.counts["stale"] == 3
    assert outcome.dead_letters == []


def test_a_delete_removes_everywhere_and_no_older_upsert_brings_it_back() -> None:
    world = World()
    world.store.ensure_model_version("0")
    world.process(update("p1", 1))
    world.process(update("p1", 3, "delete"))
    assert world.store.read_features(["p1"])["p1"].deleted
    assert sorted(entry[:3] for entry in world.topic.log[1:]) == [("0", "p1", 3), ("1", "p1", 3)]
    assert all(vector is None for *_, vector in world.topic.log[1:]), "readers of every model version get the tombstone"
    world.process(update("p1", 2))
    assert world.store.read_features(["p1"])["p1"].deleted
    assert world.topic.compacted() == {}
    world.process(update("p1", 4))
    assert list(world.topic.compacted()) == ["p1"]


def test_offers_are_published_when_they_change_and_only_then() -> None:
    world = World()
    world.process(update("p1", 1, product_type=["Home", "Lamps"], price=price("9"), availability="in_stock"))
    assert world.offers.log == [("p1", 1, lamp(900))]
    world.process(update("p1", 2, "patch", title="another"), update("p2", 2))
    assert [offer[0] for offer in world.offers.log[1:]] == ["p2"], "a new product is published, a new title is not"
    world.process(update("p1", 3, "patch", price=price("5")), update("p2", 3, "patch", availability="preorder"))
    assert world.offers.times == {"p1": 1000, "p2": 1001}
    world.process(update("p1", 4, "patch", price=price("5")))
    world.process(update("p2", 5, "patch", product_type=["Sport"]))
    assert world.offers.log[2:] == [
        ("p1", 3, lamp(500)),
        ("p2", 3, Attributes(availability="preorder")),
        ("p2", 5, Attributes(product_type="Sport", availability="preorder")),
    ]
    world.process(update("p1", 6, "delete"))
    assert world.offers.log[5:] == [("p1", 6, None)]


@pytest.mark.parametrize("same_process", [True, False])
def test_an_offer_that_was_written_and_not_published_is_published_when_its_update_is_read_again(
    same_process: bool,
) -> None:
    world, crashes = World(), []

    def crashing(offers: Sequence[OutgoingOffer]) -> None:
        if crashes:
            raise crashes.pop()
        world.offers(offers)

    world.restart(publish_offers=crashing)
    world.process(update("p1", 1, price=price("9")), update("p2", 1, price=price("9")), update("p3", 1))
    batch = update("p1", 2, "patch", price=price("5")), update("p2", 2, price=price("6")), update("p3", 2, "delete")
    crashes.append(Crash())
    with pytest.raises(Crash):
        world.process(*batch)
    if not same_process:  # which remembers that nothing but the price of p1 has changed
        world.restart()
    world.process(*batch)
    assert {i: result.amount_minor for i, result in world.offers.compacted().items()} == {"p1": 500, "p2": 600}


def test_deleting_an_unknown_product_leaves_a_tombstone() -> None:
    world = World()
    world.process(update("p1", 5, "delete"))
    world.process(update("p1", 4))
    assert world.state()["embeddings"] == {}
    assert world.store.read_features(["p1"])["p1"].deleted


def test_freshness_counts_from_the_first_update_that_a_batch_merges() -> None:
    world = World()
    world.process(update("p1", 1), update("p1", 2, "patch", brand="a"), update("p1", 3, "patch", brand="b"))
    ((_, _, _, sent),) = world.topic.log
    assert sent is not None
    assert sent.source_time == 1000, "the upsert's arrival, not the last patch's"
    world.process(record(update("p1", 4, title="superseded"), 7), record(update("p1", 5, title="new"), 8))
    assert world.topic.log[-1][3] is not None
    assert world.topic.log[-1][3].source_time == 1008, "what was superseded unseen does not count"


def test_before_the_first_release_features_are_kept() -> None:
    world = World()
    world.store.embeddings.clear()
    world.embedder = None
    outcome = world.process(update("p1", 1))
    assert world.store.read_features(["p1"])["p1"].version == 1
    assert world.topic.log == []
    assert outcome.counts["no_model"] == 1


def test_a_store_with_embeddings_whose_live_release_is_gone_waits_and_commits_nothing() -> None:
    """As when the disk with the model repository is not mounted: to continue would keep old vectors forever."""
    world = World()
    world.process(update("p1", 1))
    embedder, world.embedder = world.embedder, None
    with pytest.raises(ArtifactError, match=r"no release is live.*model versions 1"):
        world.process(update("p1", 2, title="new"))
    assert world.topic.log[-1][2] == 1
    world.embedder = embedder
    world.process(update("p1", 2, title="new"))
    assert world.topic.log[-1][2] == 2, "once it is back, what waited is embedded"


def test_poison_stops_nothing() -> None:
    world = World()
    outcome = world.process(record(b"{", 0), update("p1", 1), record(b"\x00", 2), update("p2", 1))
    assert [letter.record.offset for letter in outcome.dead_letters] == [0, 2]
    assert counts(outcome)["refused_decode"] == 2
    assert sorted(world.topic.compacted()) == ["p1", "p2"]


def test_the_broker_has_the_dead_letters_after_the_vectors_and_before_the_batch_is_done() -> None:
    """When the broker refuses them, the stage runs again; only then is the batch reported."""
    world, answers = World(), [False, True]
    published: list[list[str]] = []

    def send(letters: Sequence[FailedRecord]) -> None:
        published.append(sorted(world.topic.compacted()))
        if not answers.pop(0):
            raise BrokerError("no broker answers")
        world.dead_letters += letters

    world.restart(dead_letters=send)
    observer = world.pipeline.observer = RecordingObserver()
    batch = world.pipeline.embeddings(world.pipeline.features([record(b"{", 0), record(update("p1", 1), 1)]))
    with pytest.raises(BrokerError):
        world.pipeline.publishing(batch)
    assert observer.seen == observer.letters == {}
    world.pipeline.publishing(batch)
    assert published == [["p1"], ["p1"]]
    assert [(letter.stage, letter.record.offset) for letter in world.dead_letters] == [("decode", 0)]
    assert observer.letters == {"decode": 1}
    assert (observer.seen["embedded"], observer.seen["refused_decode"]) == (1, 1)
