"""The experiment database: life cycle, published versions, and the event sink's transaction.

SQLite by default, PostgreSQL in production, through SQLAlchemy 2. What the tables themselves forbid stands in
`tables`; the rules that span rows (`lifecycle`) are checked here in transactions that exclude each other.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, RowMapping, delete, func, insert, inspect, select
from sqlalchemy.exc import IntegrityError

from experiments import lifecycle, sink, tables
from experiments.config import ExperimentConfig, PublishedExperiment, State, from_json
from experiments.engine import exclusive, prepare_engine, writing
from experiments.errors import ConfigError, ConflictError, SchemaError, TransitionError, UnknownExperimentError
from experiments.events import EventRow
from experiments.lifecycle import Outcome


def now_us() -> int:
    """Microseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1000


class Transition(msgspec.Struct, frozen=True):
    """A row of an experiment's history; the last one is its state. `at` is microseconds UTC."""

    sequence: int
    state: State
    version: int | None
    outcome: Outcome | None
    at: int
    actor: str
    reason: str


class ExperimentStore:
    """Experiments and events in one SQL database. `engine` is a fresh SQLAlchemy engine; `clock` gives
    microseconds UTC.

    Safe to share between threads, as the engine is.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_us) -> None:
        prepare_engine(engine)
        self._engine = engine
        self._clock = clock
        self._arms = sink.ArmsOfVersions()

    # --- schema ---

    @property
    def engine(self) -> Engine:
        """The database, for readers of its own (reports, training logs)."""
        return self._engine

    def create_all(self) -> None:
        """Makes the tables where there are none. Raises SchemaError for tables of another version; changes
        nothing then.
        """
        with exclusive(self._engine) as connection:
            if inspect(connection).has_table(tables.schema_version.name):
                _check_schema(connection)
                return
            tables.metadata.create_all(connection)
            connection.execute(insert(tables.schema_version).values(version=tables.SCHEMA_VERSION))

    def check_schema(self) -> None:
        """Raises SchemaError unless the database has the tables of this program's schema version."""
        with self._engine.connect() as connection:
            _check_schema(connection)

    # --- life cycle ---

    def create_experiment(self, key: str, *, actor: str, reason: str = "") -> None:
        """Opens a draft. Raises ConflictError when the key is taken."""
        with exclusive(self._engine) as connection:
            if _history(connection, key):
                raise ConflictError(f"experiment {key!r} exists already; choose another key.")
            connection.execute(insert(tables.experiment).values(key=key, created_at=self._clock(), created_by=actor))
            self._append(connection, key, Transition(1, "draft", None, None, self._clock(), actor, reason))

    def publish(self, config: ExperimentConfig, *, actor: str, reason: str = "") -> int:
        """Freezes a config as the experiment's next version and returns its number; the same config twice is
        one version.

        Of a live experiment the version is in force at once, and only edits that move no unit between arms
        are taken. Raises UnknownExperimentError, ConfigError (an unsafe edit), TransitionError (it is over),
        ConflictError (the salt of another experiment).
        """
        with exclusive(self._engine) as connection:
            last = _last(connection, config.key)
            if last.state not in ("draft", *lifecycle.LIVE):
                raise TransitionError(
                    f"experiment {config.key!r} is {last.state}; start a new experiment with a new salt instead."
                )
            if last.version is not None:
                lifecycle.check_edit(_config(connection, config.key, last.version), config)
            _check_salt(connection, config)
            number, is_new = self._freeze(connection, config, actor)
            if last.version is not None and is_new:
                following = msgspec.structs.replace(
                    last, sequence=last.sequence + 1, version=number, at=self._clock(), actor=actor, reason=reason
                )
                self._append(connection, config.key, following)
            return number

    def _freeze(self, connection: Connection, config: ExperimentConfig, actor: str) -> tuple[int, bool]:
        text = config.canonical_json()
        version = tables.experiment_version
        query = select(version.c.version, version.c.sha256).where(version.c.experiment == config.key)
        latest = connection.execute(query.order_by(version.c.version.desc()).limit(1)).first()
        if latest is not None and latest.sha256 == config.sha256():
            return int(latest.version), False
        number = 1 if latest is None else int(latest.version) + 1
        connection.execute(
            insert(version).values(
                experiment=config.key,
                version=number,
                config=text.decode("utf-8"),
                sha256=config.sha256(),
                salt=config.salt,
                created_at=self._clock(),
                created_by=actor,
            )
        )
        return number, True

    def transition(
        self, key: str, state: State, *, actor: str, reason: str, outcome: Outcome | None = None
    ) -> Transition:
        """Moves an experiment to a state (`lifecycle` draws which may follow which) and returns the row that
        says so.

        A draft starts with its latest version. Raises UnknownExperimentError, TransitionError, and
        ConflictError when it would start on a layer range that a live experiment holds.
        """
        with exclusive(self._engine) as connection:
            last = _last(connection, key)
            lifecycle.check_transition(key, last.state, state, outcome)
            version = last.version if last.version is not None else _latest_version(connection, key)
            if last.state == "draft":
                live = [published.config for published in _load(connection, lifecycle.LIVE)]
                lifecycle.check_layer(_config(connection, key, version), live)
            following = Transition(last.sequence + 1, state, version, outcome, self._clock(), actor, reason)
            self._append(connection, key, following)
            return following

    def _append(self, connection: Connection, key: str, row: Transition) -> None:
        try:
            connection.execute(insert(tables.transition).values(experiment=key, **msgspec.structs.asdict(row)))
        except IntegrityError as error:
            if not row.actor:
                raise TransitionError(f"experiment {key!r}: the actor is empty; say who does this.") from error
            raise ConflictError(f"experiment {key!r} was changed by someone else just now; look again.") from error

    def experiment_keys(self) -> set[str]:
        """The keys of all experiments, in whatever state."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(tables.experiment.c.key)))

    def history(self, key: str) -> list[Transition]:
        """All transitions of an experiment, oldest first. Raises UnknownExperimentError."""
        with self._engine.connect() as connection:
            if not (rows := _history(connection, key)):
                raise UnknownExperimentError(f"there is no experiment {key!r}.")
            return rows

    def load(self, states: Sequence[State] = lifecycle.SERVED) -> list[PublishedExperiment]:
        """The experiments in these states with the version in force, by key: what a service keeps in memory.

        Raises ConfigError when a stored config is not the text that was published, or is of a newer schema.
        """
        with self._engine.connect() as connection:
            return _load(connection, states)

    # --- event sink ---

    def rejected(self, rows: Sequence[EventRow]) -> tuple[sink.Rejected, ...]:
        """The rows that `write_events` would not write, and why. Reads only, and holds no lock when it returns: what
        must be secured before the offsets move (dead letters) may take its time.
        """
        with self._engine.connect() as connection:
            return sink.reject(connection, rows, self._arms)

    def write_events(
        self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int] | None = None, log: str = ""
    ) -> sink.WriteResult:
        """Writes a batch and the offsets that follow it, {(topic, partition): next offset}, in one
        transaction.

        Idempotent by event id, in any order. A row that no table can take, and an exposure of an unknown
        experiment, version or arm, is not written but returned as rejected; the rest of the batch is written
        all the same. `log` identifies what the offsets count in: Kafka's cluster and topic ids.
        """
        with writing(self._engine) as connection:
            return sink.write(connection, rows, offsets or {}, log, self._arms, self._clock())

    def offsets(self, topic: str, log: str = "") -> dict[int, int]:
        """The next offset to read of each partition of a topic's log that was written from."""
        table = tables.sink_offset.c
        with self._engine.connect() as connection:
            query = select(table.partition, table.next_offset).where(table.log == log, table.topic == topic)
            return {int(partition): int(offset) for partition, offset in connection.execute(query)}

    def forget_offsets(self, topic: str, log: str, partitions: Collection[int]) -> None:
        """Drops offsets that the log does not have: those that are written from its start may be smaller."""
        table = tables.sink_offset
        with writing(self._engine) as connection:
            connection.execute(
                delete(table).where(table.c.log == log, table.c.topic == topic, table.c.partition.in_(partitions))
            )


def _check_schema(connection: Connection) -> None:
    url = connection.engine.url.render_as_string(hide_password=True)
    if not inspect(connection).has_table(tables.schema_version.name):
        raise SchemaError(f"{url} has no experiment tables; create them first (create_all).")
    found = connection.execute(select(func.max(tables.schema_version.c.version))).scalar()
    if found != tables.SCHEMA_VERSION:
        remedy = "upgrade the database" if (found or 0) < tables.SCHEMA_VERSION else "upgrade this program"
        raise SchemaError(f"{url} has schema version {found}, this program needs {tables.SCHEMA_VERSION}: {remedy}.")


def _transition(row: RowMapping) -> Transition:
    return msgspec.convert({name: row[name] for name in Transition.__struct_fields__}, Transition)


def _history(connection: Connection, key: str) -> list[Transition]:
    table = tables.transition
    query = select(table).where(table.c.experiment == key).order_by(table.c.sequence)
    return [_transition(row) for row in connection.execute(query).mappings()]


def _last(connection: Connection, key: str) -> Transition:
    if not (rows := _history(connection, key)):
        raise UnknownExperimentError(f"there is no experiment {key!r}; create it first.")
    return rows[-1]


def _latest_version(connection: Connection, key: str) -> int:
    version = tables.experiment_version.c
    found = connection.execute(select(func.max(version.version)).where(version.experiment == key)).scalar()
    if found is None:
        raise UnknownExperimentError(f"nothing is published for experiment {key!r}; publish a config first.")
    return int(found)


def _config(connection: Connection, key: str, number: int) -> ExperimentConfig:
    table = tables.experiment_version
    query = select(table).where(table.c.experiment == key, table.c.version == number)
    return _checked_config(connection.execute(query).mappings().one())


def _checked_config(row: Mapping[Any, Any]) -> ExperimentConfig:
    # The text is hashed, not the decoded config: a later program may write more fields than this version was
    # given.
    if hashlib.sha256(row["config"].encode("utf-8")).hexdigest() != row["sha256"]:
        raise ConfigError(
            f"version {row['version']} of experiment {row['experiment']!r} is not the text that was published "
            "(its SHA-256 differs): restore it from a backup."
        )
    return from_json(row["config"])


def _check_salt(connection: Connection, config: ExperimentConfig) -> None:
    version = tables.experiment_version.c
    query = select(version.experiment).where(version.salt == config.salt, version.experiment != config.key)
    if (other := connection.execute(query.limit(1)).scalar()) is not None:
        raise ConflictError(
            f"salt {config.salt!r} is that of experiment {other!r}: both would put the same units into the same arms. "
            "Give a salt of its own."
        )


def _load(connection: Connection, states: Sequence[State]) -> list[PublishedExperiment]:
    transition, version = tables.transition, tables.experiment_version
    last = (
        select(transition.c.experiment, func.max(transition.c.sequence).label("sequence"))
        .group_by(transition.c.experiment)
        .subquery()
    )
    query = (
        select(version, transition.c.state)
        .join(
            transition, (transition.c.experiment == version.c.experiment) & (transition.c.version == version.c.version)
        )
        .join(last, (last.c.experiment == transition.c.experiment) & (last.c.sequence == transition.c.sequence))
        .where(transition.c.state.in_(states))
        .order_by(version.c.experiment)
    )
    return [
        PublishedExperiment(_checked_config(row), int(row["version"]), row["state"])
        for row in connection.execute(query).mappings()
    ]
