"""Unit ids that are no names: a token stands for the user everywhere, and erasing the user is deleting the token.

    token = HMAC-SHA-256(key, nonce of the user, user id), 128 bits in hexadecimal

Each user has a random nonce, kept in a table under a keyed hash of the id. The token is what is assigned, exposed and
logged; whoever has the events and the key still cannot name a user whose nonce is gone, nor find the user's events. The
same person coming back is a new unit.
"""

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from experiments.decision import Reason
from experiments.errors import ConfigError
from experiments.evaluator import now_us
from experiments.kernel import unit_bytes
from experiments.tables import unit_token

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 16


class NonceStore(Protocol):
    """Where the nonces are. Keys and values are hexadecimal text."""

    def get_or_add(self, lookup: str, nonce: str) -> str:
        """The nonce that is there, else this one, added. Of two writers at once both get the same."""
        ...

    def delete(self, lookup: str) -> bool:
        """Whether there was one."""
        ...


class SqlNonces:
    """Nonces in the table `unit_token` of a database."""

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

    def delete(self, lookup: str) -> bool:
        with self._engine.begin() as connection:
            return connection.execute(delete(unit_token).where(unit_token.c.lookup == lookup)).rowcount > 0


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
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "Tokens(key=<secret>)"

    def token(self, user: str) -> str:
        """The unit id that stands for a user: 32 hex digits. Raises ConfigError for what is no unit id."""
        lookup = self._lookup(user)
        with self._lock:
            if (known := self._recent.get(lookup)) is not None:
                self._recent.move_to_end(lookup)
                return known
        nonce = self._nonces.get_or_add(lookup, secrets.token_hex(_NONCE_BYTES))
        token = self._mac(b"token", bytes.fromhex(nonce) + user.encode())[:32]
        with self._lock:
            self._recent[lookup] = token
            if len(self._recent) > self._cached:
                self._recent.popitem(last=False)
        return token

    def erase(self, user: str) -> bool:
        """Deletes what leads from the user to the token; whether there was anything.

        Another process may give the old token from its memory until it lets go of it: `forget` does that there.
        """
        self.forget(user)
        return self._nonces.delete(self._lookup(user))

    def forget(self, user: str) -> None:
        """Lets go of a token that is in memory."""
        with self._lock:
            self._recent.pop(self._lookup(user), None)

    def _lookup(self, user: str) -> str:
        encoded = unit_bytes(user)
        if isinstance(encoded, Reason):
            raise ConfigError(f"{ascii(user)[:40]} is no unit id ({encoded.value}).")
        return self._mac(b"lookup", encoded)

    def _mac(self, purpose: bytes, message: bytes) -> str:
        # The purpose keeps the two uses of one key apart: a lookup, which is stored, says nothing of a token.
        return hmac.new(self._key, purpose + b"\0" + message, hashlib.sha256).hexdigest()
