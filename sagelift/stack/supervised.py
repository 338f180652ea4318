"""Watches one server: notices that it died or no longer answers, starts it again, gives up when that does not help."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sagelift.stack.components import Say
from sagelift.stack.errors import StartCancelled
from sagelift.stack.status import ComponentStatus

_LOOK_EVERY_S = 0.2  # whether the process is there: costs nothing
_PROBE_EVERY_S = 1.0  # whether it answers
_PROBES_MISSED = 3  # in a row; one alone may be a pause of the machine, or a model being swapped


class Server(Protocol):
    """What is asked of a server that is watched; ManagedServer has it."""

    @property
    def alive(self) -> bool: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def verdict(self) -> str | None:
        """Why it ended, when starting it again would not help; None: try."""

    @property
    def log(self) -> Path: ...
    @property
    def address(self) -> str | None: ...
    def start(self, cancelled: threading.Event | None = None) -> object: ...
    def revive(self, cancelled: threading.Event) -> str | None:
        """Starts it again where it was; returns what is wrong though it runs, if anything is."""

    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def healthy(self) -> bool: ...


@dataclass(frozen=True)
class RestartPolicy:
    """A capped, doubling pause before each restart; the end after `max_failures` within `window_s` seconds."""

    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    max_failures: int = 5
    window_s: float = 60.0

    def pause(self, failures: Sequence[float], now: float) -> float | None:
        """Seconds to wait before the next start, given the times of all failures so far; None: give up."""
        recent = sum(now - at < self.window_s for at in failures)
        if recent >= self.max_failures:
            return None
        doubled = self.first_pause_s * 2.0 ** max(0, recent - 1)
        return min(doubled, self.longest_pause_s)


class Supervised:
    """A server with a thread that keeps it running. `changed` is called after each change of `status`."""

    def __init__(
        self,
        name: str,
        server: Server,
        *,
        say: Say,
        changed: Callable[[], None],
        policy: RestartPolicy | None = None,
    ) -> None:
        self.server = server
        self.status = ComponentStatus(name, "starting", log=str(server.log))
        self._say = say
        self._changed = changed
        self._policy = policy or RestartPolicy()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)

    def start(self) -> None:
        """The first start; its errors are the caller's. Then watches."""
        began = time.monotonic()
        self._say(f"Starting {self.status.name}")
        self.server.start(self._stopping)
        self._update(state="ready")
        where = f" on {self.server.address}" if self.server.address else ""
        self._say(f"{self.status.name} is ready{where} ({time.monotonic() - began:.1f} s)")
        self._thread.start()

    def cancel(self) -> None:
        """Ends a start that is under way in another thread, and the watching."""
        self._stopping.set()

    def stop(self) -> None:
        self.cancel()
        if self._thread.ident is not None:
            self._thread.join()
        self.server.stop()

    def _watch(self) -> None:
        failures: list[float] = []
        missed, next_probe = 0, time.monotonic() + _PROBE_EVERY_S
        while not self._stopping.wait(_LOOK_EVERY_S):
            reason = None
            if not self.server.alive:
                if verdict := self.server.verdict:
                    self._update(state="failed", last_error=verdict)
                    self._say(
                        f"{self.status.name} stopped and is not started again: {verdict} (log: {self.server.log})"
                    )
                    return
                reason = f"ended with exit code {self.server.exit_code}"
            elif time.monotonic() >= next_probe:
                missed = 0 if self._answers() else missed + 1
                next_probe = time.monotonic() + _PROBE_EVERY_S
                if self.server.address != self.status.address:  # a worker tells only once it runs
                    self._update()
                if missed >= _PROBES_MISSED and self.server.alive:
                    reason = "no longer answers as it should"
            if reason is not None:
                if not self._recover(reason, failures):
                    return
                missed, next_probe = 0, time.monotonic() + _PROBE_EVERY_S

    def _answers(self) -> bool:
        try:
            return self.server.healthy()
        except Exception:  # a probe that raises is one that failed
            return False

    def _recover(self, reason: str, failures: list[float]) -> bool:
        """Starts it again and again; False when it was given up on or is to stop."""
        name = self.status.name
        while not self._stopping.is_set():
            now = time.monotonic()
            failures.append(now)
            pause = self._policy.pause(failures, now)
            if pause is None:
                self.server.kill()
                self._update(state="failed", last_error=reason)
                self._say(
                    f"{name} {reason}; given up after {self._policy.max_failures} failures within "
                    f"{self._policy.window_s:.0f} s (log: {self.server.log})"
                )
                return False
            self._update(state="restarting", last_error=reason)
            self._say(f"{name} {reason}; starting it again in {pause:.1f} s")
            if self._stopping.wait(pause):
                return False
            began = time.monotonic()
            self.server.kill()  # what is left of it, or all of one that hangs
            try:
                complaint = self.server.revive(self._stopping)
            except StartCancelled:
                return False
            except Exception as error:  # whatever it is, a watcher that ends silently would be worse
                reason = f"could not be started again: {error}"
                continue
            self._update(state="ready", restarts=self.status.restarts + 1, last_error=complaint or reason)
            self._say(f"{name} is back ({time.monotonic() - began:.1f} s){f'; {complaint}' if complaint else ''}")
            return True
        return False

    def _update(self, **changes: object) -> None:
        self.status = replace(
            self.status,
            pid=self.server.pid,
            address=self.server.address,
            **changes,  # type: ignore[arg-type]
        )
        self._changed()
