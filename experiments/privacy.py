"""Tokens in place of user ids. To erase a user is to delete the random part of the user's token.

    token = HMAC-SHA-256(key, nonce of the user, user id), 128 bits in hexadecimal

Each user has a random nonce, which is stored under a keyed hash of the user id. The token is assigned, exposed and
logged in place of the user id. Without the nonce, even a person with the events and the key cannot name the user or
find the user's events. An erased user who comes back is a new unit.
"""

import hashlib
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from experiments.assignment import Reason
from experiments.audit import AuditLog
from experiments.engine import exclusive
from experiments.errors import ConfigError, UserError
from experiments.kernel import MAX_UNIT_BYTES, unit_bytes
from experiments.tables import unit_token
from experiments.times import now_us

KEY_BYTES: Final = 32
"""The minimum length of the secret key."""

AUDIT_SUBJECT: Final = "unit_token"
"""Subject of an erasure in the audit log, which names neither the user nor the token."""

_NONCE_BYTES: Final = 16


class NonceStore(Protocol):
    """Stores nonces. Lookup keys and nonces are hexadecimal text."""

    def get_or_add(self, lookup: str, nonce: str) -> str:
        """Return the stored nonce, or store and return this one. Concurrent writers get the same nonce."""

    def delete(self, lookup: str, *, actor: str, reason: str) -> bool:
        """Delete a nonce; return whether one existed. Record that `actor` did so, without naming the user."""


class SqlNonces:
    """Nonces in the table `unit_token` of the experiment database.

    Args:
        engine: Engine that an `ExperimentStore` has set up.
        clock: Returns the current time in microseconds UTC.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_us) -> None:
        self._engine = engine
        self._clock = clock

    def get_or_add(self, lookup: str, nonce: str) -> str:
        """See `NonceStore`."""
        query = select(unit_token.c.nonce).where(unit_token.c.lookup == lookup)
        with self._engine.connect() as connection:
            stored = connection.scalar(query)
        if stored is not None:
            return str(stored)
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(unit_token).values(lookup=lookup, nonce=nonce, created_at=self._clock()))
            return nonce
        except IntegrityError:  # another process was first
            with self._engine.connect() as connection:
                return str(connection.execute(query).scalar_one())

    def delete(self, lookup: str, *, actor: str, reason: str) -> bool:
        """See `NonceStore`. The audit entry is written in the same transaction, also when there was no nonce."""
        with exclusive(self._engine) as connection:
            audit = AuditLog(connection, self._clock(), actor, reason)
            if connection.dialect.name == "sqlite":  # without it the deleted bytes stay in the file
                connection.exec_driver_sql("pragma secure_delete = on")
            existed = connection.execute(delete(unit_token).where(unit_token.c.lookup == lookup)).rowcount > 0
            audit.add("erase", AUDIT_SUBJECT, {"found": existed})
            return existed


class Tokens:
    """Tokens of user ids. Threads may share it.

    Args:
        key: At least 32 secret bytes, the same in every service. With another key every user is a new unit.
        nonces: Where the nonces are stored.
        cached: Maximum number of tokens in memory, so that a hot path asks the store once for each user.

    Raises:
        ConfigError: The key is too short.
    """

    def __init__(self, key: bytes, nonces: NonceStore, *, cached: int = 100_000) -> None:
        if len(key) < KEY_BYTES:
            raise ConfigError(
                f"the key of the unit tokens has {len(key)} bytes; give at least {KEY_BYTES} random ones."
            )
        self._key = key
        self._nonces = nonces
        self._cached = cached
        self._recent: OrderedDict[str, str] = OrderedDict()
        self._forgotten = 0  # number of calls of `forget`
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "Tokens(key=<secret>)"

    def token(self, user: str) -> str:
        """Return the unit id of a user: 32 hex digits.

        Raises:
            UserError: The user id is invalid.
        """
        lookup = self._lookup(user)
        with self._lock:
            forgotten = self._forgotten
            if (cached := self._recent.get(lookup)) is not None:
                self._recent.move_to_end(lookup)
                return cached
        nonce = self._nonces.get_or_add(lookup, secrets.token_hex(_NONCE_BYTES))
        token = self._mac(b"token", bytes.fromhex(nonce) + user.encode())[:32]
        with self._lock:
            if forgotten == self._forgotten:  # otherwise the nonce may be deleted by now
                self._recent[lookup] = token
                if len(self._recent) > self._cached:
                    self._recent.popitem(last=False)
        return token

    def erase(self, user: str, *, actor: str, reason: str) -> bool:
        """Delete the link from a user to the token. The audit log records the erasure without the user.

        Another process may return the old token from its memory until its `forget` is called.

        Args:
            user: The user id.
            actor: Who erases.
            reason: Why; it must not contain the user id.

        Returns:
            Whether there was a link.

        Raises:
            UserError: The user id is invalid, or the reason contains it.
        """
        self.check(user, reason)
        existed = self._nonces.delete(self._lookup(user), actor=actor, reason=reason)
        self.forget(user)
        return existed

    def check(self, user: str, reason: str) -> None:
        """Check that `erase` would accept a user and a reason, to erase several users or none.

        Raises:
            UserError: The user id is invalid, or the reason contains it.
        """
        self._lookup(user)
        if re.search(rf"(?<!\w){re.escape(user)}(?!\w)", reason, re.IGNORECASE):
            raise UserError(
                "the reason contains the user id, and the audit log, which stores the reason, is never erased; name "
                "the request instead, such as 'request 4711'."
            )

    def forget(self, user: str | None = None) -> None:
        """Forget a user's token in memory, or all tokens; tokens that are still valid are read again on demand.

        `ChangeListener(engine, tokens.forget)` follows the erasures of all other processes.

        Args:
            user: The user id; None for all users.
        """
        lookup = None if user is None else self._lookup(user)
        with self._lock:
            self._forgotten += 1
            if lookup is None:
                self._recent.clear()
            else:
                self._recent.pop(lookup, None)

    def _lookup(self, user: str) -> str:
        encoded = unit_bytes(user)
        if isinstance(encoded, Reason):
            raise UserError(
                f"{ascii(user)[:40]} is not a user id ({encoded.value}): a user id is Unicode text of 1 to "
                f"{MAX_UNIT_BYTES} bytes without NUL; give another one."
            )
        return self._mac(b"lookup", encoded)

    def _mac(self, purpose: bytes, message: bytes) -> str:
        # The purpose separates the two uses of the key: a stored lookup reveals nothing about a token.
        return hmac.new(self._key, purpose + b"\0" + message, hashlib.sha256).hexdigest()
