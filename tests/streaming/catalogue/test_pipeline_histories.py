"""Any order, batching and crash of the catalogue pipeline leads to the same final state."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.contracts import ProductUpdate
from streaming.vectors.publisher import OutgoingOffer
from tests.streaming.builders import price, records, update
from tests.streaming.fakes import Crash
from tests.streaming.world import World

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
