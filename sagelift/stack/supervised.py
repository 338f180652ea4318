"""Watch one server: restart it when it died or does not answer, and give up after repeated failures."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sagelift.stack.cache import Say
from sagelift.stack.errors import StartCancelled
from sagelift.stack.status import ComponentStatus

CHECK_EVERY_S = 0.2  # whether the process runs: cheap
PROBE_EVERY_S = 1.0  # whether it answers
_PROBES_MISSED = 3  # in a row; a single failure may be a pause of the machine or the exchange of a model


class Server(Protocol):
    """The interface of a watched server; ManagedServer implements it."""

    @property
    def alive(self) -> bool:
        """Whether the process runs."""

    @property
    def pid(self) -> int | None:
        """Process id; None if it does not run."""

    @property
    def exit_code(self) -> int | None:
        """Exit code of the ended process."""

    @property
    def fatal_reason(self) -> str | None:
        """Why it ended, if a restart would not help; else None."""

    @property
    def log(self) -> Path:
        """Path of the log file."""

    @property
    def address(self) -> str | None:
        """host:port for clients."""

    def start(self, cancelled: threading.Event | None = None) -> object:
        """Start and wait until ready."""

    def revive(self, cancelled: threading.Event) -> str | None:
        """Start again after a failure; return a complaint if it runs with limits, else None."""

    def stop(self) -> None:
        """Stop gracefully."""

    def kill(self) -> None:
        """Stop with SIGKILL."""

    def healthy(self) -> bool:
        """Return whether it answers."""


@dataclass(frozen=True)
class RestartPolicy:
    """A doubling pause before each restart, and a limit of failures.

    Attributes:
        first_pause_s: Pause before the first restart.
        longest_pause_s: Limit of the doubling.
        max_failures: Failures within `window_s` seconds after which the supervisor gives up.
        window_s: Length of the window in seconds.
    """

    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    max_failures: int = 5
    window_s: float = 60.0

    def pause(self, failures: Sequence[float], now: float) -> float | None:
        """Return the seconds to wait before the next start; None to give up.

        Args:
            failures: Times of all failures so far, in seconds of a monotonic clock.
            now: Time of the last failure.
        """
        recent = sum(now - at < self.window_s for at in failures)
        if recent >= self.max_failures:
            return None
        doubled = self.first_pause_s * 2.0 ** max(0, recent - 1)
        return min(doubled, self.longest_pause_s)


class Supervised:
    """A server with a thread that keeps it running.

    Args:
        name: Name in messages and in the status.
        server: The server.
        say: Called with each message for the user.
        changed: Called after each change of `status`.
        policy: When to restart and when to give up.
        check_every_s: Seconds between checks that the process runs.
        probe_every_s: Seconds between probes that it answers.

    Attributes:
        server: The server.
        status: Its current status.
    """

    def __init__(
        self,
        name: str,
        server: Server,
        *,
        say: Say,
        changed: Callable[[], None],
        policy: RestartPolicy | None = None,
        check_every_s: float = CHECK_EVERY_S,
        probe_every_s: float = PROBE_EVERY_S,
    ) -> None:
        self.server = server
        self.status = ComponentStatus(name, "starting", log=str(server.log))
        self._say = say
        self._changed = changed
        self._policy = policy or RestartPolicy()
        self._check_every_s = check_every_s
        self._probe_every_s = probe_every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)

    def start(self) -> None:
        """Start the server, then watch it. Errors of this first start reach the caller."""
        began = time.monotonic()
        self._say(f"Starting {self.status.name}")
        self.server.start(self._stopping)
        self._update(state="ready")
        where = f" on {self.server.address}" if self.server.address else ""
        self._say(f"{self.status.name} is ready{where} ({time.monotonic() - began:.1f} s)")
        self._thread.start()

    def cancel(self) -> None:
        """Abort a start in another thread, and stop watching."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop watching, then stop the server."""
        self.cancel()
        if self._thread.ident is not None:
            self._thread.join()
        self.server.stop()

    def _watch(self) -> None:
        failures: list[float] = []
        missed, next_probe = 0, time.monotonic() + self._probe_every_s
        while not self._stopping.wait(self._check_every_s):
            reason = None
            if not self.server.alive:
                if fatal := self.server.fatal_reason:
                    self._update(state="failed", last_error=fatal)
                    self._say(f"{self.status.name} stopped and is not restarted: {fatal} (log: {self.server.log})")
                    return
                reason = f"ended with exit code {self.server.exit_code}"
            elif time.monotonic() >= next_probe:
                missed = 0 if self._answers() else missed + 1
                next_probe = time.monotonic() + self._probe_every_s
                if self.server.address != self.status.address:  # a worker knows its address only once it runs
                    self._update()
                if missed >= _PROBES_MISSED and self.server.alive:
                    reason = "does not answer correctly"
            if reason is not None:
                if not self._recover(reason, failures):
                    return
                missed, next_probe = 0, time.monotonic() + self._probe_every_s

    def _answers(self) -> bool:
        try:
            return self.server.healthy()
        except Exception:  # a probe that raises has failed
            return False

    def _recover(self, reason: str, failures: list[float]) -> bool:
        """Restart until it runs; return False after giving up or at a stop."""
        name = self.status.name
        while not self._stopping.is_set():
            now = time.monotonic()
            failures.append(now)
            pause = self._policy.pause(failures, now)
            if pause is None:
                self.server.kill()
                self._update(state="failed", last_error=reason)
                self._say(
                    f"{name} {reason}; gave up after {self._policy.max_failures} failures within "
                    f"{self._policy.window_s:.0f} s (log: {self.server.log})"
                )
                return False
            self._update(state="restarting", last_error=reason)
            self._say(f"{name} {reason}; restarting in {pause:.1f} s")
            if self._stopping.wait(pause):
                return False
            began = time.monotonic()
            self.server.kill()  # its remains, or a server that hangs
            try:
                complaint = self.server.revive(self._stopping)
            except StartCancelled:
                return False
            except Exception as error:  # otherwise the watching thread would end silently
                reason = f"could not be restarted: {error}"
                continue
            self._update(state="ready", restarts=self.status.restarts + 1, last_error=complaint or reason)
            self._say(
                f"{name} is ready again ({time.monotonic() - began:.1f} s){f'; {complaint}' if complaint else ''}"
            )
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
