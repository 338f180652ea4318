"""The experiment database as one object: schema, life cycle, published versions, and the event sink's transaction.

SQLite by default, PostgreSQL in production, through SQLAlchemy 2. `migrations` has the rules that the database itself
guards. The rules that span rows (`editor`) are checked here, in transactions that exclude each other.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, delete, select

from experiments import database_schema, event_writer, queries, tables
from experiments.audit import AuditLog
from experiments.config import ExperimentConfig, ExperimentState, Override, PublishedExperiment
from experiments.editor import ExperimentEditor
from experiments.engine import exclusive, prepare_engine, writing
from experiments.errors import ExperimentsError, UnknownExperimentError
from experiments.event_rows import EventRow
from experiments.event_writer import PublishedVersions, Rejected, WriteResult
from experiments.layers import LayerSummary
from experiments.lifecycle import SERVED, Action, Decision
from experiments.metrics import MetricDefinition, MetricVersion
from experiments.records import AuditEntry, ExperimentSummary, Scheduled, Transition, Version
from experiments.schedule import CommandResult, ScheduleEditor, due
from experiments.shared_definitions import create_layer, publish_metrics
from experiments.times import now_us


class ExperimentStore:
    """Experiments and events in one SQL database.

    Threads may share a store. Every method with an actor adds an entry to the audit log in the transaction of the
    change, and raises TransitionError when the actor is empty.

    Args:
        engine: A fresh SQLAlchemy engine.
        clock: Returns the current time in microseconds UTC.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_us) -> None:
        prepare_engine(engine)
        self._engine = engine
        self._clock = clock
        self._versions = PublishedVersions()

    # --- schema ---

    @property
    def engine(self) -> Engine:
        """The engine, for code that reads the database itself (reports, training logs)."""
        return self._engine

    def create_all(self) -> None:
        """Create the tables when there are none.

        Raises:
            SchemaError: The database has another revision; nothing is changed.
        """
        with exclusive(self._engine) as connection:
            if database_schema.revision(connection) is None:
                database_schema.migrate(connection)
            else:
                database_schema.check(connection)

    def migrate(self, revision: str = "head") -> tuple[str | None, str | None]:
        """Migrate the database up or down to a revision, in one transaction.

        Args:
            revision: A revision, `head` for the newest one, or `base` to drop all tables.

        Returns:
            The revisions before and after; None for a database without tables.

        Raises:
            SchemaError: The migration is not possible.
        """
        with exclusive(self._engine) as connection:
            before = database_schema.revision(connection)
            database_schema.migrate(connection, revision)
            return before, database_schema.revision(connection)

    def check_schema(self) -> None:
        """Check that the database has this program's revision.

        Raises:
            SchemaError: It has another revision, or no tables.
        """
        with self._engine.connect() as connection:
            database_schema.check(connection)

    # --- life cycle ---

    def create_experiment(self, key: str, *, actor: str, reason: str = "") -> None:
        """Create a draft.

        Raises:
            ConflictError: The key is taken.
        """
        with self._editor(actor, reason) as editor:
            editor.create(key)

    def publish(self, config: ExperimentConfig, *, actor: str, reason: str = "", create: bool = False) -> int:
        """Freeze a config as the experiment's next version; an unchanged config keeps its version.

        The version of a live experiment is in force at once, and only safe edits are allowed (`edits`).

        Args:
            config: The config.
            actor: Who publishes.
            reason: Why.
            create: Whether to create the experiment when it does not exist.

        Returns:
            The number of the version.

        Raises:
            UnknownExperimentError: The experiment does not exist.
            ConfigError: The edit is unsafe, or a layer or a metric does not exist.
            TransitionError: The experiment is in review, stopped or over.
            ConflictError: Another experiment or phase has the salt, or the experiment conflicts with a live one.
        """
        with self._editor(actor, reason) as editor:
            if create and not editor.exists(config.key):
                editor.create(config.key)
            return editor.publish(config)

    def new_phase(self, config: ExperimentConfig, *, actor: str, reason: str) -> int:
        """Begin a new phase with a new salt, for an unsafe edit; in force at once. A stopped experiment runs again.

        Returns:
            The number of the version.

        Raises:
            ExperimentsError: As for `publish`; ConflictError also when a live experiment holds the layer range.
        """
        with self._editor(actor, reason) as editor:
            return editor.new_phase(config)

    def ramp(self, key: str, coverage: int, *, actor: str, reason: str) -> int:
        """Raise the coverage of a live experiment.

        Args:
            key: Key of the experiment.
            coverage: The new coverage, in 1/10,000.
            actor: Who ramps.
            reason: Why.

        Returns:
            The number of the new version.

        Raises:
            ConfigError: The coverage would not grow.
            TransitionError: The experiment is not live.
        """
        with self._editor(actor, reason) as editor:
            return editor.ramp(key, coverage)

    def hold(self, key: str, *, actor: str, reason: str, evidence: dict[str, Any] | None = None) -> int:
        """Stop a live experiment's ramp at its current coverage: enrolled units stay, no others follow.

        Scheduled ramps are cancelled.

        Args:
            key: Key of the experiment.
            actor: Who holds the ramp.
            reason: Why.
            evidence: JSON that is stored with the transition.

        Returns:
            The number of the version in force.

        Raises:
            TransitionError: The experiment is not live.
        """
        with self._editor(actor, reason) as editor:
            return editor.hold(key, evidence)

    def force_arm(self, key: str, override: Override, *, actor: str, reason: str) -> None:
        """Force an arm on one unit until a time, for a manual test. The unit is not enrolled.

        Raises:
            UnknownExperimentError: The experiment does not exist.
            ConfigError: The arm does not exist, the unit id is invalid, or the time is past.
        """
        with self._editor(actor, reason) as editor:
            editor.force_arm(key, override)

    def clear_arm(self, key: str, unit: str, *, actor: str, reason: str) -> bool:
        """Remove a unit's override; return whether one existed.

        Raises:
            UnknownExperimentError: The experiment does not exist.
        """
        with self._editor(actor, reason) as editor:
            return editor.clear_arm(key, unit)

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
        """Move an experiment to a state that `lifecycle` allows. A draft starts with its last version.

        Args:
            key: Key of the experiment.
            state: The next state.
            actor: Who does it.
            reason: Why.
            outcome: How the experiment ends, for `decided` only.
            evidence: JSON that is stored with the transition.

        Returns:
            The new transition.

        Raises:
            UnknownExperimentError: The experiment does not exist, or nothing is published.
            TransitionError: The life cycle has no such transition.
            ConflictError: A live experiment holds the layer range, or a prerequisite or holdout conflicts.
        """
        with self._editor(actor, reason) as editor:
            return editor.move(key, state, outcome, evidence)

    def submit(self, key: str, *, actor: str, reason: str) -> Transition:
        """Ask for a review of the last version. Raises as `transition` does."""
        return self.transition(key, "in_review", actor=actor, reason=reason)

    def revise(self, key: str, *, actor: str, reason: str) -> Transition:
        """Take an experiment back from review. Raises as `transition` does."""
        return self.transition(key, "draft", actor=actor, reason=reason)

    def start(self, key: str, *, actor: str, reason: str) -> Transition:
        """Run a draft, a reviewed experiment or a paused one. Raises as `transition` does."""
        return self.transition(key, "running", actor=actor, reason=reason)

    def pause(self, key: str, *, actor: str, reason: str) -> Transition:
        """Keep serving the arms, and enrol no new unit. Raises as `transition` does."""
        return self.transition(key, "paused", actor=actor, reason=reason)

    def stop(self, key: str, *, actor: str, reason: str, evidence: dict[str, Any] | None = None) -> Transition:
        """Serve the control arm to every unit, and cancel scheduled commands. Raises as `transition` does."""
        return self.transition(key, "stopped", actor=actor, reason=reason, evidence=evidence)

    def decide(self, key: str, outcome: Decision, *, actor: str, reason: str) -> Transition:
        """Record how a stopped experiment ended. Raises as `transition` does."""
        return self.transition(key, "decided", actor=actor, reason=reason, outcome=outcome)

    def archive(self, key: str, *, actor: str, reason: str) -> Transition:
        """Archive a draft or a decided experiment. Raises as `transition` does."""
        return self.transition(key, "archived", actor=actor, reason=reason)

    # --- what experiments share ---

    def create_layer(self, key: str, *, actor: str, reason: str, description: str = "") -> None:
        """Create a layer, which experiments may name from then on.

        Raises:
            ConfigError: The key is not a valid key.
            ConflictError: The key is taken.
        """
        with self._audited(actor, reason) as (connection, audit):
            create_layer(connection, audit, key, description)

    def layers(self) -> list[LayerSummary]:
        """Return all layers with their held and free parts, sorted by key."""
        with self._engine.connect() as connection:
            return queries.layers(connection, self._clock())

    def publish_metrics(
        self, definitions: Iterable[MetricDefinition], *, actor: str, reason: str = ""
    ) -> dict[str, int]:
        """Freeze each metric as its next version, all or none; an unchanged metric keeps its version.

        Once a metric is published, experiments may name only published metrics.

        Returns:
            The versions by key.
        """
        with self._audited(actor, reason) as (connection, audit):
            return publish_metrics(connection, audit, definitions)

    def metrics(self) -> list[MetricVersion]:
        """Return the newest version of each metric, sorted by key."""
        with self._engine.connect() as connection:
            return queries.metrics(connection)

    # --- schedule ---

    def schedule(
        self, key: str, action: Action, at: int, *, actor: str, reason: str, coverage: int | None = None
    ) -> int:
        """Schedule a command for `run_due`.

        Args:
            key: Key of the experiment.
            action: What to do.
            at: Earliest time to run the command, in microseconds UTC.
            actor: Who schedules it; the command runs in this name.
            reason: Why.
            coverage: Coverage of a ramp in 1/10,000; None for other commands.

        Returns:
            The number of the command.

        Raises:
            UnknownExperimentError: The experiment does not exist.
            ScheduleError: The command cannot be scheduled.
        """
        with self._schedule_editor(actor, reason) as schedule:
            return schedule.add(key, action, at, coverage)

    def cancel(self, number: int, *, actor: str, reason: str) -> None:
        """Cancel a scheduled command.

        Raises:
            UnknownExperimentError: No pending command has this number.
        """
        with self._schedule_editor(actor, reason) as schedule:
            schedule.cancel(number)

    def scheduled(self, key: str | None = None, *, pending: bool = False) -> list[Scheduled]:
        """Return scheduled commands with their results, earliest first.

        Args:
            key: Experiment; None for all.
            pending: Whether to return only commands without a result.
        """
        with self._engine.connect() as connection:
            return queries.schedule(connection, key, pending=pending)

    def run_due(self) -> list[CommandResult]:
        """Carry out the commands that are due, each once and in its own transaction, earliest first.

        A command that the life cycle refuses is stored as failed, with the reason, and is not tried again. Several
        processes may call this at the same time.
        """
        results = []
        for command in due(self.scheduled(pending=True), self._clock()):
            try:
                with self._schedule_editor(command.actor, command.reason) as schedule:
                    if not schedule.is_pending(command.id):
                        continue  # another process was first, or an earlier stop has cancelled it
                    schedule.run(command.id)
                results.append(CommandResult(command, None))
            except ExperimentsError as error:
                with self._schedule_editor(command.actor, command.reason) as schedule:
                    if schedule.is_pending(command.id):
                        schedule.fail(command.id, str(error))
                        results.append(CommandResult(command, str(error)))
        return results

    @contextmanager
    def _audited(self, actor: str, reason: str) -> Iterator[tuple[Connection, AuditLog]]:
        with exclusive(self._engine) as connection:
            yield connection, AuditLog(connection, self._clock(), actor, reason)

    @contextmanager
    def _editor(self, actor: str, reason: str) -> Iterator[ExperimentEditor]:
        with self._audited(actor, reason) as (connection, audit):
            yield ExperimentEditor(connection, audit)

    @contextmanager
    def _schedule_editor(self, actor: str, reason: str) -> Iterator[ScheduleEditor]:
        with self._audited(actor, reason) as (connection, audit):
            yield ScheduleEditor(connection, audit)

    # --- reads ---

    def experiments(self) -> list[ExperimentSummary]:
        """Return all experiments, in every state, sorted by key."""
        with self._engine.connect() as connection:
            return queries.summaries(connection)

    def experiment_keys(self) -> set[str]:
        """Return the keys of all experiments, in every state."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(tables.experiment.c.key)))

    def history(self, key: str) -> list[Transition]:
        """Return all transitions of an experiment, oldest first.

        Raises:
            UnknownExperimentError: The experiment does not exist.
        """
        with self._engine.connect() as connection:
            if not (rows := queries.history(connection, key)):
                raise UnknownExperimentError(f"there is no experiment {key!r}.")
            return rows

    def versions(self, key: str) -> list[Version]:
        """Return all published versions, oldest first.

        Raises:
            UnknownExperimentError: The experiment does not exist.
            ConfigError: A stored config is not the text that was published.
        """
        with self._engine.connect() as connection:
            queries.last(connection, key)
            return queries.versions(connection, key)

    def version(self, key: str, number: int | None = None) -> Version:
        """Return a published version, by default the newest.

        Raises:
            UnknownExperimentError: The version does not exist.
            ConfigError: The stored config is not the text that was published.
        """
        with self._engine.connect() as connection:
            return queries.version(connection, key, number or queries.latest_version(connection, key))

    def audit(self, subject: str | None = None, *, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
        """Return entries of the audit log, newest first.

        Args:
            subject: Key or id that the entries are about; None for all.
            before: Id below which the entries start; None for the newest.
            limit: Maximum number of entries.
        """
        with self._engine.connect() as connection:
            return queries.audit(connection, subject, before, limit)

    def load(self, states: Sequence[ExperimentState] = SERVED) -> list[PublishedExperiment]:
        """Return the experiments in these states with the version in force: what a service keeps in memory.

        Raises:
            ConfigError: A stored config is not the text that was published, or has a newer schema.
        """
        with self._engine.connect() as connection:
            return queries.load(connection, states, self._clock())

    # --- events ---

    def send_exposure(self, row: EventRow) -> None:
        """Write one exposure to the database, as `send` of an `ExposureLogger`.

        Raises:
            ValueError: The row is rejected.
        """
        if rejected := self.write_events([row]).rejected:
            raise ValueError(rejected[0].reason)

    def rejected(self, rows: Sequence[EventRow]) -> tuple[Rejected, ...]:
        """Return the rows that `write_events` would reject, and why.

        Only reads, and holds no lock afterwards: sending dead letters before the offsets move may take time.
        """
        with self._engine.connect() as connection:
            return event_writer.reject(connection, rows, self._versions)

    def write_events(
        self, rows: Sequence[EventRow], offsets: Mapping[tuple[str, int], int] | None = None, log: str = ""
    ) -> WriteResult:
        """Write a batch and the offsets that follow it in one transaction. Idempotent by event id, in any order.

        A row that no table can store, and an exposure of an unknown experiment, version or arm, is returned as
        rejected; the rest of the batch is written.

        Args:
            rows: A batch of events.
            offsets: Next offset to read, by (topic, partition).
            log: Identifies the log in which the offsets count: Kafka's cluster and topic ids.
        """
        with writing(self._engine) as connection:
            return event_writer.write(connection, rows, offsets or {}, log, self._versions, self._clock())

    def offsets(self, topic: str, log: str = "") -> dict[int, int]:
        """Return the next offset to read, by partition, of a topic's log."""
        table = tables.sink_offset.c
        with self._engine.connect() as connection:
            query = select(table.partition, table.next_offset).where(table.log == log, table.topic == topic)
            return {int(partition): int(offset) for partition, offset in connection.execute(query)}

    def forget_offsets(self, topic: str, log: str, partitions: Collection[int]) -> None:
        """Delete offsets that the log does not have: the offsets that follow may be smaller."""
        table = tables.sink_offset
        with writing(self._engine) as connection:
            connection.execute(
                delete(table).where(table.c.log == log, table.c.topic == topic, table.c.partition.in_(partitions))
            )
