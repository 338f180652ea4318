"""The assigner: decisions from memory, the last good configs kept, stale state visible."""

import msgspec

from experiments.client import Assigner
from experiments.config import ExperimentConfig, PublishedExperiment
from experiments.decision import Reason
from experiments.events import EventRow
from experiments.exposures import ExposureLogger
from experiments.store import ExperimentStore


def test_a_published_experiment_is_served_from_the_store(store: ExperimentStore, config: ExperimentConfig) -> None:
    assigner = Assigner(store.load)
    assert assigner.assign("u1", "ranking").reason is Reason.UNKNOWN_EXPERIMENT
    store.create_experiment("ranking", actor="ada")
    store.publish(config, actor="ada")
    assert assigner.refresh()
    assert assigner.assign("u1", "ranking").arm is None, "a draft is not served"
    for state, reason in (("running", Reason.ASSIGNED), ("paused", Reason.PAUSED), ("stopped", Reason.STOPPED)):
        store.transition("ranking", state, actor="ada", reason="test")  # type: ignore[arg-type]
        assert assigner.refresh()
        decision = assigner.assign("u1", "ranking")
        assert (decision.reason, decision.enrolled) == (reason, state == "running")


def test_a_failed_refresh_keeps_the_last_good_configs_and_shows(config: ExperimentConfig) -> None:
    now = [100.0]
    answers: list[list[PublishedExperiment] | Exception] = [
        ConnectionError("database away"),
        [PublishedExperiment(config, 1)],
        ConnectionError("database away"),
        [PublishedExperiment(config, 2), PublishedExperiment(msgspec.structs.replace(config, key="b"), 1, "draft")],
        [],
    ]

    def load() -> list[PublishedExperiment]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assigner = Assigner(load, stale_after_s=30, monotonic=lambda: now[0])
    assert not assigner.refresh()
    assert msgspec.to_builtins(assigner.status()) == {
        "experiments": 0, "age_s": None, "stale": True, "last_error": "ConnectionError: database away",
    }  # fmt: skip
    assert assigner.refresh()
    assert (assigner.status().stale, assigner.status().age_s, assigner.status().last_error) == (False, 0.0, None)
    now[0] += 31
    assert not assigner.refresh()
    assert (assigner.status().stale, assigner.status().age_s) == (True, 31.0)
    assert not assigner.refresh(), "one config that cannot be served: nothing of the load is taken"
    assert assigner.assign("u1", "ranking").config_version == 1
    assert assigner.refresh()
    assert assigner.assign("u1", "ranking").reason is Reason.UNKNOWN_EXPERIMENT
    assert not assigner.status().stale


def test_an_exposure_is_logged_where_it_is_used_and_only_there(config: ExperimentConfig) -> None:
    sent: list[EventRow] = []
    logger = ExposureLogger(sent.append)
    assigner = Assigner(lambda: [PublishedExperiment(config, 1)], logger)
    assigner.refresh()
    decisions = [assigner.assign(f"u{i}", "ranking") for i in range(5)]
    assert assigner.expose(decisions[3])
    assert not assigner.expose(decisions[3])
    assert not assigner.expose(assigner.assign(None, "ranking"))
    assert not assigner.expose(assigner.assign("u1", "unknown"))
    logger.close()
    assert [(row.unit_id, row.arm) for row in sent] == [("u3", decisions[3].arm)]


def test_what_the_assigner_logs_the_store_accepts(store: ExperimentStore, config: ExperimentConfig) -> None:
    """From assignment to `first_exposure`, without a broker between."""
    store.create_experiment("ranking", actor="ada")
    store.publish(config, actor="ada")
    store.transition("ranking", "running", actor="ada", reason="test")
    rows: list[EventRow] = []
    logger = ExposureLogger(rows.append)
    assigner = Assigner(store.load, logger)
    assigner.refresh()
    for i in range(100):
        assigner.expose(assigner.assign(f"u{i}", "ranking"))
    logger.close()
    result = store.write_events(rows)
    assert (result.written, result.rejected) == (100, ())


def test_without_a_logger_nothing_is_exposed(config: ExperimentConfig) -> None:
    assigner = Assigner(lambda: [PublishedExperiment(config, 1)])
    assigner.refresh()
    assert not assigner.expose(assigner.assign("u1", "ranking"))
