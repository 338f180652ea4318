"""The experiment database: schema, life cycle, published versions, and the event sink's transaction.

SQLite by default, PostgreSQL in production, through SQLAlchemy 2. What the database itself forbids stands in
`migrations`; the rules that span rows (`registry`) are checked here in transactions that exclude each other.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, delete, select

from experiments import database_schema, event_writer, lifecycle, records, tables
from experiments.config import ExperimentConfig, ExperimentState, Override, PublishedExperiment
from experiments.editor import Registry
from experiments.engine import exclusive, prepare_engine, writing
from experiments.errors import ExperimentsError, UnknownExperimentError
from experiments.event_rows import EventRow
from experiments.layers import LayerSummary
from experiments.lifecycle import Action, Decision
from experiments.metrics import MetricDefinition, MetricVersion
from experiments.records import AuditEntry, ExperimentSummary, Scheduled, Transition, Version
from experiments.schedule import Ran, due

__all__ = ["ExperimentStore", "Transition", "now_us"]


def now_us() -> int:
    """Microseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1000


class ExperimentStore:
    """Experiments and events in one SQL database. `engine` is a fresh SQLAlchemy engine; `clock` gives
    microseconds UTC.

    Safe to share between threads, as the engine is. Every method that takes an actor writes a row of the audit log in
    the transaction of what it does, and raises TransitionError when the actor is empty.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_us) -> None:
        prepare_engine(engine)
        self._engine = engine
        self._clock = clock
        self._versions = event_writer.KnownVersions()

    # --- schema ---

    @property
    def engine(self) -> Engine:
        """The database, for readers of its own (reports, training logs)."""
        return self._engine

    def create_all(self) -> None:
        """Makes the tables where there are none. Raises SchemaError for a database of another revision; changes
        nothing then.
        """
        with exclusive(self._engine) as connection:
            if database_schema.revision(connection) is None:
                database_schema.migrate(connection)
            else:
                database_schema.check(connection)

    def migrate(self, revision: str = "head") -> tuple[str | None, str | None]:
        """Brings the database to a revision, up or down, in one transaction; from which and to which it went. Raises
        SchemaError.
        """
        with exclusive(self._engine) as connection:
            before = database_schema.revision(connection)
            database_schema.migrate(connection, revision)
            return before, database_schema.revision(connection)

    def check_schema(self) -> None:
        """Raises SchemaError unless the database is of this program's revision."""
        with self._engine.connect() as connection:
            database_schema.check(connection)

    # --- life cycle ---

    def create_experiment(self, key: str, *, actor: str, reason: str = "") -> None:
        """Opens a draft. Raises ConflictError when the key is taken."""
        with self._registry(actor, reason) as registry:
            registry.create(key)

    def publish(self, config: ExperimentConfig, *, actor: str, reason: str = "", create: bool = False) -> int:
        """Freezes a config as the experiment's next version and returns its number; the same config twice is
        one version. `create`: opens the experiment as well when it is new.

        Of a live experiment the version is in force at once, and only safe edits are taken (`lifecycle`). Raises
        UnknownExperimentError, ConfigError (an unsafe edit, a layer or a metric that is not there), TransitionError (in
        review, or over), ConflictError (the salt of another experiment or phase).
        """
        with self._registry(actor, reason) as registry:
            if create and not registry.knows(config.key):
                registry.create(config.key)
            return registry.publish(config)

    def new_phase(self, config: ExperimentConfig, *, actor: str, reason: str) -> int:
        """An unsafe edit: begins a new phase with a new salt, in force at once, and returns its version; what was
        stopped runs again.

        Raises as `publish`, and ConflictError when another live experiment holds the layer range.
        """
        with self._registry(actor, reason) as registry:
            return registry.new_phase(config)

    def ramp(self, key: str, coverage: int, *, actor: str, reason: str) -> int:
        """Raises the coverage (1/10,000) of a live experiment and returns the new version. Raises ConfigError when it
        would not grow, TransitionError when the experiment is not live.
        """
        with self._registry(actor, reason) as registry:
            return registry.ramp(key, coverage)

    def hold(self, key: str, *, actor: str, reason: str, evidence: dict[str, Any] | None = None) -> int:
        """Stops a live experiment's ramp where it stands, in its config and in the schedule: who is enrolled stays,
        nobody follows. Returns the version in force. `evidence` (JSON) is kept with the row. Raises TransitionError.
        """
        with self._registry(actor, reason) as registry:
            return registry.hold(key, evidence)

    def force_arm(self, key: str, override: Override, *, actor: str, reason: str) -> None:
        """Forces an arm upon one unit until a time, for a test by hand; it is not enrolled. Raises
        UnknownExperimentError, ConfigError (no such arm, a unit id that is unfit, a time that is past).
        """
        with self._registry(actor, reason) as registry:
            registry.force_arm(key, override)

    def clear_arm(self, key: str, unit: str, *, actor: str, reason: str) -> bool:
        """Forces no arm upon a unit any more; whether one was. Raises UnknownExperimentError."""
        with self._registry(actor, reason) as registry:
            return registry.clear_arm(key, unit)

    def transition(
        self,
        key: str,
        state: ExperimentState,
        *,
        actor: str,
        reason: str,
        outcome: Decision | None = None,
        evidence: dict[str, Any] | None = None,
    ) -> Transition:
        """Moves an experiment to a state (`lifecycle` draws which may follow which) and returns the row that
        says so.

        A draft starts with its latest version. `evidence` (JSON) is kept with the row. Raises UnknownExperimentError,
        TransitionError, and ConflictError when it would start on a layer range that a live experiment holds.
        """
        with self._registry(actor, reason) as registry:
            return registry.move(key, state, outcome, evidence)

    def submit(self, key: str, *, actor: str, reason: str) -> Transition:
        """Asks for a review of what was published. Raises as `transition`."""
        return self.transition(key, "in_review", actor=actor, reason=reason)

    def revise(self, key: str, *, actor: str, reason: str) -> Transition:
        """Takes it back from review. Raises as `transition`."""
        return self.transition(key, "draft", actor=actor, reason=reason)

    def start(self, key: str, *, actor: str, reason: str) -> Transition:
        """Runs a draft, what is in review, or what was paused. Raises as `transition`."""
        return self.transition(key, "running", actor=actor, reason=reason)

    def pause(self, key: str, *, actor: str, reason: str) -> Transition:
        """Keeps serving the arms and enrols no one. Raises as `transition`."""
        return self.transition(key, "paused", actor=actor, reason=reason)

    def stop(self, key: str, *, actor: str, reason: str, evidence: dict[str, Any] | None = None) -> Transition:
        """Serves control to everyone, and cancels what was scheduled. Raises as `transition`."""
        return self.transition(key, "stopped", actor=actor, reason=reason, evidence=evidence)

    def decide(self, key: str, outcome: Decision, *, actor: str, reason: str) -> Transition:
        """Closes what was stopped. Raises as `transition`."""
        return self.transition(key, "decided", actor=actor, reason=reason, outcome=outcome)

    def archive(self, key: str, *, actor: str, reason: str) -> Transition:
        """Puts away a draft, or what is decided. Raises as `transition`."""
        return self.transition(key, "archived", actor=actor, reason=reason)

    # --- what experiments share ---

    def create_layer(self, key: str, *, actor: str, reason: str, description: str = "") -> None:
        """Makes a layer that experiments may name. Raises ConfigError (no key), ConflictError (taken)."""
        with self._registry(actor, reason) as registry:
            registry.create_layer(key, description)

    def layers(self) -> list[LayerSummary]:
        """All layers, who holds which part of each, and what is free, by key."""
        with self._engine.connect() as connection:
            return records.layers(connection, self._clock())

    def publish_metrics(
        self, definitions: Iterable[MetricDefinition], *, actor: str, reason: str = ""
    ) -> dict[str, int]:
        """Freezes each metric as its next version, all or none; one that is as before keeps its version. The versions
        by key. From the first on, an experiment may only name metrics that are published.
        """
        with self._registry(actor, reason) as registry:
            return registry.publish_metrics(definitions)

    def metrics(self) -> list[MetricVersion]:
        """The latest version of each metric, by key."""
        with self._engine.connect() as connection:
            return records.metrics(connection)

    # --- schedule ---

    def schedule(
        self, key: str, action: Action, at: int, *, actor: str, reason: str, coverage: int | None = None
    ) -> int:
        """Keeps a command for `run_due` at or after `at` (microseconds UTC) and returns its number; a ramp has a
        coverage. Raises ScheduleError, UnknownExperimentError.
        """
        with self._registry(actor, reason) as registry:
            return registry.schedule(key, action, at, coverage)

    def cancel(self, number: int, *, actor: str, reason: str) -> None:
        """Takes a scheduled command back. Raises UnknownExperimentError when none of that number waits."""
        with self._registry(actor, reason) as registry:
            registry.cancel(number)

    def scheduled(self, key: str | None = None, *, pending: bool = False) -> list[Scheduled]:
        """Scheduled commands and what became of them, in the order in which they are due."""
        with self._engine.connect() as connection:
            return records.schedule(connection, key, pending=pending)

    def run_due(self) -> list[Ran]:
        """Carries out the commands whose time has come, each once and in a transaction of its own, in their order.

        One that the life cycle refuses is noted as failed, with the reason, and is not tried again. Several programs
        may call this at once.
        """
        ran = []
        for waiting in due(self.scheduled(pending=True), self._clock()):
            try:
                with self._registry(waiting.actor, waiting.reason) as registry:
                    if not registry.waits(waiting.id):
                        continue  # another program was first, or a stop that was due before has cancelled it
                    registry.run(waiting.id)
                ran.append(Ran(waiting, None))
            except ExperimentsError as error:
                with self._registry(waiting.actor, waiting.reason) as registry:
                    if registry.waits(waiting.id):
                        registry.fail(waiting.id, str(error))
                        ran.append(Ran(waiting, str(error)))
        return ran

    @contextmanager
    def _registry(self, actor: str, reason: str) -> Iterator[Registry]:
        with exclusive(self._engine) as connection:
            yield Registry(connection, self._clock(), actor, reason)

    # --- what is there ---

    def experiments(self) -> list[ExperimentSummary]:
        """All experiments in whatever state, by key."""
        with self._engine.connect() as connection:
            return records.summaries(connection)

    def experiment_keys(self) -> set[str]:
        """The keys of all experiments, in whatever state."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(tables.experiment.c.key)))

    def history(self, key: str) -> list[Transition]:
        """All transitions of an experiment, oldest first. Raises UnknownExperimentError."""
        with self._engine.connect() as connection:
            if not (rows := records.history(connection, key)):
                raise UnknownExperimentError(f"there is no experiment {key!r}.")
            return rows

    def versions(self, key: str) -> list[Version]:
        """All published versions, oldest first. Raises UnknownExperimentError, ConfigError."""
        with self._engine.connect() as connection:
            records.last(connection, key)
            return records.versions(connection, key)

    def version(self, key: str, number: int | None = None) -> Version:
        """A published version, by default the latest. Raises UnknownExperimentError, ConfigError."""
        with self._engine.connect() as connection:
            return records.version(connection, key, number or records.latest_version(connection, key))

    def audit(self, subject: str | None = None, *, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
        """The audit log, newest first: of an experiment or an API key, entries with an id below `before`."""
        with self._engine.connect() as connection:
            return records.audit(connection, subject, before, limit)

    def load(self, states: Sequence[ExperimentState] = lifecycle.SERVED) -> list[PublishedExperiment]:
        """The experiments in these states with the version in force, by key: what a service keeps in memory.

        Raises ConfigError when a stored config is not the text that was published, or is of a newer database_schema.
        """
        with self._engine.connect() as connection:
            return records.load(connection, states, self._clock())

    # --- event sink ---

    def rejected(self, rows: Sequence[EventRow]) -> tuple[event_writer.Rejected, ...]:
        """The rows that `write_events` would not write, and why. Reads only, and holds no lock when it returns: what
        must be secured before the offsets move (dead letters) may take its time.
        """
        with self._engine.connect() as connection:
            return event_writer.reject(connection, rows, self._versions)

    def write_events(
        self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int] | None = None, log: str = ""
    ) -> event_writer.WriteResult:
        """Writes a batch and the offsets that follow it, {(topic, partition): next offset}, in one
        transaction.

        Idempotent by event id, in any order. A row that no table can take, and an exposure of an unknown
        experiment, version or arm, is not written but returned as rejected; the rest of the batch is written
        all the same. `log` identifies what the offsets count in: Kafka's cluster and topic ids.
        """
        with writing(self._engine) as connection:
            return event_writer.write(connection, rows, offsets or {}, log, self._versions, self._clock())

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
