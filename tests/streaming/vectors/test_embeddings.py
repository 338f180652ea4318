"""Two processes that embed and publish: the topic's last record of a product is what the store holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streaming.release.catalogue_shards import EmbeddingContext
from streaming.release.reembed import reembed
from streaming.vectors.embeddings import publish_vectors
from streaming.vectors.publisher import OutgoingVector
from tests.streaming.builders import update
from tests.streaming.fakes import FakeEmbedder
from tests.streaming.world import World


def held(world: World) -> dict[str, str]:
    """Content hash of the stored embedding, by product."""
    return {i: e.content_hash for i, e in world.store.embeddings["1"].items() if not e.deleted}


def on_topic(world: World) -> dict[str, str]:
    """Content hash of the topic's last record, by product."""
    last = {i: vector for model, i, _, vector in world.topic.log if model == "1"}
    return {i: vector.content_hash for i, vector in last.items() if vector is not None}


def overtaken(world: World, *others: Callable[[], object]) -> Callable[[Sequence[OutgoingVector]], None]:
    """A publisher that is overtaken: before its first records reach the topic, others write and publish."""
    waiting = list(others)

    def publish(vectors: Sequence[OutgoingVector]) -> None:
        if waiting:
            waiting.pop(0)()
        world.topic(vectors)

    return publish


def reembedded_while(world: World, *others: Callable[[], object]) -> None:
    """A re-embedding whose vectors are written, but reach the topic only after the actions of others."""
    world.store.embeddings["1"].clear()
    reembed(EmbeddingContext(world.store, FakeEmbedder("1"), overtaken(world, *others)))


def test_a_late_older_vector_on_the_topic_is_followed_by_the_newer_one() -> None:
    world = World()
    world.process(update("p1", 1), update("p2", 1))
    reembedded_while(world, lambda: world.process(update("p1", 2, title="new")))
    assert on_topic(world) == held(world)
    assert world.topic.log[-1][:3] == ("1", "p1", 2)


def test_a_product_that_is_deleted_during_publishing_does_not_come_back() -> None:
    world = World()
    world.process(update("p1", 1))
    reembedded_while(world, lambda: world.process(update("p1", 2, "delete")))
    assert on_topic(world) == held(world) == {}


def test_a_repeated_publishing_may_itself_be_overtaken() -> None:
    world = World()
    world.process(update("p1", 1))
    reembedded_while(
        world,
        lambda: world.process(update("p1", 2, title="new")),
        lambda: world.process(update("p1", 3, "delete")),
        lambda: world.process(update("p1", 4, title="back")),
    )
    assert on_topic(world) == held(world)
    assert world.topic.log[-1][:3] == ("1", "p1", 4)


def test_a_late_tombstone_on_the_topic_does_not_hide_a_product_that_is_back() -> None:
    world = World()
    world.process(update("p1", 1), update("p1", 2, "delete"))
    publish_vectors(
        [OutgoingVector("1", "p1", 2, None)],
        world.store,
        overtaken(world, lambda: world.process(update("p1", 3, title="back"))),
    )
    assert on_topic(world) == held(world)
    assert list(on_topic(world)) == ["p1"]


def test_vectors_that_were_not_overtaken_are_published_once() -> None:
    world = World()
    world.process(update("p1", 1), update("p2", 1), update("p3", 1, "delete"))
    assert len(world.topic.log) == 3
