"""The demo's shops: their answers, and the exposures and events that they leave."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from experiments.assigner import Assigner
from experiments.config import Arm, ExperimentConfig, PublishedExperiment
from experiments.event_rows import EventRow
from experiments.exposures import ExposureLogger
from inference.recommend import Recommender
from inference.retrieval import RetrievalIndex
from sagelift.demo.shop import ExperimentShop, KeywordSearch, UsualShop, simulated_clock, to_event
from sagelift.demo.shoppers import Action, Market, Request, Shoppers, Shown
from streaming.kafka.codec import JSON
from tests.streaming.builders import decode_event

AT = datetime(2026, 1, 5, tzinfo=UTC)


def fixed(name: str) -> "object":
    return lambda requests: [Shown([name], [r.query]) for r in requests]


def test_keyword_search_puts_rare_words_first(market: Market) -> None:
    result = KeywordSearch(market.products)("red chair 30", 3)
    assert result[0] == "p30"


def test_each_unit_that_saw_its_arm_has_an_exposure() -> None:
    config = ExperimentConfig(
        key="e", salt="e-1", coverage=10_000, arms=(Arm("a", 5_000), Arm("b", 5_000)), control="a"
    )
    logged: list[EventRow] = []
    clock, set_clock = simulated_clock(AT)
    logger = ExposureLogger(logged.append, clock=clock)
    assigner = Assigner(lambda: [PublishedExperiment(config, 1)], logger)
    assert assigner.refresh()
    shop = ExperimentShop(assigner, "e", {"a": fixed("from-a"), "b": fixed("from-b")})  # type: ignore[dict-item]
    requests = [Request(f"u{i}", "search", "chair", ()) for i in range(50)]
    set_clock(AT.replace(day=7))
    shown = shop(requests)
    assert logger.close(10) == 0
    arms = {row.unit_id: row.arm for row in logged}
    assert len(logged) == 50
    assert [s.ids for s in shown] == [[f"from-{arms[r.unit_id]}"] for r in requests]
    assert {row.event_time for row in logged} == {int(AT.replace(day=7).timestamp() * 1e6)}


def test_with_equal_arms_the_assignment_changes_nothing(market: Market) -> None:
    """An A/A test of the simulator: another salt gives other arms and exactly the same actions."""

    def same(requests: Sequence[Request]) -> list[Shown]:
        return [Shown([f"p{i}" for i in range(10)], [r.query or r.history[-1]] * 10) for r in requests]

    def actions(salt: str) -> tuple[list[Action], list[str | None]]:
        config = ExperimentConfig(
            key="e", salt=salt, coverage=10_000, arms=(Arm("a", 5_000), Arm("b", 5_000)), control="a"
        )
        assigner = Assigner(lambda: [PublishedExperiment(config, 1)])
        assert assigner.refresh()
        shoppers = Shoppers(market, 300, seed=5)
        shop = ExperimentShop(assigner, "e", {"a": same, "b": same})
        done = [a for day in range(4) for a in shoppers.round(shop, AT + timedelta(days=day), timedelta(days=1))]
        return done, [assigner.assign(unit, "e").arm for unit in shoppers.ids]

    (first, first_arms), (second, second_arms) = actions("salt-1"), actions("salt-2")
    assert first_arms != second_arms
    assert first == second


def test_an_answer_that_fails_is_no_exposure() -> None:
    config = ExperimentConfig(
        key="e", salt="e-1", coverage=10_000, arms=(Arm("a", 5_000), Arm("b", 5_000)), control="a"
    )
    logged: list[EventRow] = []
    logger = ExposureLogger(logged.append)
    assigner = Assigner(lambda: [PublishedExperiment(config, 1)], logger)
    assert assigner.refresh()

    def broken(requests: Sequence[Request]) -> list[Shown]:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        ExperimentShop(assigner, "e", {"a": broken, "b": broken})([Request("u", "search", "x", ())])
    assert logger.close(5) == 0
    assert not logged


def test_the_usual_shop_answers_every_request_and_explores(market: Market) -> None:
    index = RetrievalIndex("sum", dim=24)
    vectors = {p.id: market.place[i].astype("float32") for i, p in enumerate(market.products)}
    for product_id, vector in vectors.items():
        index.upsert(product_id, 0, vector)

    def unused(texts: Sequence[str]) -> "object":
        raise AssertionError

    similar = Recommender(index, unused, vectors)  # type: ignore[arg-type]
    requests = [Request("u", "search", "red chair", ()), Request("v", "user", "", ("p1", "p2"))] * 40
    plain = UsualShop(similar, market.products, seed=1, explore=0.0)(requests)
    explored = UsualShop(similar, market.products, seed=1, explore=0.5)(requests)
    assert len(plain) == len(explored) == len(requests)
    assert len({tuple(s.ids) for s in plain[0::2]}) == 1
    assert len({tuple(s.ids) for s in explored[0::2]}) > 20
    for shown in explored:
        assert len(shown.ids) == len(set(shown.ids)) == len(shown.queries)
        assert all(shown.queries)


def test_an_action_becomes_a_valid_event_with_the_same_id_each_time() -> None:
    order = Action("order", "u", AT, "p1", "search", "red chair", 3, 4200, "EUR")
    event = to_event(order)
    assert decode_event(JSON.encode(event), now=AT) == event
    assert event == to_event(order)
    assert event.event_id != to_event(Action("order", "u", AT, "p1", "search", "red chair", 4, 4200, "EUR")).event_id
    refund = to_event(Action("refund", "u", AT, "p1", "search", "red chair", 3, 4200, "EUR"))
    assert refund.order_id == event.order_id
    assert refund.event_id != event.event_id
