"""The exposure logger logs once per unit and window, never blocks the caller, and drops whole units."""

import re
import threading
from concurrent.futures import Future

import pytest

from experiments.assignment import Assignment, Reason
from experiments.event_rows import EventRow, row_problem
from experiments.exposures import DAY_US, ExposureLogger, exposure_id
from tests.experiments.builders import Threads
from tests.waiting import wait_until

NOON = 19_675 * DAY_US + DAY_US // 2


def assignment(unit: str, arm: str = "control", experiment: str = "ranking", version: int = 1) -> Assignment:
    return Assignment(experiment, unit, arm, True, Reason.ASSIGNED, version, 1, 2)


class Gate:
    """A `send` that blocks until it is opened, and keeps the rows that it sent."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.rows: list[EventRow] = []

    def __call__(self, row: EventRow) -> None:
        self.entered.set()
        assert self.opened.wait(20)
        self.rows.append(row)


def test_the_id_is_the_one_of_the_specification() -> None:
    """X1, with the expected value from `printf 'ranking\\0371\\037control\\03719675\\037u1' | sha256sum`."""
    assert exposure_id("ranking", 1, "u1", "control", 19_675) == "84e3f7da07fcdab5e128965451d3c9a8"


def test_every_part_of_the_id_counts_and_is_delimited() -> None:
    ids = {
        exposure_id("ranking", 1, "u1", "control", 19_675),
        exposure_id("rankin", 1, "u1", "control", 19_675),
        exposure_id("ranking", 11, "u1", "control", 19_675),
        exposure_id("ranking", 1, "u2", "control", 19_675),
        exposure_id("ranking", 1, "u1", "treatment", 19_675),
        exposure_id("ranking", 1, "u1", "control", 19_676),
        exposure_id("ranking", 1, "5\x1fu1", "control", 1_967),
    }
    assert len(ids) == 7
    assert all(re.fullmatch("[0-9a-f]{32}", result) for result in ids)


def test_an_exposure_is_sent_once_per_unit_experiment_version_arm_and_window() -> None:
    sent: list[EventRow] = []
    now = [NOON]
    logger = ExposureLogger(sent.append, clock=lambda: now[0])
    different = [
        assignment("u1"), assignment("u2"), assignment("u1", experiment="other"), assignment("u1", version=2),
        assignment("u1", "treatment"),
    ]  # fmt: skip
    assert [logger.log(d) for d in different] == [True] * 5
    assert [logger.log(d) for d in different] == [False] * 5
    now[0] += DAY_US
    assert logger.log(assignment("u1"))
    assert logger.close() == 0
    assert len(sent) == len({row.event_id for row in sent}) == 6
    assert all(row_problem(row) is None for row in sent)
    first = next(row for row in sent if row.event_id == exposure_id("ranking", 1, "u1", "control", NOON // DAY_US))
    assert (first.kind, first.unit_id, first.experiment, first.arm, first.config_version, first.event_time) == (
        "exposure", "u1", "ranking", "control", 1, NOON,
    )  # fmt: skip
    stats = logger.stats()
    assert (stats.logged, stats.sent, stats.duplicate, stats.dropped, stats.queued) == (6, 6, 5, 0, 0)


def test_two_loggers_give_one_exposure_the_same_id() -> None:
    """After a restart or with two replicas, the store keeps the exposure once."""
    ids = []
    for delay in (0, 1_000_000):
        sent: list[EventRow] = []
        logger = ExposureLogger(sent.append, clock=lambda delay=delay: NOON + delay)  # type: ignore[misc]
        logger.log(assignment("u1"))
        logger.close()
        ids.append(sent[0].event_id)
    assert ids[0] == ids[1]


def test_who_is_not_enrolled_is_not_exposed() -> None:
    sent: list[EventRow] = []
    logger = ExposureLogger(sent.append)
    assert not logger.log(Assignment("ranking", "u1", "control", False, Reason.OUTSIDE_COVERAGE, 1, 9_999))
    assert not logger.log(Assignment("ranking", "u1", "control", False, Reason.PAUSED, 1, 1, 1))
    assert not logger.log(Assignment("nobody", "u1", None, False, Reason.UNKNOWN_EXPERIMENT, 0))
    logger.close()
    assert sent == []


def test_the_caller_never_waits_for_send() -> None:
    gate = Gate()
    logger = ExposureLogger(gate)
    logger.log(assignment("first"))
    assert gate.entered.wait(20)
    for i in range(1_000):
        assert logger.log(assignment(f"u{i}"))
    # `send` stays blocked throughout: a caller that waited for it would never return.
    assert gate.rows == []
    gate.opened.set()
    assert logger.close() == 0
    assert len(gate.rows) == 1_001


def test_an_overflow_drops_whole_units_counts_them_and_welcomes_them_back() -> None:
    gate = Gate()
    logger = ExposureLogger(gate, queue_limit=1_000)
    logger.log(assignment("first"))
    assert gate.entered.wait(20)
    units = [f"u{i}" for i in range(3_000)]
    for unit in units:
        for experiment in ("a", "b"):
            logger.log(assignment(unit, experiment=experiment))
    stats = logger.stats()
    assert stats.queued <= 1_000 + 256 + 1  # and what the thread has taken
    assert 0 < stats.kept_share < 1
    assert stats.logged + stats.dropped == 6_001
    gate.opened.set()
    wait_until(lambda: logger.stats().queued == 0)
    wait_until(lambda: logger.stats().kept_share == 1)
    per_unit = {unit: sum(row.unit_id == unit for row in gate.rows) for unit in units}
    assert set(per_unit.values()) == {0, 2}, "a unit was sent by half"
    dropped = [unit for unit, count in per_unit.items() if count == 0]
    assert stats.dropped_units == len(dropped)
    early, late = units[:1_500], units[1_500:]
    assert any(per_unit[unit] for unit in early), "the oldest were all dropped"
    assert any(per_unit[unit] for unit in late), "the newest were all dropped"
    assert logger.log(assignment(dropped[0], experiment="a")), "dropped units are logged again once there is room"
    assert logger.close() == 0


def test_a_way_that_is_blocked_is_tried_again_until_it_is_free() -> None:
    attempts: list[str] = []

    def send(row: EventRow) -> None:
        attempts.append(row.unit_id)
        if len(attempts) < 3:
            raise ConnectionError("broker away")

    logger = ExposureLogger(send)
    logger.log(assignment("u1"))
    wait_until(lambda: logger.stats().sent == 1)
    assert attempts == ["u1"] * 3
    assert logger.stats().last_error == "ConnectionError: broker away"
    logger.close()


def test_a_row_counts_as_sent_when_its_delivery_is_certain_and_not_when_it_was_handed_over() -> None:
    outcomes: list[Future[None]] = []

    def send(row: EventRow) -> Future[None]:
        outcomes.append(Future())
        return outcomes[-1]

    logger = ExposureLogger(send)
    logger.log(assignment("u1"))
    wait_until(lambda: len(outcomes) == 1)
    assert (logger.stats().sent, logger.stats().queued) == (0, 1)
    outcomes[0].set_result(None)
    wait_until(lambda: logger.stats().sent == 1)
    assert logger.close() == 0


def test_a_delivery_that_fails_later_is_made_again_and_only_that_one() -> None:
    handed_over: list[str] = []
    delivered: list[str] = []

    def send(row: EventRow) -> Future[None]:
        outcome: Future[None] = Future()
        if row.unit_id == "bad":
            outcome.set_exception(ValueError("refused for good"))
        elif row.unit_id == "u1" and handed_over.count("u1") < 2:
            outcome.set_exception(ConnectionError("broker away"))
        else:
            delivered.append(row.unit_id)
            outcome.set_result(None)
        handed_over.append(row.unit_id)
        return outcome

    logger = ExposureLogger(send)
    for unit in ("u0", "u1", "bad", "u2"):
        logger.log(assignment(unit))
    assert logger.close() == 0
    assert sorted(delivered) == ["u0", "u1", "u2"]
    assert sorted(handed_over) == ["bad", "u0", "u1", "u1", "u1", "u2"]
    assert (logger.stats().sent, logger.stats().failed) == (3, 1)
    assert logger.stats().last_error is not None


def test_close_waits_no_longer_than_its_deadline_for_an_answer() -> None:
    threads = Threads()
    logger = ExposureLogger(lambda row: Future())
    for i in range(3):
        logger.log(assignment(f"u{i}"))
    assert logger.close(timeout_s=0.3) == 3
    wait_until(threads.have_ended)


def test_a_row_that_is_at_fault_is_counted_and_does_not_stop_the_others() -> None:
    sent: list[str] = []

    def send(row: EventRow) -> None:
        if row.unit_id == "bad":
            raise ValueError("cannot be encoded")
        sent.append(row.unit_id)

    logger = ExposureLogger(send)
    for unit in ("a", "bad", "b"):
        logger.log(assignment(unit))
    assert logger.close() == 0
    assert sorted(sent) == ["a", "b"]
    assert (logger.stats().failed, logger.stats().sent) == (1, 2)


@pytest.mark.parametrize("fault", ["blocked", "refused"])
def test_close_keeps_its_deadline_and_returns_the_number_of_unsent_exposures(fault: str) -> None:
    release, threads = threading.Event(), Threads()

    def send(row: EventRow) -> None:
        if fault == "blocked":
            release.wait(20)
        raise ConnectionError("broker away")

    logger = ExposureLogger(send)
    for i in range(10):
        logger.log(assignment(f"u{i}"))
    assert logger.close(timeout_s=0.3) == 10
    release.set()
    wait_until(threads.have_ended)


def test_after_close_exposures_are_counted_as_dropped() -> None:
    sent: list[EventRow] = []
    logger = ExposureLogger(sent.append)
    assert logger.close() == 0
    assert not logger.log(assignment("u1"))
    assert logger.stats().dropped == 1
    assert sent == []


def test_many_threads_lose_and_double_nothing() -> None:
    sent: list[EventRow] = []
    logger = ExposureLogger(sent.append)

    def work() -> None:
        for i in range(500):
            logger.log(assignment(f"u{i}"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert logger.close() == 0
    assert len(sent) == len({row.event_id for row in sent}) == 500
    assert logger.stats().duplicate == 1_500
