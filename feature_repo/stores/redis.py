"""A Redis online store for Feast in which the newest version of a product always wins.

Feast's own Redis store ignores a write whose event time is in the same second as the stored one, so it silently drops a
re-embedding under the old event time. It also cannot delete a product. The rules of all guarded stores are in
`feature_repo.stores.base`. Redis's part:

* The layout is Feast's: one hash per product, a field per feature (murmur3 of `view:feature`), `_ts:<view>`. So Feast's
  stock readers, in any language, read what this store writes. More fields of the hash keep the version (`_v`), the
  tombstone (`_d`), the event time (`_us`), and the version that the row has followed to with its event time (`_f`,
  `_fus`). A sorted set per view holds the keys, for pages and counts without a scan of the database.
* The guard is a Lua script. Redis runs it as one step, and all scripts of one `write` in one MULTI/EXEC. The script
  compares versions as texts of 20 digits, because Lua's numbers are exact to 53 bits only.
* Redis answers before it has written to disk (`appendfsync everysec` is its default), and its eviction policy may
  remove keys: set `maxmemory-policy noeviction`. After a crash, run `sagelift features materialize --full`.

Use one server or a failover pair, not Redis Cluster: its scripts cannot touch keys of several slots.
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
from types import ModuleType
from typing import Final, Literal, Protocol, Self, cast

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.vector_store import VectorStoreConfig
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr, field_validator

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import StoreBusyError, StoreStateError
from feature_repo.online_row import OnlineRow, newest_of_each_key, payload_columns
from feature_repo.stores.base import PAGE_ROWS, GuardedOnlineStore, ViewColumns, ViewRows, check_filled_in

_ROWS_PER_SCRIPT: Final = 512  # a script blocks the server while it runs: about 2 ms
_LOWEST: Final = -(2**63)
_DIGITS: Final = 20
_SECOND_US: Final = 1_000_000

# Writes rows of one view. `_View.keys` and `_View.arguments` give KEYS and ARGV in this order:
#
#   KEYS: the view's sorted set, then the hash of each row.
#   ARGV: the view's name, whether an equal version passes, whether to compare with written versions only ('1' or '0'
#         each), the length of the project's name, the features (their number first), the views to advance (their number
#         first), and for each row: version, event time, '1' if deleted, Feast's timestamp, a value for each feature.
#
# Returns the numbers of the refused rows, counted from 0.
_WRITE: Final = """
local position = 0

local function argument()
  position = position + 1
  return ARGV[position]
end

local function arguments(count)
  local list = {}
  for i = 1, count do list[i] = argument() end
  return list
end

local view = argument()
local equal_passes = argument() == '1'
local written_versions_only = argument() == '1'
local project_length = tonumber(argument())
local features = arguments(tonumber(argument()))
local views_to_advance = arguments(tonumber(argument()))

-- The newest of two versions; versions are texts of equal length, and a version may be missing (false).
local function newest(left, right)
  if left and right and right > left then return right end
  return left
end

local function is_refused(hash, version)
  local stored = redis.call('HMGET', hash, '_v:' .. view, '_f:' .. view)
  local current = stored[1]
  if not written_versions_only then current = newest(stored[1], stored[2]) end
  return current and (current > version or (current == version and not equal_passes))
end

local function store(hash, version, event_time, deleted, feast_time, values)
  local fields = {'_v:' .. view, version, '_us:' .. view, event_time, '_d:' .. view, deleted}
  if deleted == '1' then
    redis.call('HDEL', hash, '_ts:' .. view, unpack(features))
  else
    fields[#fields + 1] = '_ts:' .. view
    fields[#fields + 1] = feast_time
    for i, feature in ipairs(features) do
      fields[#fields + 1] = feature
      fields[#fields + 1] = values[i]
    end
  end
  redis.call('HSET', hash, unpack(fields))
end

-- Let the product's rows in other views follow to this version.
local function advance(hash, version, event_time)
  for _, other in ipairs(views_to_advance) do
    local stored = redis.call('HMGET', hash, '_v:' .. other, '_f:' .. other)
    local written, followed = stored[1], stored[2]
    if written and not (followed and followed > version) then
      redis.call('HSET', hash, '_f:' .. other, version, '_fus:' .. other, event_time)
    end
  end
end

local refused = {}
for number = 2, #KEYS do
  local hash = KEYS[number]
  local version, event_time, deleted, feast_time = argument(), argument(), argument(), argument()
  local values = arguments(#features)
  if is_refused(hash, version) then
    refused[#refused + 1] = number - 2
  else
    store(hash, version, event_time, deleted, feast_time, values)
    redis.call('ZADD', KEYS[1], 0, string.sub(hash, 1, -project_length - 1))
    advance(hash, version, event_time)
  end
end
return refused
"""


class _Pipeline(Protocol):
    """The commands of redis-py's pipeline that this store uses."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def hmget(self, name: bytes, keys: Sequence[str | bytes]) -> object: ...
    def hdel(self, name: bytes, *keys: str | bytes) -> object: ...
    def zrem(self, name: str, *values: bytes) -> object: ...
    def execute(self) -> list[object]: ...


class _Script(Protocol):
    """A script that Redis runs; with a pipeline as its client, it returns the pipeline."""

    def __call__(self, keys: Sequence[str | bytes], args: Sequence[str | bytes | int], client: _Pipeline) -> object: ...


class _Client(Protocol):
    """The commands of redis-py's client that this store uses, with their answers in bytes."""

    def sadd(self, name: str, *values: str) -> int: ...
    def srem(self, name: str, *values: str) -> int: ...
    def smembers(self, name: str) -> set[bytes]: ...
    def sismember(self, name: str, value: str) -> int: ...
    def zrange(self, name: str, start: int, end: int) -> list[bytes]: ...
    def zrangebylex(self, name: str, min: bytes, max: bytes, start: int, num: int) -> list[bytes]: ...
    def zcard(self, name: str) -> int: ...
    def hsetnx(self, name: str, key: str, value: str) -> int: ...
    def hget(self, name: str, key: str) -> bytes: ...
    def hdel(self, name: str, *keys: str) -> int: ...
    def pipeline(self, transaction: bool) -> _Pipeline: ...
    def register_script(self, script: str) -> _Script: ...
    def close(self) -> None: ...


class GuardedRedisOnlineStoreConfig(FeastConfigBaseModel, VectorStoreConfig):
    """Settings below `online_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.stores.redis.GuardedRedisOnlineStore"] = (
        "feature_repo.stores.redis.GuardedRedisOnlineStore"
    )
    url: SecretStr
    """`redis://user:password@host:6379/0`, `rediss://` with TLS, `unix:///path?db=0`."""
    timeout_s: float = 30.0
    """How long to wait for one answer, in seconds."""

    @field_validator("url")
    @classmethod
    def _url_is_filled_in(cls, url: SecretStr) -> SecretStr:
        return check_filled_in("url", url)


class GuardedRedisOnlineStore(GuardedOnlineStore):
    """Feast online store over Redis, ordered by version; see the module's docstring. Threads may share one."""

    def __init__(self) -> None:
        self._client: _Client | None = None
        self._registered: set[str] = set()  # names of views that `update` has registered in Redis
        self._opening = threading.Lock()
        self._pid = os.getpid()

    # What Feast calls.

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Register views, or delete their rows (`feast apply`)."""
        with self._redis(config) as redis:
            for view in tables_to_keep:
                redis.sadd(_views_key(config), _View(config, view).name)
            for view in tables_to_delete:
                self._drop(redis, config, _View(config, view))

    # What all guarded stores can do.

    def write(
        self,
        config: RepoConfig,
        batches: Sequence[ViewRows],
        advance: Sequence[FeatureView] = (),
        *,
        equal: bool = True,
        repair: bool = False,
    ) -> list[set[bytes]]:
        """Write rows of several views in one transaction; see `GuardedOnlineStore.write`."""
        others = [_View(config, view) for view in advance]
        calls = [
            (number, view, some)
            for number, view, newest in (
                (number, _View(config, view), newest_of_each_key(rows)) for number, (view, rows) in enumerate(batches)
            )
            for some in (newest[at : at + _ROWS_PER_SCRIPT] for at in range(0, len(newest), _ROWS_PER_SCRIPT))
        ]
        refused: list[set[bytes]] = [set() for _ in batches]
        with self._redis(config) as redis:
            self._check_registered(redis, config, [*(view for _, view, _ in calls), *others])
            script = redis.register_script(_WRITE)
            with redis.pipeline(transaction=True) as pipe:
                for _, view, rows in calls:
                    script(keys=view.keys(rows), args=view.arguments(rows, others, equal, repair), client=pipe)
                answers = cast(list[list[int]], pipe.execute() if calls else [])
        for (number, _, rows), numbers in zip(calls, answers, strict=True):
            refused[number].update(rows[i].key for i in numbers)
        return refused

    def read(
        self,
        config: RepoConfig,
        columns: Sequence[ViewColumns],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        """Read rows of several views as of one time; see `GuardedOnlineStore.read`."""
        keys = list(dict.fromkeys(keys))
        views = [(_View(config, view), names) for view, names in columns]
        # One HMGET per product for all views, so that all views are as of one time.
        fields = [field for view, names in views for field in view.fields_to_read(names)]
        with self._redis(config) as redis:
            self._check_registered(redis, config, [view for view, _ in views])
            with redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key + config.project.encode(), fields)
                answers = cast(list[list[bytes | None]], pipe.execute() if keys and fields else [])
        results: list[dict[bytes, OnlineRow]] = []
        start = 0
        for _, names in views:
            end = start + _GUARD_FIELDS + len(names)
            rows = (_row(key, answer[start:end], own_versions) for key, answer in zip(keys, answers, strict=True))
            results.append({row.key: row for row in rows if row is not None})
            start = end
        return results

    def page(
        self, config: RepoConfig, view: FeatureView, columns: Sequence[str], after: bytes = b"", limit: int = PAGE_ROWS
    ) -> list[OnlineRow]:
        """Read the next `limit` live rows after the key `after`, in key order."""
        index = _View(config, view).index
        live: list[OnlineRow] = []
        while len(live) < limit:
            with self._redis(config) as redis:
                self._check_registered(redis, config, [_View(config, view)])
                keys = redis.zrangebylex(index, b"(" + after if after else b"-", b"+", 0, limit)
            if not keys:
                break
            (rows,) = self.read(config, [(view, columns)], keys)
            live += [rows[key] for key in keys if key in rows and not rows[key].deleted]
            after = keys[-1]
        return live[:limit]

    def tables(self, config: RepoConfig, prefix: str) -> list[str]:
        """Return the sorted names of the views that have a table and begin with `prefix`."""
        with self._redis(config) as redis:
            names = [name.decode() for name in redis.smembers(_views_key(config))]
        return sorted(name for name in names if name.startswith(prefix))

    def count(self, config: RepoConfig, view: FeatureView) -> int:
        """Count the rows of a view, tombstones included."""
        with self._redis(config) as redis:
            return redis.zcard(_View(config, view).index)

    def identity(self, config: RepoConfig, view: FeatureView) -> str:
        """Return the random name that a view's rows get once."""
        name = _View(config, view).name
        with self._redis(config) as redis:
            redis.hsetnx(_identities_key(config), name, uuid.uuid4().hex)
            return redis.hget(_identities_key(config), name).decode()

    def disconnect(self) -> None:
        """Close every connection of this process."""
        client, self._client, self._registered = self._client, None, set()
        if client is not None and self._pid == os.getpid():
            client.close()

    # Inside.

    @contextmanager
    def _redis(self, config: RepoConfig) -> Iterator[_Client]:
        """Yield the client, whose pool gives each thread its own connection; raise this package's errors."""
        library = _library()
        settings = config.online_store
        with self._opening:
            if self._pid != os.getpid():  # the sockets belong to the parent process
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

    def _check_registered(self, redis: _Client, config: RepoConfig, views: Sequence[_View]) -> None:
        """Refuse views that `feast apply` has not registered."""
        for view in views:
            if view.name not in self._registered:
                if not redis.sismember(_views_key(config), view.name):
                    raise StoreStateError(f"Redis has no view {view.name}. Register it first: `feast apply`.")
                self._registered.add(view.name)

    def _drop(self, redis: _Client, config: RepoConfig, view: _View) -> None:
        fields = view.every_field()
        while keys := redis.zrange(view.index, 0, PAGE_ROWS - 1):
            with redis.pipeline(transaction=True) as pipe:
                for key in keys:
                    pipe.hdel(key + config.project.encode(), *fields)
                pipe.zrem(view.index, *keys)
                pipe.execute()
        redis.srem(_views_key(config), view.name)
        redis.hdel(_identities_key(config), view.name)
        self._registered.discard(view.name)


_GUARD_FIELDS: Final = 5


class _View:
    """The keys and fields of one view."""

    def __init__(self, config: RepoConfig, view: FeatureView) -> None:
        self.name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        self.index = f"guarded:{config.project}:{self.name}"
        self._project = config.project.encode()
        self._columns = payload_columns(view)
        self._own = [feature.name for feature in view.features if feature.name in (VERSION, DELETED)]

    def keys(self, rows: Sequence[OnlineRow]) -> list[str | bytes]:
        """Return the keys of `_WRITE`."""
        return [self.index, *(row.key + self._project for row in rows)]

    def arguments(
        self, rows: Sequence[OnlineRow], others: Sequence[_View], equal: bool, repair: bool
    ) -> list[str | bytes | int]:
        """Return the arguments of `_WRITE`."""
        features = [_field(self.name, name) for name in (*self._own, *self._columns)]
        arguments: list[str | bytes | int] = [self.name, _switch(equal), _switch(repair), len(self._project)]
        arguments += [len(features), *features]
        arguments += [len(others), *(other.name for other in others)]
        for row in rows:
            arguments += [_digits(row.version), row.event_us, _switch(row.deleted), _feast_time(row.event_us)]
            arguments += [_own_value(name, row) for name in self._own]
            arguments += [value or b"" for value in row.values]
        return arguments

    def fields_to_read(self, columns: Sequence[str]) -> list[str | bytes]:
        """Return the fields of the hash that `_row` needs."""
        guard = [f"{kind}:{self.name}" for kind in ("_v", "_d", "_us", "_f", "_fus")]
        return [*guard, *(_field(self.name, column) for column in columns)]

    def every_field(self) -> list[str | bytes]:
        """Return all fields of this view in the hash."""
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


def _switch(on: bool) -> str:
    return "1" if on else "0"


def _digits(version: int) -> str:
    """Return a text whose order is the order of the versions."""
    return f"{version - _LOWEST:0{_DIGITS}d}"


def _feast_time(event_us: int) -> bytes:
    seconds, rest = divmod(event_us, _SECOND_US)
    return bytes(Timestamp(seconds=seconds, nanos=rest * 1000).SerializeToString())


@cache
def _field(view: str, feature: str) -> bytes:
    """Return Feast's name of a feature in the hash."""
    from feast.infra.online_stores.helpers import _mmh3

    return bytes(_mmh3(f"{view}:{feature}"))


def _views_key(config: RepoConfig) -> str:
    return f"guarded:{config.project}"


def _identities_key(config: RepoConfig) -> str:
    return f"guarded_identity:{config.project}"


def _library() -> ModuleType:
    try:
        return importlib.import_module("redis")
    except ModuleNotFoundError:
        raise StoreStateError("The Redis online store needs redis-py: pip install redis.") from None
