"""Scheduled commands: keep them, find those that are due, run each once, and store the result."""

from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, insert

from experiments import queries, tables
from experiments.audit import AuditLog
from experiments.editor import ExperimentEditor
from experiments.errors import ScheduleError, UnknownExperimentError
from experiments.lifecycle import Action
from experiments.records import Scheduled
from experiments.times import time_text


class CommandResult(msgspec.Struct, frozen=True):
    """A scheduled command that was due.

    Attributes:
        command: The command.
        error: Why it failed; None when it was carried out.
    """

    command: Scheduled
    error: str | None


def due(commands: Iterable[Scheduled], now: int) -> list[Scheduled]:
    """Return the pending commands that are due, earliest first.

    Args:
        commands: Scheduled commands. Commands with the same time are returned in the order in which they were added.
        now: The current time in microseconds UTC.
    """
    pending = (command for command in commands if command.result is None and command.at <= now)
    return sorted(pending, key=lambda command: (command.at, command.id))


class ScheduleEditor:
    """Changes the schedule in the caller's exclusive transaction.

    Args:
        connection: Connection with an open transaction.
        audit: Audit log of the same transaction.
    """

    def __init__(self, connection: Connection, audit: AuditLog) -> None:
        self._connection, self._audit = connection, audit
        self._editor = ExperimentEditor(connection, audit)

    def add(self, key: str, action: Action, at: int, coverage: int | None) -> int:
        """Schedule a command and return its number; see `ExperimentStore.schedule`."""
        now = self._audit.now
        state = queries.last(self._connection, key).state
        if state in ("stopped", "decided", "archived"):
            raise ScheduleError(f"experiment {key!r} is {state}; nothing is left to schedule.")
        if at <= now:
            raise ScheduleError(
                f"{action} of {key!r} at {time_text(at)} is in the past (it is {time_text(now)}); give a later time."
            )
        if (action == "ramp") != (coverage is not None):
            remedy = "give one, in 1/10,000" if coverage is None else f"leave out {coverage}"
            raise ScheduleError(f"{action} of {key!r}: a ramp has a coverage, and no other command has one; {remedy}.")
        if coverage is not None and not 0 < coverage <= 10_000:
            raise ScheduleError(f"ramp of {key!r} to {coverage}: a coverage is 1 to 10000 (10000 is every unit).")
        values = {"experiment": key, "action": action, "at": at, "coverage": coverage}
        inserted = self._connection.execute(
            insert(tables.scheduled).values(**values, actor=self._audit.actor, reason=self._audit.reason)
        )
        (number,) = inserted.inserted_primary_key or (0,)
        self._audit.add("schedule", key, {"id": number, "action": action, "at": at, "coverage": coverage})
        return int(number)

    def cancel(self, number: int) -> None:
        """Cancel a pending command; see `ExperimentStore.cancel`."""
        command = self._pending(number)
        self._editor.settle(command, "cancelled", self._audit.reason)
        self._audit.add("cancel", command.experiment, {"id": number})

    def is_pending(self, number: int) -> bool:
        """Return whether a scheduled command has no result yet."""
        return any(command.id == number for command in queries.schedule(self._connection, pending=True))

    def run(self, number: int) -> None:
        """Carry out a pending command. Raises the errors of the command."""
        command = self._pending(number)
        self._editor.settle(command, "done", "")  # before the command: a stop cancels every pending command
        match command.action:
            case "ramp":
                self._editor.ramp(command.experiment, command.coverage or 0)
            case "start":
                self._editor.move(command.experiment, "running")
            case "pause":
                self._editor.move(command.experiment, "paused")
            case "stop":
                self._editor.move(command.experiment, "stopped")

    def fail(self, number: int, error: str) -> None:
        """Store that a command failed; it is not tried again."""
        command = self._pending(number)
        self._editor.settle(command, "failed", error)
        detail = {"id": number, "action": command.action, "why": error}
        self._audit.add("schedule_failed", command.experiment, detail)

    def _pending(self, number: int) -> Scheduled:
        for command in queries.schedule(self._connection, pending=True):
            if command.id == number:
                return command
        raise UnknownExperimentError(
            f"no scheduled command {number} is pending; `sagelift experiment schedule` lists the commands."
        )
