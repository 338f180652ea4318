"""The catalogue pipeline on stand-ins: the same final state for every order, batching and crash."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.errors import InvalidFeatureError
from inference.errors import ArtifactError
from inference.retrieval import Attributes
from streaming.consumer.observer import Observer
from streaming.contracts import ProductUpdate
from streaming.dead_letters.writer import FailedRecord
from streaming.errors import BrokerError
from streaming.vectors.publisher import OutgoingOffer
from tests.streaming.builders import price, record, records, update
from tests.streaming.fakes import Crash, FakeEmbedder
from tests.streaming.world import World, counts, stages


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


def test_inference_is_spent_only_on_what_the_model_reads() -> None:
    world = World()
    world.process(update("p1", 1, image_link="a"))
    assert world.embedder is not None
    world.embedder.embedded.clear()
    world.images.asked.clear()
    world.process(update("p1", 2, "patch", price=price("5")))
    world.process(update("p1", 3, "patch", availability="out_of_stock"))
    world.process(update("p1", 4, title="p1 1", image_link="a"))
    assert world.embedder.embedded == []
    assert world.images.asked == []
    assert len(world.topic.log) == 1
    assert world.store.read_features(["p1"])["p1"].version == 4
    world.process(update("p1", 5, "patch", brand="Acme"))
    assert world.embedder.embedded == ["p1"]
    assert len(world.topic.log) == 2


def test_many_updates_of_a_product_in_a_batch_cost_one_embedding() -> None:
    world = World()
    outcome = world.process(*(update("p1", v) for v in range(1, 50)), update("p1", 50, "patch", brand="B"))
    assert world.embedder is not None
    assert world.embedder.embedded == ["p1"]
    assert outcome.counts["stale"] == 0
    assert world.store.read_features(["p1"])["p1"].text["brand"] == "B"


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


def lamp(cents: int) -> Attributes:
    return Attributes(amount_minor=cents, currency="EUR", product_type="Home > Lamps", availability="in_stock")


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
    assert {i: found.amount_minor for i, found in world.offers.compacted().items()} == {"p1": 500, "p2": 600}


def test_deleting_an_unknown_product_leaves_a_tombstone() -> None:
    world = World()
    world.process(update("p1", 5, "delete"))
    world.process(update("p1", 4))
    assert world.state()["embeddings"] == {}
    assert world.store.read_features(["p1"])["p1"].deleted


def test_a_product_without_images_is_embedded() -> None:
    world = World()
    world.process(update("p1", 1))
    assert world.images.asked == []
    assert "p1" in world.topic.compacted()
    assert world.store.read_features(["p1"])["p1"].image_vectors.shape == (0, 256)


def test_missing_images_are_one_dead_letter_and_the_rest_is_applied() -> None:
    world = World()
    world.images.broken |= {"bad1", "bad2"}
    outcome = world.process(
        update("p1", 1, image_link="bad1", additional_image_link=["good", "bad2"]),
        update("p1", 2, "patch", price=price("5")),
    )
    (letter,) = outcome.dead_letters
    assert (letter.stage, letter.record.offset) == ("image", 0), "the update that named the images is to blame"
    assert "bad1" in letter.message
    assert "bad2" in letter.message
    product = world.store.read_features(["p1"])["p1"]
    assert (product.version, product.image_urls, product.amount_minor) == (2, ["bad1", "good", "bad2"], 500)
    assert product.image_hashes == ["", "hash of good", ""]
    assert product.image_vectors.shape == (1, 256)
    assert "p1" in world.topic.compacted()


def test_a_missing_image_is_fetched_again_at_the_next_update_of_the_product() -> None:
    """A server that is unreachable for a short time must not cost the product its picture forever."""
    world = World()
    world.images.broken.add("away")
    world.process(update("p1", 1, image_link="away", additional_image_link=["good"]))
    world.images.asked.clear()
    outcome = world.process(update("p1", 2, "patch", price=price("5")))
    assert outcome.dead_letters == [], "an update that names no image is not to blame for one"
    assert world.images.asked == ["away"], "present images are not fetched again"
    world.images.broken.clear()
    world.process(update("p1", 3, "patch", price=price("6")))
    product = world.store.read_features(["p1"])["p1"]
    assert product.image_hashes == ["hash of away", "hash of good"]
    assert (product.version, product.amount_minor) == (3, 600)
    assert world.embedder is not None
    assert world.embedder.embedded == ["p1", "p1"], "with the picture it is embedded again"
    assert world.topic.log[-1][2] == 3


def test_a_replayed_dead_letter_brings_the_image_although_the_product_is_newer() -> None:
    world = World()
    world.images.broken.add("away")
    first = record(update("p1", 1, image_link="away"))
    world.process(first, update("p1", 2, "patch", price=price("5")))
    world.images.broken.clear()
    assert world.process(first).dead_letters == []
    product = world.store.read_features(["p1"])["p1"]
    assert (product.version, product.image_hashes, product.amount_minor) == (2, ["hash of away"], 500)


def test_the_effect_of_a_replayed_dead_letter_is_published_although_the_first_attempt_failed() -> None:
    world = World()
    world.images.broken.add("away")
    first = record(update("p1", 1, image_link="away"))
    world.process(first, update("p1", 2, "patch", price=price("5")))
    world.images.broken.clear()
    publish, crashes = world.topic, [True]

    def crashing(vectors: Sequence[Any]) -> None:
        if crashes:
            crashes.pop()
            raise Crash
        publish(vectors)

    world.restart(crashing)
    with pytest.raises(Crash):
        world.process(first)
    world.process(first)
    sent = world.topic.log[-1][3]
    assert sent is not None
    np.testing.assert_allclose(sent.unpack(), world.store.embeddings["1"]["p1"].vector, atol=1e-3)


def test_an_unreachable_image_server_does_not_slow_every_price_update() -> None:
    world = World(image_retry_after=timedelta(minutes=5))
    world.images.broken.add("away")
    world.process(update("p1", 1, image_link="away"))
    world.process(update("p1", 2, "patch", price=price("5")))
    assert world.images.asked == ["away"]
    world.now += timedelta(minutes=6)
    world.process(update("p1", 3, "patch", price=price("6")))
    assert world.images.asked == ["away"] * 2
    assert stages(world.process(update("p1", 4, "patch", image_link="away"))) == ["image"]
    assert world.images.asked == ["away"] * 3, "an update that names the link fetches it at once"


def test_the_dead_letter_of_an_image_survives_a_failure_after_the_features_were_written() -> None:
    """The batch is retried, and by then the update that named the image is stale."""
    world = World()
    world.images.broken.add("bad")
    publish, crashes = world.topic, [True]

    def crashing(vectors: Sequence[Any]) -> None:
        if crashes:
            crashes.pop()
            raise Crash
        publish(vectors)

    world.restart(crashing)
    batch = update("p1", 1, image_link="bad"), update("p1", 2, "patch", price=price("5"))
    with pytest.raises(Crash):
        world.process(*batch)
    outcome = world.process(*batch)
    assert [(letter.stage, letter.record.offset) for letter in outcome.dead_letters] == [("image", 0)]


def test_freshness_counts_from_the_first_update_that_a_batch_merges() -> None:
    world = World()
    world.process(update("p1", 1), update("p1", 2, "patch", brand="a"), update("p1", 3, "patch", brand="b"))
    ((_, _, _, sent),) = world.topic.log
    assert sent is not None
    assert sent.source_time == 1000, "the upsert's arrival, not the last patch's"
    world.process(record(update("p1", 4, title="superseded"), 7), record(update("p1", 5, title="new"), 8))
    assert world.topic.log[-1][3] is not None
    assert world.topic.log[-1][3].source_time == 1008, "what was superseded unseen does not count"


def test_known_images_are_not_fetched_again_unless_the_encoder_changed() -> None:
    world = World()
    world.process(update("p1", 1, image_link="a"))
    world.process(update("p1", 2, "patch", image_link="b", additional_image_link=["a"]))
    assert world.images.asked == ["a", "b"]
    world.images.visual_version = "v2"
    world.process(update("p1", 3, "patch", price=price("5")))
    assert world.images.asked == ["a", "b", "b", "a"]
    assert world.store.read_features(["p1"])["p1"].visual_version == "v2"
    assert world.embedder is not None
    assert world.embedder.embedded == ["p1", "p1", "p1"]


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


def test_a_switch_of_models_between_batches_embeds_with_the_new_one() -> None:
    world = World()
    world.process(update("p1", 1))
    world.store.ensure_model_version("2")
    world.embedder = FakeEmbedder("2")
    world.process(update("p1", 2, "patch", price=price("5")))
    assert world.embedder.embedded == ["p1"], "no embedding of model 2 yet, though the inputs are the same"
    assert list(world.topic.compacted("2")) == ["p1"]
    assert list(world.topic.compacted("1")) == ["p1"], "for a rollback"


def test_a_product_that_the_model_refuses_is_a_dead_letter_alone() -> None:
    world = World()
    assert world.embedder is not None
    world.embedder.poison.add("bad")
    outcome = world.process(update("p1", 1), update("p2", 1, title="bad"), update("p3", 1))
    assert [(letter.stage, letter.record.offset) for letter in outcome.dead_letters] == [("embed", 1)]
    assert sorted(world.topic.compacted()) == ["p1", "p3"]
    assert world.store.read_features(["p2"])["p2"].version == 1, "its features are good"


@pytest.mark.parametrize("crash", [False, True])
def test_a_product_that_the_model_refuses_loses_its_former_vector(crash: bool) -> None:
    world = World()
    world.process(update("p1", 1))
    assert world.embedder is not None
    world.embedder.poison.add("bad")
    if crash:
        publish, crashes = world.topic, [True]

        def crashing(vectors: Sequence[Any]) -> None:
            if crashes:
                crashes.pop()
                raise Crash
            publish(vectors)

        world.restart(crashing)
        with pytest.raises(Crash):
            world.process(update("p1", 2, title="bad"))
    assert stages(world.process(update("p1", 2, title="bad"))) == ["embed"]
    assert world.state()["embeddings"] == {}
    assert world.topic.log[-1] == ("1", "p1", 2, None)
    world.process(update("p1", 3, title="good"))
    assert list(world.topic.compacted()) == ["p1"]


def test_a_patch_of_nothing_is_a_dead_letter_and_its_neighbours_are_applied() -> None:
    world = World()
    outcome = world.process(
        update("p1", 1, "patch", brand="x"),
        update("p2", 1, "delete"),
        update("p2", 2, "patch", brand="x"),
        update("p3", 1),
        update("p3", 2, "patch", brand="x"),
    )
    assert [(letter.stage, letter.record.offset) for letter in outcome.dead_letters] == [("merge", 0), ("merge", 2)]
    assert world.store.read_features(["p3"])["p3"].text["brand"] == "x"
    assert world.store.read_features(["p2"])["p2"].deleted


@pytest.mark.parametrize("key", [None, b"", b"p2", b"\xff\xfe", "p\udc80".encode("utf-8", "surrogatepass")])
def test_a_key_that_is_not_the_product_is_refused(key: bytes | None) -> None:
    """Another key means another partition: two consumers would handle one product at the same time."""
    world = World()
    outcome = world.process(record(update("p1", 1), key=key))
    assert stages(outcome) == ["decode"]
    assert "key" in outcome.dead_letters[0].message
    assert world.store.views["text"] == {}


def test_poison_stops_nothing() -> None:
    world = World()
    outcome = world.process(record(b"{", 0), update("p1", 1), record(b"\x00", 2), update("p2", 1))
    assert [letter.record.offset for letter in outcome.dead_letters] == [0, 2]
    assert counts(outcome)["refused_decode"] == 2
    assert sorted(world.topic.compacted()) == ["p1", "p2"]


def test_an_update_that_only_the_store_refuses_is_found_in_its_batch() -> None:
    world = World()
    write = world.store.write_features

    def picky(products: Sequence[Any], views: Sequence[str]) -> set[str]:
        if any(p.id == "p5" for p in products):
            raise InvalidFeatureError("Product 'p5' is not to my taste.")
        return write(products, views)

    world.store.write_features = picky  # type: ignore[method-assign]
    outcome = world.process(*(update(f"p{i}", 1) for i in range(9)), record(b"{", 9))
    letters = {(letter.stage, letter.record.offset) for letter in outcome.dead_letters}
    assert letters == {("store", 5), ("decode", 9)}
    assert sorted(world.topic.compacted()) == [f"p{i}" for i in range(9) if i != 5]


class RecordingObserver(Observer):
    """An observer that remembers what became of batches."""

    def __init__(self) -> None:
        self.seen, self.letters = Counter[str](), Counter[str]()

    def counted(self, counts: Mapping[str, int]) -> None:
        self.seen.update(counts)

    def dead_letters(self, by_stage: Mapping[str, int]) -> None:
        self.letters.update(by_stage)


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


def test_unknown_fields_are_counted() -> None:
    raw = b'{"id":"p1","version":1,"event_time":"2026-05-01T00:00:00Z","title":"t","gtin":"4"}'
    outcome = World().process(record(raw, key=b"p1"))
    assert outcome.dead_letters == []
    assert outcome.unknown_fields == {"gtin": 1}


def test_an_unpublished_embedding_is_published_although_its_update_is_stale_by_then() -> None:
    """Two crashes before publishing, the second with a later update in the batch that changes no input of the model."""
    world = World()
    same = {"title": "oak", "image_link": "a"}
    first, second = update("p1", 1, **same), update("p1", 2, **same)
    publish, crashes = world.topic, [True, True]

    def crashing(vectors: Sequence[Any]) -> None:
        if crashes:
            crashes.pop()
            raise Crash
        publish(vectors)

    world.restart(crashing)
    for batch in ([first], [first, second]):
        with pytest.raises(Crash):
            world.process(*batch)
    world.process(first)
    world.process(second)
    assert list(world.topic.compacted()) == ["p1"]


# What any history must come to.

_UPDATES = st.builds(
    lambda id, version, op, title, links: (
        update(id, version, "delete")
        if op == "delete"
        else update(id, version, title=f"{title} {version}", additional_image_link=links, price=price(f"{version}.50"))
    ),
    st.sampled_from(["a", "b", "c"]),
    st.integers(1, 9),
    st.sampled_from(["upsert", "upsert", "delete"]),
    st.sampled_from(["x", "y"]),
    st.lists(st.sampled_from(["i1", "i2", "i3"]), max_size=3),
)


def one_of_each_version(updates: Sequence[ProductUpdate]) -> list[ProductUpdate]:
    """Keep one update of each version: the contract forbids several."""
    return list({(u.id, u.version): u for u in updates}.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(_UPDATES, max_size=12), st.randoms(use_true_random=False))
def test_order_duplication_and_batches_do_not_matter(updates: list[ProductUpdate], chance: random.Random) -> None:
    updates = one_of_each_version(updates)
    undisturbed = World()
    for u in sorted(updates, key=lambda u: u.version):
        undisturbed.process(u)
    disturbed = World()
    stream = updates + chance.sample(updates, chance.randint(0, len(updates)))
    chance.shuffle(stream)
    while stream:
        size = chance.randint(1, len(stream))
        disturbed.process(*stream[:size])
        stream = stream[size:]
    assert disturbed.state() == undisturbed.state()


_HISTORIES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["upsert", "title", "price", "images", "delete"]),
        st.integers(0, 3),
    ),
    max_size=10,
)


def history(steps: Sequence[tuple[str, str, int]]) -> list[ProductUpdate]:
    """A stream as a shop writes it: versions grow, and only existing products are patched."""
    out, alive = [], set()
    for version, (id, kind, n) in enumerate(steps, 1):
        if kind == "delete":
            alive.discard(id)
            out.append(update(id, version, "delete"))
        elif kind == "upsert" or id not in alive:
            alive.add(id)
            out.append(update(id, version, title=f"t{n}", image_link=f"i{n}"))
        elif kind == "title":
            out.append(update(id, version, "patch", title=f"patched {n}", product_type=[f"category {n}"]))
        elif kind == "price":
            out.append(update(id, version, "patch", price=price(f"{n}.00")))
        else:
            out.append(update(id, version, "patch", image_link=f"i{n}"))
    return out


def make_crash(world: World, chance: random.Random, share: float) -> Callable[[], None]:
    """Make a share of the writes to the store, and of the steps before and after a publishing, crash.

    Returns a function that restarts the consumer in this world.
    """

    def may_crash(_: str) -> None:
        if chance.random() < share:
            raise Crash

    def publish(vectors: Sequence[Any]) -> None:
        may_crash("before")
        world.topic(vectors)
        may_crash("after")

    def publish_offers(offers: Sequence[OutgoingOffer]) -> None:
        may_crash("before")
        world.offers(offers)
        may_crash("after")

    def restart() -> None:
        world.restart(publish, publish_offers)

    world.store.before = may_crash
    restart()
    return restart


@settings(max_examples=150, deadline=None)
@given(_HISTORIES, st.randoms(use_true_random=False))
def test_crashes_at_any_write_and_other_batches_after_them_do_not_matter(
    steps: list[tuple[str, str, int]], chance: random.Random
) -> None:
    """At-least-once delivery with patches: after a crash the consumer reads from the last commit, in other batches."""
    stream = records(*history(steps))
    undisturbed = World()
    undisturbed.images.broken.add("i3")
    for one in stream:
        undisturbed.process(one)
    disturbed = World()
    disturbed.images.broken.add("i3")
    letters: set[tuple[str, int]] = set()

    make_crash(disturbed, chance, 0.25)
    committed = 0
    for _ in range(300):
        batch = stream[committed : committed + chance.randint(1, 4)]
        if not batch:
            break
        try:
            outcome = disturbed.process(*batch)
        except Crash:
            continue
        letters |= {(letter.stage, letter.record.offset) for letter in outcome.dead_letters}
        committed += len(batch)
    else:
        return  # crashed 300 times: says nothing
    assert disturbed.state() == undisturbed.state()
    names_i3 = {("image", n) for n, u in enumerate(history(steps)) if u.image_link == "i3"}
    assert letters <= names_i3
    for product in disturbed.store.read_features(["a", "b"]).values():
        if "" in product.image_hashes:
            to_blame = max(n for n, u in enumerate(history(steps)) if u.id == product.id and u.image_link == "i3")
            assert ("image", to_blame) in letters


@settings(max_examples=100, deadline=None)
@given(_HISTORIES, st.integers(0, 2**32))
def test_overlapping_stages_that_crash_have_the_result_of_one_update_at_a_time(
    steps: list[tuple[str, str, int]], seed: int
) -> None:
    """As in the loop: each stage takes batches in order, up to four are in flight, the last stage commits."""
    chance = random.Random(seed)
    stream = records(*history(steps))
    undisturbed = World()
    for one in stream:
        undisturbed.process(one)
    disturbed = World()

    restart = make_crash(disturbed, chance, 0.05)
    read = committed = 0
    under_way: list[list[Any]] = [[], [], []]  # before each stage: (what it is to get, the offset after it)
    for _ in range(3_000):
        if committed == len(stream):
            break
        stage = chance.randrange(4)
        try:
            if stage == 3 and read < len(stream) and sum(map(len, under_way)) < 4:
                size = chance.randint(1, 3)
                under_way[0].append((stream[read : read + size], min(read + size, len(stream))))
                read = under_way[0][-1][1]
            elif stage < 3 and under_way[stage]:
                batch, end = under_way[stage][0]
                pipeline = disturbed.pipeline
                done = (pipeline.features, pipeline.embeddings, pipeline.publishing)[stage](batch)
                under_way[stage].pop(0)
                if stage < 2:
                    under_way[stage + 1].append((done, end))
                else:
                    committed = end
        except Crash:
            if chance.random() < 0.5:  # tried again with the same batch; else the process is gone
                continue
            read, under_way = committed, [[], [], []]
            restart()
    assert committed == len(stream)
    assert disturbed.state() == undisturbed.state()
