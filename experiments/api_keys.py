"""API keys: made once, shown once, kept as a hash, compared in constant time.

A key reads `sl_<id>_<secret>`. The id finds its row; the secret is 256 random bits, of which the database has the
SHA-256: a password's slow hash protects what people choose, and nobody guesses 256 bits.
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
from experiments.editor import Registry
from experiments.engine import exclusive
from experiments.errors import ConfigError, UnknownKeyError
from experiments.roles import RIGHTS, Role
from experiments.store import now_us

_TEXT: Final = re.compile(r"sl_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
_NOBODY: Final = hashlib.sha256(b"nobody").hexdigest()


class ApiKey(msgspec.Struct, frozen=True):
    """A key as the database has it. `name` stands in the audit log for who uses it; times are microseconds UTC."""

    id: str
    name: str
    role: Role
    sha256: str
    created_at: int
    created_by: str
    revoked_at: int | None = None

    def may(self, right: Role) -> bool:
        """Whether its role has a right."""
        return right in RIGHTS[self.role]


class ApiKeys:
    """The keys in the database. `token` gives that many random bytes."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], int] = now_us,
        token: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._engine, self._clock, self._token = engine, clock, token

    def create(self, name: str, role: Role, *, actor: str, reason: str = "") -> tuple[ApiKey, str]:
        """A new key, and its text, which is nowhere kept. Raises ConfigError for a name or a role that is none."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"key name {name!r} must be 1 to 64 of A-Z a-z 0-9 space . _ @ -, such as 'shop backend'."
            )
        if role not in RIGHTS:
            raise ConfigError(f"role {role!r} is none of {', '.join(RIGHTS)}.")
        secret = _base64(self._token(32))
        now = self._clock()
        key = ApiKey(self._token(6).hex(), name, role, hashlib.sha256(secret.encode()).hexdigest(), now, actor)
        with exclusive(self._engine) as connection:
            registry = Registry(connection, now, actor, reason)
            values = msgspec.structs.asdict(key)
            del values["revoked_at"]
            connection.execute(insert(tables.api_key).values(**values))
            registry.audit("key_create", key.id, {"name": name, "role": role})
        return key, f"sl_{key.id}_{secret}"

    def revoke(self, id: str, *, actor: str, reason: str = "") -> None:
        """Ends a key, for good. Raises UnknownKeyError."""
        with exclusive(self._engine) as connection:
            now = self._clock()
            registry = Registry(connection, now, actor, reason)
            if not any(key.id == id and key.revoked_at is None for key in self._read(connection)):
                raise UnknownKeyError(f"no API key {id!r} is in use; `sagelift experiment key list` lists them.")
            connection.execute(insert(tables.api_key_revocation).values(id=id, at=now, actor=actor, reason=reason))
            registry.audit("key_revoke", id, {})

    def all(self) -> list[ApiKey]:
        """All keys, the revoked ones too, oldest first."""
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
    """The keys that are good, in memory: a request waits for no database. Shared between threads.

    load: all keys, such as `ApiKeys.all`. A key that is revoked elsewhere is refused from the next `refresh` on.
    """

    def __init__(self, load: Callable[[], Iterable[ApiKey]]) -> None:
        self._load = load
        self._keys: dict[str, ApiKey] = {}

    def refresh(self) -> None:
        """Loads the keys; raises what `load` raises, and keeps what there was."""
        self._keys = {key.id: key for key in self._load() if key.revoked_at is None}

    def find(self, text: str) -> ApiKey | None:
        """The key of this text, None when it is none that is good.

        A text whose id is unknown takes as long as one whose secret is wrong.
        """
        match = _TEXT.fullmatch(text)
        id, secret = match.groups() if match else ("", "")
        key = self._keys.get(id)
        given = hashlib.sha256(secret.encode()).hexdigest()
        same = hmac.compare_digest(given, key.sha256 if key is not None else _NOBODY)
        return key if same else None


def _base64(secret: bytes) -> str:
    return urlsafe_b64encode(secret).decode("ascii").rstrip("=")
