"""The faults of `benchmarks.faults`. Each takes the site and its consumers and leaves them able to continue."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from benchmarks._fault_site import Consumers, Site

Fault = Callable[[Site, Consumers], None]


def kill_consumer(site: Site, consumers: Consumers) -> None:
    """Kill the consumer and start another."""
    consumers.kill()
    consumers.start()


def join_and_leave(site: Site, consumers: Consumers) -> None:
    """Start a second consumer and stop the first."""
    consumers.start()
    consumers.wait_for_members(2)
    consumers.leave()


def join_and_kill(site: Site, consumers: Consumers) -> None:
    """Start a second consumer and kill the first."""
    consumers.start()
    consumers.wait_for_members(2)
    consumers.kill()


def kill_sink(site: Site, consumers: Consumers) -> None:
    """Kill the event sink and start another."""
    consumers.kill_sink()


def kill_model(site: Site, consumers: Consumers) -> None:
    """Kill the processes of Triton's models."""
    assert site.triton.pid is not None
    for child in psutil.Process(site.triton.pid).children(recursive=True):
        child.kill()


def kill_triton(site: Site, consumers: Consumers) -> None:
    """Kill Triton and start it again."""
    site.triton.kill()
    site.triton.restart()


def kill_broker(site: Site, consumers: Consumers) -> None:
    """Kill the broker and start it again."""
    consumers.hang_up()
    site.broker.kill()
    site.broker.restart()


def lock_store(site: Site, consumers: Consumers) -> None:
    """Lock the feature store for two seconds and kill the consumer in that time."""
    with _locked_store(site):
        consumers.kill()
        consumers.start()
        _let_pass(2)


def lock_store_for_long(site: Site, consumers: Consumers) -> None:
    """Lock the feature store for 20 seconds."""
    with _locked_store(site):
        _let_pass(20)


def suspend_broker(site: Site, consumers: Consumers) -> None:
    """Suspend the broker for a minute, so that its connections hang."""
    consumers.hang_up()
    broker = psutil.Process(site.broker.pid)
    broker.suspend()
    try:
        _let_pass(60)
    finally:
        broker.resume()


def full_disk(site: Site, consumers: Consumers) -> None:
    """Prevent the files of all consumers from growing for ten seconds, like a full disk."""
    limited = [psutil.Process(process.pid) for process in consumers.processes()]
    before = [process.rlimit(psutil.RLIMIT_FSIZE) for process in limited]
    for process, (_, hard) in zip(limited, before, strict=True):
        process.rlimit(psutil.RLIMIT_FSIZE, (4096, hard))
    _let_pass(10)
    for process, limits in zip(limited, before, strict=True):
        process.rlimit(psutil.RLIMIT_FSIZE, limits)


@contextmanager
def _locked_store(site: Site) -> Iterator[None]:
    (path,) = (site.services.settings.state / "feast").glob("**/online*.db")
    with sqlite3.connect(path, timeout=30, isolation_level=None) as database:
        database.execute("begin immediate")
        yield
        database.execute("rollback")


def _let_pass(seconds: float) -> None:
    threading.Event().wait(seconds)


FAULTS: tuple[Fault, ...] = (
    kill_consumer,
    kill_sink,
    kill_model,
    join_and_leave,
    kill_broker,
    join_and_kill,
    lock_store,
    kill_triton,
)
LONG_FAULTS: tuple[Fault, ...] = (lock_store_for_long, full_disk, suspend_broker)
"""Faults that take long."""
