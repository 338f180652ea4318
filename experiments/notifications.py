"""Push: a service learns about a change when it is published, and loads it at once.

    listener = ChangeListener(store.engine, assigner.wake)

PostgreSQL notifies the listeners (LISTEN and NOTIFY) when the transaction of the change is committed. SQLite cannot
notify: the listener reads the newest id of the audit log every `poll_s` seconds, which is one index lookup. A listener
that lost its connection calls back when it has a new one. The assigner's own interval covers messages that get lost.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select

from experiments import tables

CHANNEL: Final = "sagelift_experiments"
"""Channel of PostgreSQL on which changes are announced."""

_log = logging.getLogger(__name__)


def announce(connection: Connection) -> None:
    """Notify all listeners of a change once the caller's transaction is committed."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"notify {CHANNEL}")


class ChangeListener:
    """Calls a function in its own thread after every change, and when it starts to listen.

    Args:
        engine: Engine of the database.
        changed: Returns at once and does not raise, as `Assigner.wake`.
        poll_s: Seconds until the listener sees a change on SQLite, a call of `close`, or a database that is back.
    """

    def __init__(self, engine: Engine, changed: Callable[[], Any], *, poll_s: float = 1.0) -> None:
        self._engine, self._changed, self._poll_s = engine, changed, poll_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="experiment-changes", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread.

        Args:
            timeout_s: Maximum time to wait for it in seconds.
        """
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        listen = self._listen if self._engine.dialect.name == "postgresql" else self._poll
        while not self._closing.is_set():
            try:
                listen()
            except Exception:  # database drivers raise many types
                _log.warning("cannot listen for changes of experiments; trying again", exc_info=True)
                self._closing.wait(self._poll_s)

    def _listen(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # this connection listens until it is closed, so it must not go back to the pool
            connection.exec_driver_sql(f"listen {CHANNEL}")
            driver: Any = connection.connection.driver_connection
            self._changed()
            while not self._closing.is_set():
                for _ in driver.notifies(timeout=self._poll_s, stop_after=1):
                    self._changed()

    def _poll(self) -> None:
        seen: int | None = -1
        while not self._closing.is_set():
            with self._engine.connect() as connection:
                newest = connection.scalar(select(func.max(tables.audit.c.id)))
            if newest != seen:
                seen = newest
                self._changed()
            self._closing.wait(self._poll_s)
