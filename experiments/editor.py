"""Every change to an experiment, inside one exclusive transaction.

Each method checks its rules (`lifecycle`, `edits`, `compatibility`), writes its rows and one entry of the audit log, or
changes nothing at all.
"""

from difflib import get_close_matches
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from experiments import queries, tables
from experiments.audit import AuditLog
from experiments.compatibility import check_compatible, check_layer, find_cycle
from experiments.config import ExperimentConfig, ExperimentState, Override, check_override
from experiments.edits import check_edit, check_ramp
from experiments.errors import ConfigError, ConflictError, TransitionError
from experiments.lifecycle import LIVE, SERVED, Decision, check_new_phase, check_transition
from experiments.records import Scheduled, Transition


class ExperimentEditor:
    """Changes experiments in the caller's exclusive transaction (`engine.exclusive`).

    Args:
        connection: Connection with an open transaction.
        audit: Audit log of the same transaction; it has the actor, the reason and the time of the changes.
    """

    def __init__(self, connection: Connection, audit: AuditLog) -> None:
        self._connection, self._audit = connection, audit
        self._now = audit.now

    def exists(self, key: str) -> bool:
        """Return whether an experiment has this key."""
        return bool(queries.history(self._connection, key))

    def create(self, key: str) -> None:
        """Create a draft.

        Raises:
            ConflictError: The key is taken.
        """
        if self.exists(key):
            raise ConflictError(f"experiment {key!r} exists already; choose another key.")
        self._connection.execute(
            insert(tables.experiment).values(key=key, created_at=self._now, created_by=self._audit.actor)
        )
        self._append(key, Transition(1, "draft", None, None, self._now, self._audit.actor, self._audit.reason))
        self._audit.add("create", key, {})

    def publish(self, config: ExperimentConfig) -> int:
        """Freeze a config as the next version; see `ExperimentStore.publish`."""
        last = queries.last(self._connection, config.key)
        if last.state == "in_review":
            raise TransitionError(
                f"experiment {config.key!r} is in review as it was published; take it back to draft before it changes."
            )
        if last.state not in ("draft", *LIVE):
            remedy = "begin a new phase with a new salt" if last.state == "stopped" else "start a new experiment"
            raise TransitionError(f"experiment {config.key!r} is {last.state} and takes no new version; {remedy}.")
        if last.version is not None and last.state != "draft":
            check_edit(queries.config(self._connection, config.key, last.version), config, self._now)
            self._check_others(config)
        else:
            self._check_cycle(config)
        self._check_references(config)
        phase = queries.phase(self._connection, config.key)
        self._check_salt(config, phase)
        number, is_new = self._freeze(config, phase)
        if is_new:
            if last.state in LIVE:
                self._follow(config.key, last, last.state, number)
            self._audit.add("publish", config.key, {"version": number, "sha256": config.sha256()})
        return number

    def new_phase(self, config: ExperimentConfig) -> int:
        """Begin the next phase; see `ExperimentStore.new_phase`."""
        key, connection = config.key, self._connection
        last = queries.last(connection, key)
        old = queries.config(connection, key, last.version if last.version is not None else 1)
        phase = queries.phase(connection, key)
        check_new_phase(key, last.state, phase, old, config)
        self._check_salt(config, phase + 1)
        self._check_references(config)
        self._check_others(config)
        connection.execute(update(tables.experiment).where(tables.experiment.c.key == key).values(phase=phase + 1))
        number, _ = self._freeze(config, phase + 1)
        self._follow(key, last, "running" if last.state == "stopped" else last.state, number)
        self._audit.add("new_phase", key, {"version": number, "phase": phase + 1, "sha256": config.sha256()})
        return number

    def ramp(self, key: str, coverage: int) -> int:
        """Raise the coverage of a live experiment; see `ExperimentStore.ramp`."""
        last = queries.last(self._connection, key)
        if last.state not in LIVE or last.version is None:
            raise TransitionError(f"experiment {key!r} is {last.state}; only a running or paused one can be ramped.")
        config = queries.config(self._connection, key, last.version)
        before = config.coverage_at(self._now)
        check_ramp(key, before, coverage)
        steps = tuple(step for step in config.ramp if step.at_us > self._now and step.coverage > coverage)
        number = self._replace(last, msgspec.structs.replace(config, coverage=coverage, ramp=steps))
        self._audit.add("ramp", key, {"version": number, "coverage": coverage, "from": before})
        return number

    def hold(self, key: str, evidence: dict[str, Any] | None) -> int:
        """Stop a ramp at its current coverage; see `ExperimentStore.hold`."""
        last = queries.last(self._connection, key)
        if last.state not in LIVE or last.version is None:
            raise TransitionError(f"experiment {key!r} is {last.state}; only a running or paused one can be held.")
        ramps = [row for row in queries.schedule(self._connection, key, pending=True) if row.action == "ramp"]
        for row in ramps:
            self.settle(row, "cancelled", self._audit.reason)
        config = queries.config(self._connection, key, last.version)
        held = config.held(self._now)
        if held == config and not ramps and queries.audit(self._connection, key, None, 1)[0].action == "hold":
            return last.version  # a guardrail that stays breached asks again at every interim analysis
        number = last.version if held == config else self._replace(last, held, evidence)
        detail: dict[str, Any] = {"version": number, "coverage": held.coverage, "cancelled": len(ramps)}
        self._audit.add("hold", key, detail if evidence is None else detail | {"evidence": evidence})
        return number

    def force_arm(self, key: str, override: Override) -> None:
        """Add or replace a unit's override; see `ExperimentStore.force_arm`."""
        last = queries.last(self._connection, key)
        if last.state in ("decided", "archived"):
            raise TransitionError(f"experiment {key!r} is {last.state}; it serves no unit, so no arm can be forced.")
        number = last.version if last.version is not None else queries.latest_version(self._connection, key)
        check_override(queries.config(self._connection, key, number), override, self._now)
        self._drop_override(key, override.unit)
        values = {"arm": override.arm, "expires_at": override.expires_at}
        self._connection.execute(insert(tables.override).values(experiment=key, unit_id=override.unit, **values))
        self._audit.add("force_arm", key, values)  # without the unit: the audit log cannot be erased

    def clear_arm(self, key: str, unit: str) -> bool:
        """Remove a unit's override; see `ExperimentStore.clear_arm`."""
        queries.last(self._connection, key)
        existed = self._drop_override(key, unit)
        if existed:
            self._audit.add("clear_arm", key, {})
        return existed

    def move(
        self,
        key: str,
        state: ExperimentState,
        outcome: Decision | None = None,
        evidence: dict[str, Any] | None = None,
    ) -> Transition:
        """Change the state; see `ExperimentStore.transition`."""
        connection = self._connection
        last = queries.last(connection, key)
        check_transition(key, last.state, state, outcome)
        version = last.version
        if state in ("in_review", *LIVE) and last.state in ("draft", "in_review"):
            version = queries.latest_version(connection, key)
            if state == "running":
                self._check_others(queries.config(connection, key, version))
        elif state == "draft":
            version = None
        following = self._follow(key, last, state, version, outcome or last.outcome, evidence)
        if state in ("stopped", "archived"):
            for command in queries.schedule(connection, key, pending=True):
                self.settle(command, "cancelled", f"the experiment is {state}")
        detail: dict[str, Any] = {"from": last.state, "version": version}
        if outcome is not None:
            detail["outcome"] = outcome
        if evidence is not None:
            detail["evidence"] = evidence
        self._audit.add(state, key, detail)
        return following

    def settle(self, command: Scheduled, result: str, detail: str) -> None:
        """Store the result of a scheduled command.

        Args:
            command: A pending command.
            result: done, failed or cancelled.
            detail: Why it failed or was cancelled.
        """
        self._connection.execute(
            insert(tables.scheduled_result).values(id=command.id, at=self._now, result=result, detail=detail)
        )

    # --- rows ---

    def _append(self, key: str, row: Transition) -> None:
        values = msgspec.structs.asdict(row)
        if row.evidence is not None:
            values["evidence"] = msgspec.json.encode(row.evidence, order="sorted").decode("utf-8")
        try:
            self._connection.execute(insert(tables.transition).values(experiment=key, **values))
        except IntegrityError as error:
            raise ConflictError(f"experiment {key!r} was just changed by another writer; read it again.") from error

    def _follow(
        self,
        key: str,
        last: Transition,
        state: ExperimentState,
        version: int | None,
        outcome: Decision | None = None,
        evidence: dict[str, Any] | None = None,
    ) -> Transition:
        audit = self._audit
        row = Transition(last.sequence + 1, state, version, outcome, self._now, audit.actor, audit.reason, evidence)
        self._append(key, row)
        return row

    def _freeze(self, config: ExperimentConfig, phase: int) -> tuple[int, bool]:
        """Store a config as the next version; return the version and whether it is new."""
        latest = queries.newest(self._connection, config.key)
        # Compare the configs and not their texts: a newer program may write fields that an older text does not have.
        if latest is not None and latest.config == config:
            return latest.version, False
        number = 1 if latest is None else latest.version + 1
        self._connection.execute(
            insert(tables.experiment_version).values(
                experiment=config.key,
                version=number,
                config=config.canonical_json().decode("utf-8"),
                sha256=config.sha256(),
                salt=config.salt,
                created_at=self._now,
                created_by=self._audit.actor,
                phase=phase,
            )
        )
        return number, True

    def _replace(self, last: Transition, config: ExperimentConfig, evidence: dict[str, Any] | None = None) -> int:
        """Put another version of the same phase in force."""
        number, _ = self._freeze(config, queries.phase(self._connection, config.key))
        self._follow(config.key, last, last.state, number, evidence=evidence)
        return number

    def _drop_override(self, key: str, unit: str) -> bool:
        table = tables.override
        deleted = self._connection.execute(delete(table).where(table.c.experiment == key, table.c.unit_id == unit))
        return deleted.rowcount > 0

    # --- checks against other rows ---

    def _check_salt(self, config: ExperimentConfig, phase: int) -> None:
        table = tables.experiment_version.c
        query = select(table.experiment, table.phase).where(
            table.salt == config.salt, (table.experiment != config.key) | (table.phase != phase)
        )
        if (other := self._connection.execute(query.limit(1)).first()) is not None:
            owner = f"experiment {other.experiment!r}"
            if other.experiment == config.key:
                owner = f"its phase {other.phase}"
            raise ConflictError(
                f"experiment {config.key!r}: salt {config.salt!r} is that of {owner}: both would put the same units "
                "into the same arms. Give it its own salt."
            )

    def _check_others(self, config: ExperimentConfig) -> None:
        """Check the rules between experiments; a stopped experiment can still be a prerequisite."""
        served = [published.config for published in queries.load(self._connection, SERVED, self._now)]
        check_compatible(config, served)
        live = [published.config for published in queries.load(self._connection, LIVE, self._now)]
        check_layer(config, live)

    def _check_references(self, config: ExperimentConfig) -> None:
        """Check that the layer exists, and that every metric is published once any metric is published."""
        if config.layer is not None:
            keys = queries.layer_keys(self._connection)
            if (key := config.layer.key) not in keys:
                raise ConfigError(
                    f"experiment {config.key!r}: layer {key!r} does not exist{_suggestion(key, keys)}; create it first "
                    f"(`sagelift experiment layer create {key}`)."
                )
        published = [metric.key for metric in queries.metrics(self._connection)]
        for metric in config.metrics if published else ():
            if metric.key not in published:
                raise ConfigError(
                    f"experiment {config.key!r}: metric {metric.key!r} is not published"
                    f"{_suggestion(metric.key, published)}; publish it first "
                    "(`sagelift experiment metric publish FILE`)."
                )

    def _check_cycle(self, config: ExperimentConfig) -> None:
        configs = {**queries.latest_configs(self._connection), config.key: config}
        if cycle := find_cycle(configs, config.key):
            raise ConflictError(
                f"experiment {config.key!r}: its prerequisites lead back to it ({' -> '.join(cycle)}); "
                "leave one of them out."
            )


def _suggestion(key: str, keys: list[str]) -> str:
    near = get_close_matches(key, keys, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
