"""A config that one process publishes is served by another at once, without waiting for its next poll."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from experiments.assigner import Assigner
from experiments.assignment import Reason
from experiments.config import ExperimentConfig
from experiments.notifications import ChangeListener
from experiments.store import ExperimentStore
from tests.experiments.builders import Threads
from tests.waiting import wait_until

Connect = Callable[[], Engine]
DEADLINE_S = 30.0


class Heard:
    """Counts its calls, and waits for the next one."""

    def __init__(self) -> None:
        self.count, self._condition = 0, threading.Condition()

    def __call__(self) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait_for(self, count: int) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self.count >= count, DEADLINE_S)


def test_an_act_of_another_process_is_served_without_a_poll(connect: Connect, config: ExperimentConfig) -> None:
    """The assigner polls once an hour; the listener makes it load now."""
    ours, theirs = ExperimentStore(connect()), ExperimentStore(connect())
    ours.create_all()
    assigner = Assigner(ours.load, interval_s=3_600.0)
    assert assigner.start(DEADLINE_S)
    listener = ChangeListener(ours.engine, assigner.wake, poll_s=0.05)
    try:
        theirs.publish(config, actor="ada", create=True)
        theirs.start(config.key, actor="ada", reason="test")
        wait_until(lambda: assigner.assign("u", config.key).reason is Reason.ASSIGNED)
    finally:
        listener.close()
        assigner.close()


def test_a_listener_calls_at_its_start_and_after_each_change(connect: Connect, config: ExperimentConfig) -> None:
    store = ExperimentStore(connect())
    store.create_all()
    heard, threads = Heard(), Threads()
    listener = ChangeListener(connect(), heard, poll_s=0.05)
    try:
        assert heard.wait_for(1), "changes before it listened"
        store.create_layer("home", actor="ada", reason="test")
        assert heard.wait_for(2)
        store.publish(config, actor="ada", create=True)
        assert heard.wait_for(3)
    finally:
        listener.close()
    wait_until(threads.have_ended)


def test_an_act_that_is_refused_is_no_change(connect: Connect, config: ExperimentConfig) -> None:
    store = ExperimentStore(connect())
    store.create_all()
    heard = Heard()
    listener = ChangeListener(connect(), heard, poll_s=0.01)
    try:
        assert heard.wait_for(1)
        with pytest.raises(LookupError):
            store.start("nobody", actor="ada", reason="test")
        store.create_layer("home", actor="ada", reason="test")
        assert heard.wait_for(2)
        store.create_layer("last", actor="ada", reason="test")
        assert heard.wait_for(3)
        assert heard.count == 3
    finally:
        listener.close()


def test_after_an_outage_the_listener_reconnects_and_reports_a_change(tmp_path: Path, config: ExperimentConfig) -> None:
    """While the database is missing every attempt fails; afterwards the listener reports one change."""
    engine = create_engine(f"sqlite:///{tmp_path / 'away' / 'late.db'}")
    heard, failed = Heard(), Heard()
    connect = engine.connect

    def counted(*arguments: object, **options: object) -> object:
        failed()
        return connect(*arguments, **options)  # type: ignore[arg-type]

    engine.connect = counted  # type: ignore[method-assign, assignment]
    listener = ChangeListener(engine, heard, poll_s=0.01)
    try:
        assert failed.wait_for(3)
        assert heard.count == 0
        (tmp_path / "away").mkdir()
        other = create_engine(f"sqlite:///{tmp_path / 'away' / 'late.db'}")
        ExperimentStore(other).create_all()
        other.dispose()
        assert heard.wait_for(1)
    finally:
        listener.close()
        engine.dispose()


@pytest.mark.integration
def test_a_broken_connection_is_opened_again(postgresql: Connect, config: ExperimentConfig) -> None:
    store = ExperimentStore(postgresql())
    store.create_all()
    heard = Heard()
    listener = ChangeListener(postgresql(), heard, poll_s=0.05)
    try:
        assert heard.wait_for(1)
        with store.engine.begin() as connection:
            connection.exec_driver_sql(
                "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen %%' "
                "and pid <> pg_backend_pid()"
            )
        assert heard.wait_for(2), "it listens again, and looks"
        store.create_layer("home", actor="ada", reason="test")
        assert heard.wait_for(3)
    finally:
        listener.close()
