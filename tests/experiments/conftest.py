"""A store on its own SQLite file, a PostgreSQL server for tests, and a valid config."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import settings
from sqlalchemy import Engine, create_engine

from experiments.api_keys import ApiKeys, KeyRing
from experiments.assigner import Assigner
from experiments.config import Arm, ExperimentConfig
from experiments.event_rows import EventRow
from experiments.exposures import ExposureLogger
from experiments.privacy import SqlNonces, Tokens
from experiments.rest.app import create_app
from experiments.rest.limits import Limits
from experiments.roles import RIGHTS
from experiments.store import ExperimentStore
from tests.experiments.builders import Clock

# A busy machine, or the first import of a peer, makes one example slow; pytest's timeout is the limit.
settings.register_profile("experiments", deadline=None)
settings.load_profile("experiments")


@pytest.fixture
def config() -> ExperimentConfig:
    return ExperimentConfig(
        key="ranking",
        salt="ranking-1",
        coverage=10_000,
        arms=(Arm("control", 5_000), Arm("treatment", 5_000)),
        control="control",
    )


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the tables and no rows: a copy is cheaper than a migration."""
    path = tmp_path_factory.mktemp("empty") / "experiments.db"
    engine = create_engine(f"sqlite:///{path}")
    ExperimentStore(engine).create_all()
    engine.dispose()
    return path


@pytest.fixture
def clock() -> Clock:
    """The clock of `store`."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, clock: Clock) -> Iterator[ExperimentStore]:
    shutil.copy(empty_database, tmp_path)
    engine = create_engine(f"sqlite:///{tmp_path / 'experiments.db'}")
    store = ExperimentStore(engine, clock=clock)
    store.check_schema()
    yield store
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Path]:
    """The folder of a server that listens on a Unix socket there and on no port. User `pg`, database `postgres`."""
    if not all(map(shutil.which, ("initdb", "pg_ctl", "psql"))):
        pytest.skip("PostgreSQL's programs are not installed")
    # Not below pytest's folder: a socket's path is short, and the server (which refuses to be root) must reach it.
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        os.chown(home, pwd.getpwnam(user).pw_uid, -1)

    def run(*command: str) -> None:
        # The server must not inherit our pipes, or reading them would wait for its end.
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, user=user, cwd=home)

    data, log = str(home / "data"), str(home / "log")
    try:
        init = ("initdb", "-D", data, "-A", "trust", "-U", "pg", "--encoding", "UTF8", "--locale", "C", "--no-sync")
        try:
            # As in production it sorts text like a dictionary; what relies on code points has to say so.
            run(*init, "--locale-provider", "icu", "--icu-locale", "en")
        except subprocess.CalledProcessError:  # before 15, or built without ICU
            run(*init)
        options = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off"
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        yield home
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)


@pytest.fixture
def postgresql(postgresql_server: Path) -> Iterator[Callable[[], Engine]]:
    """Makes engines of a database that is empty when the test begins."""
    engines: list[Engine] = []

    def connect() -> Engine:
        url = f"postgresql+psycopg://pg@/postgres?host={postgresql_server}"
        engines.append(create_engine(url))
        return engines[-1]

    with connect().begin() as connection:
        connection.exec_driver_sql("drop schema public cascade")
        connection.exec_driver_sql("create schema public")
    yield connect
    for engine in engines:
        engine.dispose()


class Api:
    """The REST application over a store, called in process; `keys` are the texts of one key per role."""

    def __init__(self, store: ExperimentStore, limits: Limits | None = None) -> None:
        self.store = store
        self.sent: list[EventRow] = []
        self.logger = ExposureLogger(self.sent.append)
        self.assigner = Assigner(store.load, self.logger)
        self.assigner.refresh()
        self.api_keys = ApiKeys(store.engine)
        self.keys = {role: self.api_keys.create(role, role, actor="ada")[1] for role in RIGHTS}
        self.ring = KeyRing(self.api_keys.all)
        self.ring.refresh()
        self.tokens = Tokens(bytes(range(32)), SqlNonces(store.engine))
        self.app: FastAPI = create_app(store, self.assigner, self.ring, tokens=self.tokens, limits=limits)

    def __call__(self, method: str, path: str, role: str | None = None, **arguments: Any) -> httpx.Response:
        headers = dict(arguments.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.keys[role]}"  # type: ignore[index]
        return asyncio.run(self._call(method, path, headers=headers, **arguments))

    async def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **arguments)


@pytest.fixture
def api(store: ExperimentStore) -> Iterator[Api]:
    api = Api(store)
    yield api
    api.logger.close()


@pytest.fixture
def limited_api(store: ExperimentStore, request: pytest.FixtureRequest) -> Api:
    """The application with the limits of the test's parameter."""
    return Api(store, request.param)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Makes engines of one SQLite or PostgreSQL database that is empty when the test begins."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgresql")
        return
    engines: list[Engine] = []

    def sqlite() -> Engine:
        engines.append(create_engine(f"sqlite:///{tmp_path / 'experiments.db'}"))
        return engines[-1]

    yield sqlite
    for engine in engines:
        engine.dispose()
