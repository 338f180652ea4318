"""The audit log: every change to experiments, keys and unit tokens adds one entry in the transaction of the change."""

from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from experiments import tables
from experiments.errors import ConfigError, TransitionError
from experiments.notifications import announce
from experiments.text_rules import text_problem


class AuditLog:
    """Writes audit entries of one actor in the caller's transaction.

    Attributes:
        now: Time of the entries in microseconds UTC.
        actor: Who acts.
        reason: Why.

    Raises:
        TransitionError: The actor is empty.
        ConfigError: A database cannot store the actor or the reason.
    """

    def __init__(self, connection: Connection, now: int, actor: str, reason: str) -> None:
        if not actor:
            raise TransitionError("the actor is empty; say who does this.")
        check_text("the actor", actor)
        check_text("the reason", reason)
        self._connection = connection
        self.now, self.actor, self.reason = now, actor, reason

    def add(self, action: str, subject: str, detail: dict[str, Any]) -> None:
        """Add an entry, and notify the services that listen for changes.

        Args:
            action: What was done.
            subject: Key or id of the thing that changed.
            detail: More about the change, as JSON.
        """
        announce(self._connection)
        self._connection.execute(
            insert(tables.audit).values(
                at=self.now,
                actor=self.actor,
                action=action,
                subject=subject,
                reason=self.reason,
                detail=msgspec.json.encode(detail, order="sorted").decode("utf-8"),
            )
        )


def check_text(name: str, text: str) -> None:
    """Check that every database can store a text.

    Args:
        name: What the text is; the message begins with it.
        text: The text.

    Raises:
        ConfigError: A database cannot store the text.
    """
    if problem := text_problem(text):
        raise ConfigError(f"{name} {problem}; write plain text.")
