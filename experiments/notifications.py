"""Push: a service hears of what is published as it happens, and asks for it at once.

    listener = ChangeListener(store.engine, assigner.wake)

PostgreSQL tells (LISTEN, NOTIFY, sent with the transaction that publishes); SQLite, which tells nobody, is asked for
the newest row of the audit log every `poll_s`, for which an index lookup is enough. Who misses a message, since the
database was away, is told when it is back; the assigner's own polling remains for what gets lost without a word.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select

from experiments import tables

CHANNEL: Final = "sagelift_experiments"
_log = logging.getLogger(__name__)


def announce(connection: Connection) -> None:
    """Tells all listeners that something changed, once the caller's transaction is committed."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"notify {CHANNEL}")


class ChangeListener:
    """Calls `changed` in a thread of its own after every act on experiments, and when it begins to listen.

    changed: returns at once and does not raise, as `Assigner.wake`. poll_s: how soon a change is seen on SQLite, a
    closing on both, and a database that is back.
    """

    def __init__(self, engine: Engine, changed: Callable[[], Any], *, poll_s: float = 1.0) -> None:
        self._engine, self._changed, self._poll_s = engine, changed, poll_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="experiment-changes", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the thread; waits for it no longer than the timeout."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        listen = self._told if self._engine.dialect.name == "postgresql" else self._asked
        while not self._closing.is_set():
            try:
                listen()
            except Exception:  # a database that is away has many names
                _log.warning("changes of experiments are not heard, trying again", exc_info=True)
                self._closing.wait(self._poll_s)

    def _told(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # it listens until it is closed: nobody else may get it from the pool
            connection.exec_driver_sql(f"listen {CHANNEL}")
            driver: Any = connection.connection.driver_connection
            self._changed()
            while not self._closing.is_set():
                for _ in driver.notifies(timeout=self._poll_s, stop_after=1):
                    self._changed()

    def _asked(self) -> None:
        newest: int | None = -1
        while not self._closing.is_set():
            with self._engine.connect() as connection:
                found = connection.scalar(select(func.max(tables.audit.c.id)))
            if found != newest:
                newest = found
                self._changed()
            self._closing.wait(self._poll_s)
