"""API keys: created and shown once, stored as a hash, compared in constant time.

A key has the form `sl_<id>_<secret>`. The id finds the row. The secret is 256 random bits, and the database has its
SHA-256. A slow password hash is not needed: it protects passwords that people choose, and 256 random bits cannot be
guessed.
"""

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, insert, select

from experiments import tables
from experiments.audit import AuditLog
from experiments.engine import exclusive
from experiments.errors import ConfigError, UnknownKeyError
from experiments.roles import RIGHTS, Role
from experiments.times import now_us

_TEXT: Final = re.compile(r"sl_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
_NO_KEY: Final = hashlib.sha256(b"no key").hexdigest()  # compared when the id is unknown


class ApiKey(msgspec.Struct, frozen=True):
    """A key as the database has it. Times are microseconds UTC.

    Attributes:
        id: The public part of the key.
        name: Who uses it; the audit log has this name.
        role: Its role.
        sha256: SHA-256 of the secret part, in hexadecimal.
        created_at: When it was created.
        created_by: Who created it.
        revoked_at: When it was revoked; None while it is valid.
    """

    id: str
    name: str
    role: Role
    sha256: str
    created_at: int
    created_by: str
    revoked_at: int | None = None

    def may(self, right: Role) -> bool:
        """Return whether the key's role has a right."""
        return right in RIGHTS[self.role]


class ApiKeys:
    """The keys in the database.

    Args:
        engine: Engine of the database.
        clock: Returns the current time in microseconds UTC.
        token: Returns the given number of random bytes.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], int] = now_us,
        token: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._engine, self._clock, self._token = engine, clock, token

    def create(self, name: str, role: Role, *, actor: str, reason: str = "") -> tuple[ApiKey, str]:
        """Create a key.

        Args:
            name: Who uses the key.
            role: Its role.
            actor: Who creates it.
            reason: Why.

        Returns:
            The key, and its text, which is not stored.

        Raises:
            ConfigError: The name or the role is invalid.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"key name {name!r} must be 1 to 64 characters of A-Z a-z 0-9 space . _ @ -, such as 'shop backend'."
            )
        if role not in RIGHTS:
            raise ConfigError(f"role {role!r} is not one of {', '.join(RIGHTS)}.")
        secret = _base64(self._token(32))
        now = self._clock()
        key = ApiKey(self._token(6).hex(), name, role, hashlib.sha256(secret.encode()).hexdigest(), now, actor)
        with exclusive(self._engine) as connection:
            audit = AuditLog(connection, now, actor, reason)
            values = msgspec.structs.asdict(key)
            del values["revoked_at"]
            connection.execute(insert(tables.api_key).values(**values))
            audit.add("key_create", key.id, {"name": name, "role": role})
        return key, f"sl_{key.id}_{secret}"

    def revoke(self, id: str, *, actor: str, reason: str = "") -> None:
        """Revoke a key. A revoked key cannot become valid again.

        Raises:
            UnknownKeyError: No valid key has this id.
        """
        with exclusive(self._engine) as connection:
            now = self._clock()
            audit = AuditLog(connection, now, actor, reason)
            if not any(key.id == id and key.revoked_at is None for key in self._read(connection)):
                raise UnknownKeyError(f"no API key {id!r} is in use; `sagelift experiment key list` lists them.")
            connection.execute(insert(tables.api_key_revocation).values(id=id, at=now, actor=actor, reason=reason))
            audit.add("key_revoke", id, {})

    def all(self) -> list[ApiKey]:
        """Return all keys, oldest first, including the revoked ones."""
        with self._engine.connect() as connection:
            return self._read(connection)

    def _read(self, connection: Connection) -> list[ApiKey]:
        key, revocation = tables.api_key, tables.api_key_revocation
        query = (
            select(key, revocation.c.at.label("revoked_at"))
            .join(revocation, revocation.c.id == key.c.id, isouter=True)
            .order_by(key.c.created_at, key.c.id)
        )
        return [ApiKey(**row) for row in connection.execute(query).mappings()]


class KeyRing:
    """The valid keys in memory, so that no request waits for the database. Threads may share it.

    Args:
        load: Returns all keys, such as `ApiKeys.all`. A key that another process revokes is valid here until the next
            `refresh`.
        compare: Compares two texts of one length, in a time that does not depend on where they differ.
    """

    def __init__(
        self, load: Callable[[], Iterable[ApiKey]], *, compare: Callable[[str, str], bool] = hmac.compare_digest
    ) -> None:
        self._load, self._compare = load, compare
        self._keys: dict[str, ApiKey] = {}

    def refresh(self) -> None:
        """Load the keys again. If `load` raises, the error is raised and the old keys stay."""
        self._keys = {key.id: key for key in self._load() if key.revoked_at is None}

    def find(self, text: str) -> ApiKey | None:
        """Return the valid key with this text; None when no valid key has it.

        An unknown id takes as long as a wrong secret.
        """
        match = _TEXT.fullmatch(text)
        id, secret = match.groups() if match else ("", "")
        key = self._keys.get(id)
        given = hashlib.sha256(secret.encode()).hexdigest()
        same = self._compare(given, key.sha256 if key is not None else _NO_KEY)
        return key if same else None


def _base64(secret: bytes) -> str:
    return urlsafe_b64encode(secret).decode("ascii").rstrip("=")
