"""The comparison of `benchmarks.faults`: how a disturbed run differs from an undisturbed one.

`observe` reads what the disturbed run left in the store and on the topics, `undisturbed` makes the expected states, and
`differing_products` and `differing_events` compare. The comparisons do no input or output of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Engine, text

from benchmarks._fault_site import Site
from benchmarks._fault_stories import EventStory, Message, Story
from sagelift.services import Services
from streaming.catalogue.images.fetch import ImageFetcher
from streaming.catalogue.images.vectors import CachedImageVectors
from streaming.catalogue.pipeline import CatalogPipeline
from streaming.contracts import ProductOffer, ProductVector
from streaming.kafka.codec import JSON
from streaming.kafka.connection import TopicPartition
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, PRODUCT_EMBEDDINGS, PRODUCT_OFFERS, dead_letter_topic

_SAME_COSINE = 0.999  # a vector depends slightly on the batch in which it was embedded


class FaultReport(NamedTuple):
    """How the disturbed run differs from an undisturbed one. All fields count.

    Attributes:
        products: Expected products.
        lost: Products with missing features, embedding, vector or offer, or present though deleted.
        stale: Products of an older version.
        wrong: Products with other content.
        poison: Bad product messages.
        poison_missing: Bad product messages without a dead letter.
        poison_copies: Largest number of dead letters of one message.
        events: Sent events.
        events_wrong: Events that the database lacks, has twice, or has with other content.
        event_poison_missing: Bad events without a dead letter.
    """

    products: int
    lost: int
    stale: int
    wrong: int
    poison: int
    poison_missing: int
    poison_copies: int
    events: int
    events_wrong: int
    event_poison_missing: int


class ProductState(NamedTuple):
    """A product as one run left it.

    Attributes:
        version: Its version.
        features: Texts, image links and hashes, and at the end the offer: amount, currency and availability.
        content_hash: Content hash of its embedding.
        vector: Its embedding, `[256]`.
    """

    version: int
    features: tuple[Any, ...]
    content_hash: str
    vector: np.ndarray[Any, Any]


class Observed(NamedTuple):
    """What a run left, by product id: in the store, and as the last record of each topic."""

    states: Mapping[str, ProductState]
    vectors: Mapping[str, ProductVector]
    offers: Mapping[str, ProductOffer]


class ProductDifferences(NamedTuple):
    """Numbers of products that differ; see `FaultReport`."""

    lost: int
    stale: int
    wrong: int


def compare(site: Site, story: Story, events: EventStory) -> FaultReport:
    """Compare what is stored now with the same stream without disturbance."""
    expected = undisturbed(site, story)
    differences = differing_products(expected, observe(site.services, story.prefix))
    poison = [m for m in story.messages if m.poison]
    copies = dead_letter_copies(poison, _dead_letters(site.services, CATALOG_UPDATES))
    bad_events = (key for key, _ in _dead_letters(site.services, EVENTS))
    events_wrong = differing_events(site.services.database, events)
    return FaultReport(
        products=len(expected),
        **differences._asdict(),
        poison=len(copies),
        poison_missing=copies.count(0),
        poison_copies=max(copies, default=0),
        events=len(events.messages),
        events_wrong=events_wrong,
        event_poison_missing=len(events.poison - set(bad_events)),
    )


def differing_products(expected: Mapping[str, ProductState], observed: Observed) -> ProductDifferences:
    """Count the products whose state, vector or offer differs from the expected state."""
    states, vectors, offers = observed
    lost = stale = wrong = 0
    for id in expected.keys() | states.keys() | vectors.keys() | offers.keys():
        if not (id in expected and id in states and id in vectors and id in offers):
            lost += 1
        elif states[id].version != expected[id].version:
            stale += 1
        elif not (
            _same(states[id], expected[id])
            and vectors[id].content_hash == expected[id].content_hash
            and _offer_fields(offers[id]) == expected[id].features[-3:]
        ):
            wrong += 1
    return ProductDifferences(lost, stale, wrong)


def dead_letter_copies(poison: Iterable[Message], letters: Iterable[tuple[bytes, bytes]]) -> list[int]:
    """Return the number of dead letters (key, value) of each distinct bad message."""
    counts = Counter(letters)
    return [counts[message] for message in {(m.key, m.value) for m in poison}]


def differing_events(database: Engine, story: EventStory) -> int:
    """Count the events that are missing, stored twice or stored with other content."""
    like = {"mine": f"{story.prefix}%"}
    with database.connect() as connection:
        clicks = Counter(
            id for (id,) in connection.execute(text("select event_id from event where event_id like :mine"), like)
        )
        ledger = connection.execute(
            text("select event_id, kind, amount_minor from order_event where event_id like :mine"), like
        ).all()
    money = {id: (kind, amount) for id, kind, amount in ledger}
    wrong = sum(clicks[id] != 1 for id in story.clicks) + len(clicks.keys() - story.clicks)
    wrong += sum(money.get(id) != expected for id, expected in story.money.items())
    return wrong + len(money.keys() - story.money.keys()) + len(ledger) - len(money)


def undisturbed(site: Site, story: Story) -> dict[str, ProductState]:
    """Process the stream in order with one pipeline in this process and a store of its own."""
    settings = site.services.settings.model_copy(update={"state_dir": site.folder / f"calm-{story.prefix}"})
    with Services(settings) as services, ImageFetcher(root=[site.folder]) as fetcher:
        images = CachedImageVectors(fetcher.fetch_many, services.triton.encode_images, services.visual_cache)
        services.prepare_visual_encoder()
        pipeline = CatalogPipeline(
            services.features, images, services.open_live_embedder, *(_publish_nothing,) * 3, JSON
        )
        for start in range(0, len(story.messages), 200):
            pipeline.process(story.messages[start : start + 200])
        return _states(services, story.prefix)


def observe(services: Services, prefix: str) -> Observed:
    """Read the products whose ids begin with `prefix` from the store and from both topics, without deleted ones."""
    return Observed(_states(services, prefix), _last_vectors(services, prefix), _last_offers(services, prefix))


def _publish_nothing(*_: Any, **__: Any) -> None:
    """Ignore the records."""


def _same(one: ProductState, other: ProductState) -> bool:
    return one[1:3] == other[1:3] and float(one.vector @ other.vector) > _SAME_COSINE


def _states(services: Services, prefix: str) -> dict[str, ProductState]:
    out = {}
    for page in services.features.scan_features():
        mine = [p for p in page if p.id.startswith(prefix)]
        embeddings = services.features.read_embeddings("1", [p.id for p in mine])
        for p in mine:
            embedding = embeddings.get(p.id)
            if embedding is None or embedding.deleted:
                continue
            features = (p.text, p.image_urls, p.image_hashes, p.amount_minor, p.currency, p.availability)
            out[p.id] = ProductState(p.version, features, embedding.content_hash, embedding.vector)
    return out


def _last_vectors(services: Services, prefix: str) -> dict[str, ProductVector]:
    """Return the last vector of each product on the topic, as a new reader finds it."""
    last = {record.key: record.value for record in _read_all(services, PRODUCT_EMBEDDINGS)}
    key_prefix = f"1/{prefix}".encode()
    return {
        key.decode().partition("/")[2]: JSON.decode(ProductVector, value)
        for key, value in last.items()
        if value is not None and key.startswith(key_prefix)
    }


def _last_offers(services: Services, prefix: str) -> dict[str, ProductOffer]:
    """Return the last offer of each product on the topic."""
    last = {record.key.decode(): record.value for record in _read_all(services, PRODUCT_OFFERS)}
    return {
        id: JSON.decode(ProductOffer, value)
        for id, value in last.items()
        if value is not None and id.startswith(prefix)
    }


def _offer_fields(offer: ProductOffer) -> tuple[Any, ...]:
    return offer.amount_minor, offer.currency, offer.availability


def _dead_letters(services: Services, topic: str) -> Iterator[tuple[bytes, bytes]]:
    for record in _read_all(services, dead_letter_topic(topic)):
        yield record.key, record.value


def _read_all(services: Services, topic: str) -> Iterator[Any]:
    consumer = services.kafka.consumer()
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for records in consumer.poll(500).values():
                yield from records
    finally:
        consumer.close()
