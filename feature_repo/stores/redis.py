"""A Redis online store for Feast in which the newest version of a product always wins.

Feast's own drops a write whose second it has seen already, so that a re-embedding under the old event time is silently
ignored, and cannot delete a product. This one shares what it means with the SQLite store (`feature_repo.stores.base`).
What is Redis' own:

* The layout is Feast's: one hash per product, a field per feature (murmur3 of `view:feature`), `_ts:<view>`. So Feast's
  stock readers, in any language, read what is written here. Fields beside those keep version, tombstone and what a
  row has followed to; a sorted set per view holds the keys, for pages and counts without a scan of the database.
* The guard is a script: Redis runs it as one step, and all scripts of one `write` in one MULTI/EXEC. Versions are
  compared as texts of 20 digits, because Lua's numbers are exact to 53 bits only.
* Redis answers before it has written to disk (`appendfsync everysec` is its default), and evicts what its policy says:
  set `maxmemory-policy noeviction`. What a crash took, `sagelift features materialize --full` brings back.

One server or a failover pair; not Redis Cluster, whose scripts must not touch keys of several slots.
Needs redis-py (`pip install redis`).
"""

from __future__ import annotations

import importlib
import os
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, Literal

from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.vector_store import VectorStoreConfig
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr, field_validator

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import StoreBusyError, StoreStateError
from feature_repo.stores.base import (
    SCAN_PAGE,
    GuardedOnlineStore,
    OnlineRow,
    filled_in,
    newest_of_each_key,
    payload_columns,
)

_ROWS_PER_SCRIPT: Final = 512  # a script holds the server up while it runs: about 2 ms
_LOWEST: Final = -(2**63)
_DIGITS: Final = 20
_SECOND_US: Final = 1_000_000

# KEYS: the view's sorted set, then a hash per row. ARGV: view, '1' if an equal version passes, followed by 'r' if only
# versions that rows were written under count, length of the project's name, number of fields, the fields, number of
# views to advance, those; then per row: version, event time, '1' if deleted, Feast's timestamp, a value per field.
# Answers the numbers of the rows that were refused.
_WRITE: Final = """
local view, equal, tail = ARGV[1], string.sub(ARGV[2], 1, 1) == '1', tonumber(ARGV[3])
local repair = string.sub(ARGV[2], 2) == 'r'
local count = tonumber(ARGV[4])
local at = 4 + count + 1
local others = tonumber(ARGV[at])
local first, step = at + others + 1, 4 + count
local v, d, us = '_v:' .. view, '_d:' .. view, '_us:' .. view
local stale = {}
for i = 2, #KEYS do
  local key, row = KEYS[i], first + (i - 2) * step
  local version, time, deleted = ARGV[row], ARGV[row + 1], ARGV[row + 2] == '1'
  local kept = redis.call('HMGET', key, v, '_f:' .. view)
  local top = kept[1]
  if top and kept[2] and kept[2] > top and not repair then top = kept[2] end
  if top and (top > version or (top == version and not equal)) then
    stale[#stale + 1] = i - 2
  else
    local fields = {v, version, us, time, d, ARGV[row + 2]}
    if deleted then
      local gone = {'_ts:' .. view}
      for f = 1, count do gone[#gone + 1] = ARGV[4 + f] end
      redis.call('HDEL', key, unpack(gone))
    else
      fields[#fields + 1] = '_ts:' .. view
      fields[#fields + 1] = ARGV[row + 3]
      for f = 1, count do
        fields[#fields + 1] = ARGV[4 + f]
        fields[#fields + 1] = ARGV[row + 3 + f]
      end
    end
    redis.call('HSET', key, unpack(fields))
    redis.call('ZADD', KEYS[1], 0, string.sub(key, 1, -tail - 1))
    for o = 1, others do
      local other = ARGV[at + o]
      local there = redis.call('HMGET', key, '_v:' .. other, '_f:' .. other)
      if there[1] and not (there[2] and there[2] > version) then
        redis.call('HSET', key, '_f:' .. other, version, '_fus:' .. other, time)
      end
    end
  end
end
return stale
"""


class GuardedRedisOnlineStoreConfig(FeastConfigBaseModel, VectorStoreConfig):
    """Settings below `online_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.redis.GuardedRedisOnlineStore"] = (
        "feature_repo.stores.redis.GuardedRedisOnlineStore"
    )
    url: SecretStr
    """`redis://user:password@host:6379/0`, `rediss://` with TLS, `unix:///path?db=0`."""
    timeout_s: float = 30.0
    """How long to wait for one answer."""

    @field_validator("url")
    @classmethod
    def _url_is_filled_in(cls, url: SecretStr) -> SecretStr:
        return filled_in("url", url)


class GuardedRedisOnlineStore(GuardedOnlineStore):
    """Feast online store over Redis, ordered by version; see the module's text. Safe to share between threads."""

    def __init__(self) -> None:
        self._client: Any = None
        self._known: set[str] = set()
        self._opening = threading.Lock()
        self._pid = os.getpid()

    # What Feast calls.

    def update(
        self,
        config: Any,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Make views known, or delete their rows (`feast apply`)."""
        with self._redis(config) as redis:
            for view in tables_to_keep:
                redis.sadd(_views_key(config), _View(config, view).name)
            for view in tables_to_delete:
                self._drop(redis, config, _View(config, view))

    # What all guarded stores can do.

    def write(
        self,
        config: Any,
        batches: Sequence[tuple[Any, Sequence[OnlineRow]]],
        advance: Sequence[Any] = (),
        *,
        equal: bool = True,
        repair: bool = False,
    ) -> list[set[bytes]]:
        others = [_View(config, view) for view in advance]
        calls = [
            (number, view, some)
            for number, view, newest in (
                (number, _View(config, view), newest_of_each_key(rows)) for number, (view, rows) in enumerate(batches)
            )
            for some in (newest[at : at + _ROWS_PER_SCRIPT] for at in range(0, len(newest), _ROWS_PER_SCRIPT))
        ]
        stale: list[set[bytes]] = [set() for _ in batches]
        with self._redis(config) as redis:
            self._check(redis, config, [*(view for _, view, _ in calls), *others])
            script = redis.register_script(_WRITE)
            with redis.pipeline(transaction=True) as pipe:
                for _, view, rows in calls:
                    script(keys=view.keys(rows), args=view.arguments(rows, others, equal, repair), client=pipe)
                answers = pipe.execute() if calls else []
        for (number, _, rows), refused in zip(calls, answers, strict=True):
            stale[number].update(rows[i].key for i in refused)
        return stale

    def read(
        self,
        config: Any,
        wanted: Sequence[tuple[Any, Sequence[str]]],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        keys = list(dict.fromkeys(keys))
        views = [(_View(config, view), columns) for view, columns in wanted]
        # One HMGET a product, whatever the number of views: a product's views are of one moment.
        fields = [field for view, columns in views for field in view.fields_to_read(columns)]
        with self._redis(config) as redis:
            self._check(redis, config, [view for view, _ in views])
            with redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key + config.project.encode(), fields)
                answers = pipe.execute() if keys and fields else []
        found: list[dict[bytes, OnlineRow]] = []
        start = 0
        for _, columns in views:
            end = start + _GUARD_FIELDS + len(columns)
            rows = (_row(key, answer[start:end], own_versions) for key, answer in zip(keys, answers, strict=True))
            found.append({row.key: row for row in rows if row is not None})
            start = end
        return found

    def page(
        self, config: Any, view: Any, columns: Sequence[str], after: bytes = b"", limit: int = SCAN_PAGE
    ) -> list[OnlineRow]:
        index = _View(config, view).index
        live: list[OnlineRow] = []
        while len(live) < limit:
            with self._redis(config) as redis:
                self._check(redis, config, [_View(config, view)])
                keys = redis.zrangebylex(index, b"(" + after if after else b"-", b"+", 0, limit)
            if not keys:
                break
            (found,) = self.read(config, [(view, columns)], keys)
            live += [found[key] for key in keys if key in found and not found[key].deleted]
            after = keys[-1]
        return live[:limit]

    def tables(self, config: Any, prefix: str) -> list[str]:
        with self._redis(config) as redis:
            names = [name.decode() for name in redis.smembers(_views_key(config))]
        return sorted(name for name in names if name.startswith(prefix))

    def count(self, config: Any, view: Any) -> int:
        with self._redis(config) as redis:
            return int(redis.zcard(_View(config, view).index))

    def identity(self, config: Any, view: Any) -> str:
        name = _View(config, view).name
        with self._redis(config) as redis:
            redis.hsetnx(_identities_key(config), name, uuid.uuid4().hex)
            return str(redis.hget(_identities_key(config), name).decode())

    def disconnect(self) -> None:
        client, self._client, self._known = self._client, None, set()
        if client is not None and self._pid == os.getpid():
            client.close()

    # Inside.

    @contextmanager
    def _redis(self, config: Any) -> Iterator[Any]:
        """The client, whose pool gives each thread a connection of its own; its errors as ours."""
        library = _library()
        settings = config.online_store
        with self._opening:
            if self._pid != os.getpid():  # the parent's sockets are the parent's
                self._client, self._pid = None, os.getpid()
            if self._client is None:
                self._client = library.Redis.from_url(
                    settings.url.get_secret_value(), socket_timeout=settings.timeout_s, health_check_interval=30
                )
            client = self._client
        try:
            yield client
        except (library.exceptions.TimeoutError, library.exceptions.BusyLoadingError) as error:
            raise StoreBusyError(f"Redis gave no answer for {settings.timeout_s:g} s: {error}.") from error
        except library.exceptions.RedisError as error:
            raise StoreStateError(f"Redis cannot be used: {error}.") from error

    def _check(self, redis: Any, config: Any, views: Sequence[_View]) -> None:
        """Refuse views that were never applied."""
        for view in views:
            if view.name not in self._known:
                if not redis.sismember(_views_key(config), view.name):
                    raise StoreStateError(f"Redis knows no view {view.name}. Register it first: `feast apply`.")
                self._known.add(view.name)

    def _drop(self, redis: Any, config: Any, view: _View) -> None:
        fields = view.every_field()
        while keys := redis.zrange(view.index, 0, SCAN_PAGE - 1):
            with redis.pipeline(transaction=True) as pipe:
                for key in keys:
                    pipe.hdel(key + config.project.encode(), *fields)
                pipe.zrem(view.index, *keys)
                pipe.execute()
        redis.srem(_views_key(config), view.name)
        redis.hdel(_identities_key(config), view.name)
        self._known.discard(view.name)


_GUARD_FIELDS: Final = 5


class _View:
    """The keys and fields of one view."""

    def __init__(self, config: Any, view: Any) -> None:
        self.name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        self.index = f"guarded:{config.project}:{self.name}"
        self._project = config.project.encode()
        self._columns = payload_columns(view)
        self._own = [feature.name for feature in view.features if feature.name in (VERSION, DELETED)]

    def keys(self, rows: Sequence[OnlineRow]) -> list[Any]:
        return [self.index, *(row.key + self._project for row in rows)]

    def arguments(self, rows: Sequence[OnlineRow], others: Sequence[_View], equal: bool, repair: bool) -> list[Any]:
        fields = [_field(self.name, name) for name in (*self._own, *self._columns)]
        told: list[Any] = [
            self.name,
            ("1" if equal else "0") + ("r" if repair else ""),
            len(self._project),
            len(fields),
            *fields,
        ]
        told += [len(others), *(other.name for other in others)]
        for row in rows:
            told += [_digits(row.version), row.event_us, "1" if row.deleted else "0", _feast_time(row.event_us)]
            told += [_own_value(name, row) for name in self._own]
            told += [value or b"" for value in row.values]
        return told

    def fields_to_read(self, columns: Sequence[str]) -> list[Any]:
        guard = [f"{kind}:{self.name}" for kind in ("_v", "_d", "_us", "_f", "_fus")]
        return [*guard, *(_field(self.name, column) for column in columns)]

    def every_field(self) -> list[Any]:
        own = [_field(self.name, name) for name in self._own]
        return [*self.fields_to_read(self._columns), *own, f"_ts:{self.name}"]


def _row(key: bytes, answer: Sequence[bytes | None], own_versions: bool) -> OnlineRow | None:
    version, deleted, event_us, followed, followed_us = answer[:_GUARD_FIELDS]
    if version is None or event_us is None:
        return None
    if followed is not None and followed_us is not None and followed >= version and not own_versions:
        version, event_us = followed, followed_us
    values = answer[_GUARD_FIELDS:]
    return OnlineRow(key, int(version) + _LOWEST, deleted == b"1", int(event_us), tuple(values))


def _own_value(name: str, row: OnlineRow) -> bytes:
    value = Value(int64_val=row.version) if name == VERSION else Value(bool_val=row.deleted)
    return bytes(value.SerializeToString())


def _digits(version: int) -> str:
    return f"{version - _LOWEST:0{_DIGITS}d}"


def _feast_time(event_us: int) -> bytes:
    seconds, rest = divmod(event_us, _SECOND_US)
    return bytes(Timestamp(seconds=seconds, nanos=rest * 1000).SerializeToString())


@cache
def _field(view: str, feature: str) -> bytes:
    """Feast's name of a feature in the hash."""
    from feast.infra.online_stores.helpers import _mmh3

    return bytes(_mmh3(f"{view}:{feature}"))


def _views_key(config: Any) -> str:
    return f"guarded:{config.project}"


def _identities_key(config: Any) -> str:
    return f"guarded_identity:{config.project}"


def _library() -> Any:
    try:
        return importlib.import_module("redis")
    except ModuleNotFoundError:
        raise StoreStateError("The Redis online store needs redis-py: pip install redis.") from None
