"""Guardrails: a loss that is shown stops the ramp with its evidence; what is not shown, or tolerated, does not."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from analysis.metrics import Count, Mean
from experiments.config import Arm, ExperimentConfig, MetricRole
from experiments.engine import writing
from experiments.store import ExperimentStore
from sagelift.experiment_report import ReportPlanError
from sagelift.guardrails import GuardrailResult, judge, react, verdict_of

DAY = 86_400_000_000
START = 1_780_272_000_000_000
CLICKS = Count(name="clicks_per_user", column="clicks", role="guardrail")
COSTS = Count(name="saves_per_user", column="saves", role="guardrail", direction="decrease")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ExperimentStore]:
    engine = create_engine(f"sqlite:///{tmp_path / 'guard.db'}")
    store = ExperimentStore(engine, clock=lambda: START + 20 * DAY)
    store.create_all()
    config = ExperimentConfig(
        key="ranking",
        salt="ranking-1",
        coverage=1_000,
        arms=(Arm("control", 5_000), Arm("treatment", 5_000)),
        control="control",
        metrics=(MetricRole("clicks_per_user", "guardrail"), MetricRole("saves_per_user", "guardrail")),
    )
    store.publish(config, actor="ada", create=True)
    store.start("ranking", actor="ada", reason="test")
    yield store
    engine.dispose()


def enrol(store: ExperimentStore, units: int, clicks: tuple[float, float], saves: tuple[float, float] = (1, 1)) -> None:
    """Writes the events of so many units per arm, with these means per unit in control and treatment."""
    random = np.random.default_rng(7)
    exposures: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for index, arm in enumerate(("control", "treatment")):
        for number in range(units):
            unit = f"{arm}{number}"
            exposures.append({"u": unit, "a": arm, "t": START + number})
            for kind, mean in (("click", clicks[index]), ("save", saves[index])):
                events += [
                    {"i": f"{unit}{kind}{n}", "k": kind, "u": unit, "t": START + DAY}
                    for n in range(random.poisson(mean))
                ]
    with writing(store.engine) as connection:
        connection.execute(
            text("insert into first_exposure_by_phase values ('ranking', 1, :u, :a, :t, '{}')"), exposures
        )
        connection.execute(text("insert into event values (:i, :k, :u, :t, 'p', null, null, :t)"), events)


def look(store: ExperimentStore, *metrics: Any) -> list[GuardrailResult]:
    (published,) = store.load()
    return judge(store.engine, published, metrics or (CLICKS, COSTS), planned_units=2_000, window=timedelta(days=14))


def test_an_experiment_without_exposures_is_not_judged(store: ExperimentStore) -> None:
    assert look(store) == []


def test_a_loss_that_is_shown_holds_the_ramp_with_its_evidence(store: ExperimentStore) -> None:
    enrol(store, 500, clicks=(3.0, 2.0))
    clicks, saves = look(store)
    assert (clicks.verdict, saves.verdict) == ("breached", "holds")
    assert clicks.high is not None
    assert clicks.high < 0
    assert clicks.alpha == pytest.approx(0.025)  # two guardrails
    assert react(store, [saves], "hold") is None
    assert store.history("ranking")[-1].version == 1
    assert react(store, [clicks, saves], "stop") == clicks
    last = store.history("ranking")[-1]
    assert (last.state, last.actor) == ("stopped", "guardrails")
    assert last.reason == "guardrail clicks_per_user is breached in treatment"
    assert last.evidence == clicks.evidence
    assert last.evidence["p"] < 0.025
    assert last.evidence["n_control"] == 500
    assert store.audit("ranking")[0].detail["evidence"] == clicks.evidence


def test_only_a_change_in_the_bad_direction_is_a_breach(store: ExperimentStore) -> None:
    enrol(store, 500, clicks=(2.0, 3.0), saves=(2.0, 3.0))
    clicks, saves = look(store)
    assert (clicks.verdict, saves.verdict) == ("holds", "breached")


def test_a_loss_within_the_margin_is_tolerated(store: ExperimentStore) -> None:
    enrol(store, 800, clicks=(3.0, 2.4), saves=(1, 1))
    tolerant = Count(name="clicks_per_user", column="clicks", role="guardrail", margin=0.5)
    strict = Count(name="clicks_per_user", column="clicks", role="guardrail", margin=0.01)
    assert [each.verdict for each in look(store, tolerant, COSTS)] == ["holds", "holds"]
    assert [each.verdict for each in look(store, strict, COSTS)] == ["breached", "holds"]


def test_few_units_are_too_early_for_any_result(store: ExperimentStore) -> None:
    enrol(store, 99, clicks=(9.0, 1.0))
    assert {each.verdict for each in look(store)} == {"too early"}


def test_a_guardrail_that_nobody_declared_is_named(store: ExperimentStore) -> None:
    with pytest.raises(ReportPlanError, match="names the guardrail saves_per_user, which is not declared"):
        look(store, CLICKS, Mean(name="gmv", column="gmv_net"))


@pytest.mark.parametrize(
    ("direction", "low", "high", "margin", "verdict"),
    [
        ("increase", None, -0.01, None, "breached"),
        ("decrease", 0.01, None, None, "breached"),
        ("increase", None, None, None, "holds"),
        ("increase", -0.03, -0.01, 0.05, "holds"),
        ("increase", None, -0.01, 0.05, "breached"),
        ("decrease", 0.01, 0.03, 0.05, "holds"),
        ("decrease", 0.01, None, 0.05, "breached"),
        ("decrease", 0.01, 0.06, 0.05, "breached"),
    ],
)
def test_one_bound_of_the_lift_is_enough_to_show_a_loss(
    direction: str, low: float | None, high: float | None, margin: float | None, verdict: str
) -> None:
    result = SimpleNamespace(
        anytime=SimpleNamespace(low=low, high=high),
        direction=direction,
        margin=None if margin is None else SimpleNamespace(margin=margin),
        n_control=1_000,
        n_treatment=1_000,
    )
    assert verdict_of(result) == verdict
