"""Unit ids that are no names: a token stands for the user everywhere, and erasing the user is deleting the token.

    token = HMAC-SHA-256(key, nonce of the user, user id), 128 bits in hexadecimal

Each user has a random nonce, kept in a table under a keyed hash of the id. The token is what is assigned, exposed and
logged; whoever has the events and the key still cannot name a user whose nonce is gone, nor find the user's events. The
same person coming back is a new unit.
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
from experiments.editor import Registry
from experiments.engine import exclusive
from experiments.errors import ConfigError, UserError
from experiments.evaluator import now_us
from experiments.kernel import MAX_UNIT_BYTES, unit_bytes
from experiments.tables import unit_token

KEY_BYTES: Final = 32
AUDIT_SUBJECT: Final = "unit_token"  # of an erasure in the audit log, which names neither user nor token
_NONCE_BYTES: Final = 16


class NonceStore(Protocol):
    """Where the nonces are. Keys and values are hexadecimal text."""

    def get_or_add(self, lookup: str, nonce: str) -> str:
        """The nonce that is there, else this one, added. Of two writers at once both get the same."""
        ...

    def delete(self, lookup: str, *, actor: str, reason: str) -> bool:
        """Whether there was one. Keeps a record that `actor` did this, which leads to no user."""
        ...


class SqlNonces:
    """Nonces in the table `unit_token` of a database that `ExperimentStore` has set up."""

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_us) -> None:
        self._engine = engine
        self._clock = clock

    def get_or_add(self, lookup: str, nonce: str) -> str:
        query = select(unit_token.c.nonce).where(unit_token.c.lookup == lookup)
        with self._engine.connect() as connection:
            found = connection.scalar(query)
        if found is not None:
            return str(found)
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(unit_token).values(lookup=lookup, nonce=nonce, created_at=self._clock()))
            return nonce
        except IntegrityError:  # another process was first
            with self._engine.connect() as connection:
                return str(connection.execute(query).scalar_one())

    def delete(self, lookup: str, *, actor: str, reason: str) -> bool:
        """See `NonceStore`. The row of the audit log is written in the same transaction, also when there was no nonce:
        that someone asked is to be shown too.
        """
        with exclusive(self._engine) as connection:
            registry = Registry(connection, self._clock(), actor, reason)
            if connection.dialect.name == "sqlite":  # which else leaves what is deleted in the file
                connection.exec_driver_sql("pragma secure_delete = on")
            found = connection.execute(delete(unit_token).where(unit_token.c.lookup == lookup)).rowcount > 0
            registry.audit("erase", AUDIT_SUBJECT, {"found": found})
            return found


class Tokens:
    """Tokens of user ids. Shared between threads.

    key: 32 secret bytes or more, the same in every service; with another key every user is new. cached: tokens that are
    kept in memory, so that a hot path asks the store once for each user.
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
        self._forgotten = 0  # how often tokens were let go of
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "Tokens(key=<secret>)"

    def token(self, user: str) -> str:
        """The unit id that stands for a user: 32 hex digits. Raises UserError for what no user can be called."""
        lookup = self._lookup(user)
        with self._lock:
            forgotten = self._forgotten
            if (known := self._recent.get(lookup)) is not None:
                self._recent.move_to_end(lookup)
                return known
        nonce = self._nonces.get_or_add(lookup, secrets.token_hex(_NONCE_BYTES))
        token = self._mac(b"token", bytes.fromhex(nonce) + user.encode())[:32]
        with self._lock:
            if forgotten == self._forgotten:  # else the nonce may be gone again
                self._recent[lookup] = token
                if len(self._recent) > self._cached:
                    self._recent.popitem(last=False)
        return token

    def erase(self, user: str, *, actor: str, reason: str) -> bool:
        """Deletes what leads from the user to the token; whether there was anything. The audit log says that `actor`
        erased someone, and never whom: a `reason` with the user's id in it raises UserError.

        Another process may give the old token from its memory until it lets go of it: `forget` does that there.
        """
        self.check(user, reason)
        found = self._nonces.delete(self._lookup(user), actor=actor, reason=reason)
        self.forget(user)
        return found

    def check(self, user: str, reason: str) -> None:
        """Raises UserError when `erase` would: for those who erase several and want all or none."""
        self._lookup(user)
        if re.search(rf"(?<!\w){re.escape(user)}(?!\w)", reason, re.IGNORECASE):
            raise UserError(
                "the reason holds the user's id, and the audit log, where it would stand, is never erased; name the "
                "request instead, such as 'request 4711'."
            )

    def forget(self, user: str | None = None) -> None:
        """Lets go of a user's token in memory, or of all tokens: what is still good is read again when it is asked for.

        As `ChangeListener(engine, tokens.forget)` it follows the erasures of all other processes.
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
                f"{ascii(user)[:40]} is no user's id ({encoded.value}): it is text in Unicode of 1 to {MAX_UNIT_BYTES} "
                "bytes without NUL; give another."
            )
        return self._mac(b"lookup", encoded)

    def _mac(self, purpose: bytes, message: bytes) -> str:
        # The purpose keeps the two uses of one key apart: a lookup, which is stored, says nothing of a token.
        return hmac.new(self._key, purpose + b"\0" + message, hashlib.sha256).hexdigest()
