"""What may be done to experiments, inside one exclusive transaction.

Every act checks its rules (`lifecycle`), writes its rows and one row of the audit log, or nothing at all.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from experiments import lifecycle, records, tables
from experiments.compatibility import check_beside, find_circle
from experiments.config import ExperimentConfig, ExperimentState, Override, check_key, check_override
from experiments.errors import ConfigError, ConflictError, ScheduleError, TransitionError, UnknownExperimentError
from experiments.lifecycle import Action, Decision
from experiments.metrics import MetricDefinition
from experiments.notifications import announce
from experiments.records import Scheduled, Transition
from experiments.text_rules import text_fault, time_text


class Registry:
    """The acts of one actor in one transaction of the caller's (`engine.exclusive`). `now` is microseconds UTC.

    Raises TransitionError when the actor is empty, ConfigError when no database could hold what it says.
    """

    def __init__(self, connection: Connection, now: int, actor: str, reason: str) -> None:
        if not actor:
            raise TransitionError("the actor is empty; say who does this.")
        _check_text("the actor", actor)
        _check_text("the reason", reason)
        self._connection, self._now, self._actor, self._reason = connection, now, actor, reason

    def knows(self, key: str) -> bool:
        """Whether there is an experiment of this key."""
        return bool(records.history(self._connection, key))

    def create(self, key: str) -> None:
        """Opens a draft. Raises ConflictError when the key is taken."""
        if self.knows(key):
            raise ConflictError(f"experiment {key!r} exists already; choose another key.")
        self._insert(tables.experiment, key=key, created_at=self._now, created_by=self._actor)
        self._append(key, Transition(1, "draft", None, None, self._now, self._actor, self._reason))
        self.audit("create", key, {})

    def publish(self, config: ExperimentConfig) -> int:
        """Freezes a config as the next version, in force at once when the experiment is live. See
        `ExperimentStore.publish`.
        """
        last = records.last(self._connection, config.key)
        if last.state == "in_review":
            raise TransitionError(
                f"experiment {config.key!r} is in review as it was published; take it back to draft before it changes."
            )
        if last.state not in ("draft", *lifecycle.LIVE):
            remedy = "begin a new phase with a new salt" if last.state == "stopped" else "start a new experiment"
            raise TransitionError(f"experiment {config.key!r} is {last.state}: nothing is published now; {remedy}.")
        if last.version is not None and last.state != "draft":
            old = records.config(self._connection, config.key, last.version)
            lifecycle.check_edit(old, config, self._now)
            self._check_neighbours(config)
        else:
            self._check_circle(config)
        self._check_known(config)
        phase = records.phase(self._connection, config.key)
        self._check_salt(config, phase)
        number, is_new = self._freeze(config, phase)
        if is_new:
            if last.state in lifecycle.LIVE:
                self._follow(config.key, last, last.state, number)
            self.audit("publish", config.key, {"version": number, "sha256": config.sha256()})
        return number

    def new_phase(self, config: ExperimentConfig) -> int:
        """Begins the next phase with a config of any kind but the old salt; what was stopped runs again. See
        `ExperimentStore.new_phase`.
        """
        key, connection = config.key, self._connection
        last = records.last(connection, key)
        old = records.config(connection, key, last.version if last.version is not None else 1)
        phase = records.phase(connection, key)
        lifecycle.check_new_phase(key, last.state, phase, old, config)
        self._check_salt(config, phase + 1)
        self._check_known(config)
        self._check_neighbours(config)
        connection.execute(update(tables.experiment).where(tables.experiment.c.key == key).values(phase=phase + 1))
        number, _ = self._freeze(config, phase + 1)
        self._follow(key, last, "running" if last.state == "stopped" else last.state, number)
        self.audit("new_phase", key, {"version": number, "phase": phase + 1, "sha256": config.sha256()})
        return number

    def ramp(self, key: str, coverage: int) -> int:
        """Raises the coverage of a live experiment: a new version. See `ExperimentStore.ramp`."""
        last = records.last(self._connection, key)
        if last.state not in lifecycle.LIVE or last.version is None:
            raise TransitionError(f"experiment {key!r} is {last.state}; only a running or paused one is ramped.")
        config = records.config(self._connection, key, last.version)
        before = config.coverage_at(self._now)
        lifecycle.check_ramp(key, before, coverage)
        steps = tuple(step for step in config.ramp if step.at_us > self._now and step.coverage > coverage)
        number = self._replace(last, msgspec.structs.replace(config, coverage=coverage, ramp=steps))
        self.audit("ramp", key, {"version": number, "coverage": coverage, "from": before})
        return number

    def hold(self, key: str, evidence: dict[str, Any] | None) -> int:
        """Stops a ramp where it stands. See `ExperimentStore.hold`."""
        last = records.last(self._connection, key)
        if last.state not in lifecycle.LIVE or last.version is None:
            raise TransitionError(f"experiment {key!r} is {last.state}; only a running or paused one is held.")
        waiting = [row for row in records.schedule(self._connection, key, pending=True) if row.action == "ramp"]
        for row in waiting:
            self._settle(row, "cancelled", self._reason)
        config = records.config(self._connection, key, last.version)
        held = config.held(self._now)
        if held == config and not waiting and records.audit(self._connection, key, None, 1)[0].action == "hold":
            return last.version  # a guardrail that stays breached holds what is held at every look
        number = last.version if held == config else self._replace(last, held, evidence)
        detail: dict[str, Any] = {"version": number, "coverage": held.coverage, "cancelled": len(waiting)}
        self.audit("hold", key, detail if evidence is None else detail | {"evidence": evidence})
        return number

    def force_arm(self, key: str, override: Override) -> None:
        """See `ExperimentStore.force_arm`."""
        last = records.last(self._connection, key)
        if last.state in ("decided", "archived"):
            raise TransitionError(f"experiment {key!r} is {last.state}; it serves nobody, so no arm can be forced.")
        number = last.version if last.version is not None else records.latest_version(self._connection, key)
        check_override(records.config(self._connection, key, number), override, self._now)
        self._drop_override(key, override.unit)
        values = {"arm": override.arm, "expires_at": override.expires_at}
        self._insert(tables.override, experiment=key, unit_id=override.unit, **values)
        self.audit("force_arm", key, values)  # without the unit: what is erased elsewhere must not live on here

    def clear_arm(self, key: str, unit: str) -> bool:
        """See `ExperimentStore.clear_arm`."""
        records.last(self._connection, key)
        found = self._drop_override(key, unit)
        if found:
            self.audit("clear_arm", key, {})
        return found

    def move(
        self, key: str, state: ExperimentState, outcome: Decision | None = None, evidence: dict[str, Any] | None = None
    ) -> Transition:
        """To another state. See `ExperimentStore.transition`."""
        connection = self._connection
        last = records.last(connection, key)
        lifecycle.check_transition(key, last.state, state, outcome)
        version = last.version
        if state in ("in_review", *lifecycle.LIVE) and last.state in ("draft", "in_review"):
            version = records.latest_version(connection, key)
            if state == "running":
                self._check_neighbours(records.config(connection, key, version))
        elif state == "draft":
            version = None
        following = self._follow(key, last, state, version, outcome or last.outcome, evidence)
        if state in ("stopped", "archived"):
            for waiting in records.schedule(connection, key, pending=True):
                self._settle(waiting, "cancelled", f"the experiment is {state}")
        detail: dict[str, Any] = {"from": last.state, "version": version}
        if outcome is not None:
            detail["outcome"] = outcome
        if evidence is not None:
            detail["evidence"] = evidence
        self.audit(state, key, detail)
        return following

    def schedule(self, key: str, action: Action, at: int, coverage: int | None) -> int:
        """A command for later. See `ExperimentStore.schedule`."""
        state = records.last(self._connection, key).state
        if state in ("stopped", "decided", "archived"):
            raise ScheduleError(f"experiment {key!r} is {state}; nothing is left to schedule.")
        if at <= self._now:
            raise ScheduleError(
                f"{action} of {key!r} at {time_text(at)} lies in the past (it is {time_text(self._now)}); "
                "give a later time."
            )
        if (action == "ramp") != (coverage is not None):
            wanted = "give one, in 1/10,000" if coverage is None else f"leave out {coverage}"
            raise ScheduleError(f"{action} of {key!r}: a ramp has a coverage, and nothing else has; {wanted}.")
        if coverage is not None and not 0 < coverage <= 10_000:
            raise ScheduleError(f"ramp of {key!r} to {coverage}: a coverage is 1 to 10000 (10000 is everyone).")
        values = {"experiment": key, "action": action, "at": at, "coverage": coverage}
        number = self._insert(tables.scheduled, **values, actor=self._actor, reason=self._reason)
        self.audit("schedule", key, {"id": number, "action": action, "at": at, "coverage": coverage})
        return number

    def cancel(self, number: int) -> None:
        """See `ExperimentStore.cancel`."""
        waiting = self._pending(number)
        self._settle(waiting, "cancelled", self._reason)
        self.audit("cancel", waiting.experiment, {"id": number})

    def create_layer(self, key: str, description: str) -> None:
        """See `ExperimentStore.create_layer`."""
        check_key("layer", key)
        _check_text("the description", description)
        if key in records.layer_keys(self._connection):
            raise ConflictError(f"layer {key!r} exists already; choose another key, or use it.")
        values = {"key": key, "description": description, "created_at": self._now, "created_by": self._actor}
        self._insert(tables.layer, **values)
        self.audit("create_layer", key, {"description": description})

    def publish_metrics(self, definitions: Iterable[MetricDefinition]) -> dict[str, int]:
        """See `ExperimentStore.publish_metrics`."""
        known = {metric.key: metric for metric in records.metrics(self._connection)}
        versions = {}
        for each in definitions:
            latest = known.get(each.key)
            if latest is not None and latest.sha256 == each.sha256():
                versions[each.key] = latest.version
                continue
            versions[each.key] = number = 1 if latest is None else latest.version + 1
            self._insert(
                tables.metric,
                key=each.key,
                version=number,
                definition=each.canonical_json().decode("utf-8"),
                sha256=each.sha256(),
                owner=each.owner,
                tier=each.tier,
                created_at=self._now,
                created_by=self._actor,
            )
            self.audit("publish_metric", each.key, {"version": number, "sha256": each.sha256()})
        return versions

    def waits(self, number: int) -> bool:
        """Whether a scheduled command was neither carried out nor taken back."""
        return any(waiting.id == number for waiting in records.schedule(self._connection, pending=True))

    def run(self, number: int) -> None:
        """Carries out a command that waits. Raises what the command raises."""
        waiting = self._pending(number)
        self._settle(waiting, "done", "")  # first: a stop cancels what is left
        match waiting.action:
            case "ramp":
                self.ramp(waiting.experiment, waiting.coverage or 0)
            case "start":
                self.move(waiting.experiment, "running")
            case "pause":
                self.move(waiting.experiment, "paused")
            case "stop":
                self.move(waiting.experiment, "stopped")

    def fail(self, number: int, why: str) -> None:
        """Notes that a command could not be carried out; it is not tried again."""
        waiting = self._pending(number)
        self._settle(waiting, "failed", why)
        self.audit("schedule_failed", waiting.experiment, {"id": number, "action": waiting.action, "why": why})

    def audit(self, action: str, subject: str, detail: dict[str, Any]) -> None:
        """One row of the audit log; services hear of it."""
        announce(self._connection)
        self._insert(
            tables.audit,
            at=self._now,
            actor=self._actor,
            action=action,
            subject=subject,
            reason=self._reason,
            detail=msgspec.json.encode(detail, order="sorted").decode("utf-8"),
        )

    # --- rows ---

    def _insert(self, table: Table, **values: Any) -> int:
        key = self._connection.execute(insert(table).values(**values)).inserted_primary_key
        return key[0] if key is not None and isinstance(key[0], int) else 0

    def _append(self, key: str, row: Transition) -> None:
        values = msgspec.structs.asdict(row)
        if row.evidence is not None:
            values["evidence"] = msgspec.json.encode(row.evidence, order="sorted").decode("utf-8")
        try:
            self._connection.execute(insert(tables.transition).values(experiment=key, **values))
        except IntegrityError as error:
            raise ConflictError(f"experiment {key!r} was changed by someone else just now; look again.") from error

    def _follow(
        self,
        key: str,
        last: Transition,
        state: ExperimentState,
        version: int | None,
        outcome: Decision | None = None,
        evidence: dict[str, Any] | None = None,
    ) -> Transition:
        row = Transition(last.sequence + 1, state, version, outcome, self._now, self._actor, self._reason, evidence)
        self._append(key, row)
        return row

    def _freeze(self, config: ExperimentConfig, phase: int) -> tuple[int, bool]:
        table = tables.experiment_version
        latest = records.newest(self._connection, config.key)
        # The configs are compared, not their texts: a later program writes fields that the text of then had not.
        if latest is not None and latest.config == config:
            return latest.version, False
        number = 1 if latest is None else latest.version + 1
        self._insert(
            table,
            experiment=config.key,
            version=number,
            config=config.canonical_json().decode("utf-8"),
            sha256=config.sha256(),
            salt=config.salt,
            created_at=self._now,
            created_by=self._actor,
            phase=phase,
        )
        return number, True

    def _replace(self, last: Transition, config: ExperimentConfig, evidence: dict[str, Any] | None = None) -> int:
        """Puts another version of the same phase in force."""
        number, _ = self._freeze(config, records.phase(self._connection, config.key))
        self._follow(config.key, last, last.state, number, evidence=evidence)
        return number

    def _drop_override(self, key: str, unit: str) -> bool:
        table = tables.override
        gone = self._connection.execute(delete(table).where(table.c.experiment == key, table.c.unit_id == unit))
        return gone.rowcount > 0

    def _check_salt(self, config: ExperimentConfig, phase: int) -> None:
        table = tables.experiment_version.c
        query = select(table.experiment, table.phase).where(
            table.salt == config.salt, (table.experiment != config.key) | (table.phase != phase)
        )
        if (other := self._connection.execute(query.limit(1)).first()) is not None:
            whose = f"experiment {other.experiment!r}"
            if other.experiment == config.key:
                whose = f"its phase {other.phase}"
            raise ConflictError(
                f"experiment {config.key!r}: salt {config.salt!r} is that of {whose}: both would put the same units "
                "into the same arms. Give a salt of its own."
            )

    def _check_neighbours(self, config: ExperimentConfig) -> None:
        """That it can be live beside what is live; what is stopped still answers as a prerequisite."""
        served = [published.config for published in records.load(self._connection, lifecycle.SERVED, self._now)]
        check_beside(config, served)
        live = [published.config for published in records.load(self._connection, lifecycle.LIVE, self._now)]
        lifecycle.check_layer(config, live)

    def _check_known(self, config: ExperimentConfig) -> None:
        """That the layer was made, and, once any metric is published, that all its metrics are."""
        if config.layer is not None:
            keys = records.layer_keys(self._connection)
            if (key := config.layer.key) not in keys:
                raise ConfigError(
                    f"experiment {config.key!r}: there is no layer {key!r}{_meant(key, keys)}; make it first "
                    f"(`sagelift experiment layer create {key}`)."
                )
        published = [metric.key for metric in records.metrics(self._connection)]
        for metric in config.metrics if published else ():
            if metric.key not in published:
                raise ConfigError(
                    f"experiment {config.key!r}: metric {metric.key!r} is not published"
                    f"{_meant(metric.key, published)}; publish it first (`sagelift experiment metric publish FILE`)."
                )

    def _check_circle(self, config: ExperimentConfig) -> None:
        known = {**records.latest_configs(self._connection), config.key: config}
        if circle := find_circle(known, config.key):
            raise ConflictError(
                f"experiment {config.key!r}: its prerequisites lead back to it ({' -> '.join(circle)}); "
                "leave one of them out."
            )

    def _pending(self, number: int) -> Scheduled:
        for waiting in records.schedule(self._connection, pending=True):
            if waiting.id == number:
                return waiting
        raise UnknownExperimentError(f"no scheduled command {number} waits; `sagelift experiment schedule` lists them.")

    def _settle(self, waiting: Scheduled, result: str, detail: str) -> None:
        self._insert(tables.scheduled_result, id=waiting.id, at=self._now, result=result, detail=detail)


def _check_text(what: str, text: str) -> None:
    if fault := text_fault(text):
        raise ConfigError(f"{what} {fault}; write plain text.")


def _meant(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
