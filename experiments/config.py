"""What an experiment is: the config that a version freezes, its rules, and its canonical JSON.

Every config that exists is valid: construction and decoding (`config_parsing`) run the same checks, and the error names
every broken rule.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, Literal

import msgspec

from experiments import targeting
from experiments.assignment import Reason
from experiments.attributes import MAX_RECORDED
from experiments.errors import ConfigError
from experiments.kernel import BUCKETS, HashVersion, unit_bytes
from experiments.times import epoch_us, time_text

CONFIG_SCHEMA: Final = 1
"""The version of the config's format."""

ExperimentState = Literal["draft", "in_review", "running", "paused", "stopped", "decided", "archived"]
"""The states of an experiment's life cycle (`lifecycle`)."""

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SALT: Final = re.compile(r"[A-Za-z0-9._/:-]{1,128}")
# Salts of the platform's own draws. An experiment that used one of them would repeat that draw.
_RESERVED_SALTS: Final = ("layer:", "holdout:")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SPENDING: Final = re.compile(r"obrien-fleming|pocock|(power|hsd)=[-+]?[0-9]*\.?[0-9]+")
_MAX_DAYS: Final = 3650
_KEY_RULE: Final = "begin with a-z or 0-9 and have at most 64 characters of a-z 0-9 . _ -"


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One arm of an experiment.

    Attributes:
        key: Name of the arm.
        weight: Share of the enrolled units, in 1/10,000.
    """

    key: str
    weight: int


class LayerRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part [start, end) of a layer's 10,000 buckets that an experiment owns."""

    key: str
    start: int
    end: int

    @property
    def salt(self) -> str:
        """Rule L1: all experiments of a layer draw with the same salt, which comes from the layer's key."""
        return f"layer:{self.key}"


class Holdout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units that many experiments exclude, so that the joint effect of these experiments can be measured.

    Attributes:
        key: Name of the holdout.
        size: The first `size` of 10,000 buckets are held out.
        scope: A `global` holdout must be in every experiment that starts while an experiment with it is live
            (`compatibility.check_compatible`). A `selective` holdout is in the experiments that choose it.
    """

    key: str
    size: int
    scope: Literal["selective", "global"] = "selective"

    @property
    def salt(self) -> str:
        """Rule H1: the salt comes from the holdout's key, so that all its experiments exclude the same units."""
        return f"holdout:{self.key}"


class Prerequisite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Only units that are enrolled in one of these arms of another experiment can take part."""

    experiment: str
    arms: tuple[str, ...]


class RampStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of a ramp: from `at` on, the coverage is `coverage`.

    Attributes:
        at: Start of the step. The given time must have a time zone; it is stored in UTC.
        coverage: Enrolled share from then on, in 1/10,000.

    Raises:
        ConfigError: The time has no time zone, or is outside the years 1 to 9999 in UTC.
    """

    at: datetime
    coverage: int

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ConfigError(f"ramp step {self.at.isoformat()} has no time zone; end it with Z for UTC.")
        # The canonical JSON must not depend on the time zone in which the time was written.
        try:
            msgspec.structs.force_setattr(self, "at", self.at.astimezone(UTC))
        except OverflowError:
            raise ConfigError(f"ramp step {self.at.isoformat()} is outside the years 1 to 9999 in UTC.") from None

    @property
    def at_us(self) -> int:
        """Start of the step in microseconds since the Unix epoch."""
        return epoch_us(self.at)


class MetricRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A metric of an experiment, and the role that it has in the verdict.

    Attributes:
        key: Name of the metric.
        role: What the metric is for: goals decide, guardrails must not get worse, secondary metrics only inform.
        margin: Largest acceptable relative loss of a guardrail (0.02 is 2 %); None takes the metric's own margin.
    """

    key: str
    role: Literal["goal", "secondary", "guardrail"]
    margin: float | None = None


class AnalysisPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an experiment is analysed, fixed before it starts. A report takes everything from here by default.

    Attributes:
        window_days: Days after first exposure that count.
        pre_period_days: Days before first exposure that covariates cover.
        planned_units: Planned units of the control and one treatment. Until then, confidence sequences decide, or
            with `spending` the boundaries of a group-sequential design. None for a fixed sample.
        spending: How a group-sequential design spends alpha: obrien-fleming, pocock, power=3 or hsd=-4.
        looks: Planned units of the control and one treatment at each look of the design before the last.
        segment: Recorded attribute, or table and column (customer.country), to compare segments by.
        backfilled: Whether all events are loaded later (simulation, backfill), so that late events mean nothing.
    """

    window_days: float = 14.0
    pre_period_days: float = 28.0
    planned_units: int | None = None
    spending: str | None = None
    looks: tuple[int, ...] = ()
    segment: str | None = None
    backfilled: bool = False


class ExperimentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The config of an experiment: who gets which arm, and which metrics judge it.

    Attributes:
        schema: Version of the config's format.
        key: Name of the experiment.
        description: Text for people.
        hash_version: Kernel that draws the buckets (`kernel`).
        salt: Salt of the experiment's draws; no other experiment may have it.
        unit_kind: What a unit is, such as `user`.
        holdouts: Holdouts whose units are excluded.
        layer: The part of a layer that the experiment owns; None outside all layers.
        prerequisites: Arms of other experiments in which a unit must be.
        targeting: CEL condition over a unit's attributes; "" targets every unit.
        coverage: Enrolled share in 1/10,000, until the first step of the ramp.
        ramp: Later coverages, in the order of their times.
        arms: The arms. Their order matters: it orders the ranges of the split.
        control: Key of the control arm.
        surfaces: Places of the product where the experiment runs.
        metrics: Metrics with their roles.
        record: Attributes that exposures record, for segments and covariates.
        analysis: How the experiment is analysed.

    Raises:
        ConfigError: The config breaks a rule. The message names every broken rule.
    """

    schema: int = CONFIG_SCHEMA
    key: str
    description: str = ""
    hash_version: HashVersion = "sha256"
    salt: str
    unit_kind: str = "user"
    holdouts: tuple[Holdout, ...] = ()
    layer: LayerRange | None = None
    prerequisites: tuple[Prerequisite, ...] = ()
    targeting: str = ""
    coverage: int
    ramp: tuple[RampStep, ...] = ()
    arms: tuple[Arm, ...]
    control: str
    surfaces: tuple[str, ...] = ()
    metrics: tuple[MetricRole, ...] = ()
    record: tuple[str, ...] = ()
    analysis: AnalysisPlan = AnalysisPlan()

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ConfigError(f"experiment {self.key!r}: " + "; ".join(problems) + ".")

    def coverage_at(self, at_us: int) -> int:
        """Return the coverage in force at a time (rule R1), in 1/10,000.

        Args:
            at_us: Time in microseconds since the Unix epoch.
        """
        coverage = self.coverage
        for step in self.ramp:
            if step.at_us > at_us:
                break
            coverage = step.coverage
        return coverage

    def held(self, at_us: int) -> "ExperimentConfig":
        """Return this config with the ramp stopped at a time (rule R3): enrolled units stay, no others follow.

        Args:
            at_us: Time in microseconds since the Unix epoch.
        """
        return msgspec.structs.replace(self, coverage=self.coverage_at(at_us), ramp=())

    def canonical_json(self) -> bytes:
        """Return UTF-8 JSON with sorted keys, without spaces, with every field: equal configs have equal bytes."""
        return msgspec.json.encode(self, order="sorted")

    def sha256(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical_json()).hexdigest()


class Override(msgspec.Struct, frozen=True):
    """An arm that is forced on one unit, for a manual test.

    Overrides are not part of a config: a new tester must not make a new version, which would expose every unit again.

    Attributes:
        unit: The unit id.
        arm: Key of the arm.
        expires_at: End of the override, in microseconds UTC.
    """

    unit: str
    arm: str
    expires_at: int


class PublishedExperiment(msgspec.Struct, frozen=True):
    """What a service needs to evaluate an experiment: a published config, its version, the state, the overrides."""

    config: ExperimentConfig
    version: int
    state: ExperimentState = "running"
    overrides: tuple[Override, ...] = ()


def check_key(field: str, name: str) -> None:
    """Check that a name may be a key.

    Args:
        field: What the name is for; the message begins with it.
        name: The name.

    Raises:
        ConfigError: The name may not be a key.
    """
    if not _KEY.fullmatch(name):
        raise ConfigError(f"{field} {name!r} must {_KEY_RULE}.")


def check_override(config: ExperimentConfig, override: Override, at_us: int) -> None:
    """Check that an override names an arm of the experiment, a valid unit id and a future time.

    Args:
        config: Config of the experiment.
        override: The override.
        at_us: The current time in microseconds since the Unix epoch.

    Raises:
        ConfigError: The override breaks a rule.
    """
    arms = [arm.key for arm in config.arms]
    problems = []
    if override.arm not in arms:
        problems.append(f"arm {override.arm!r} is not one of the arms ({', '.join(arms)})")
    if isinstance(reason := unit_bytes(override.unit), Reason):
        problems.append(f"the unit id is invalid ({reason.value})")
    if override.expires_at <= at_us:
        problems.append(
            f"expires_at {time_text(override.expires_at)} is past (it is {time_text(at_us)}); give a future time"
        )
    if problems:
        raise ConfigError(
            f"override of {ascii(override.unit)[:80]} in experiment {config.key!r}: {'; '.join(problems)}."
        )


def _problems(config: ExperimentConfig) -> Iterator[str]:
    if config.schema != CONFIG_SCHEMA:
        yield f"schema {config.schema} is not known here (this program reads {CONFIG_SCHEMA}); upgrade the program"
    names = [("key", config.key), ("unit_kind", config.unit_kind), *(("arm", arm.key) for arm in config.arms)]
    names += [("surface", surface) for surface in config.surfaces]
    names += [("metric", metric.key) for metric in config.metrics]
    names += [("holdout", holdout.key) for holdout in config.holdouts]
    if config.layer is not None:
        names.append(("layer", config.layer.key))
    for field, name in names:
        if not _KEY.fullmatch(name):
            yield f"{field} {name!r} must {_KEY_RULE}"
    yield from _salt_problems(config.salt)
    if not 0 <= config.coverage <= BUCKETS:
        yield f"coverage {config.coverage} must be in 0..10000 (10000 is every unit)"
    yield from _ramp_problems(config)
    yield from _arm_problems(config)
    if config.layer is not None and not 0 <= config.layer.start < config.layer.end <= BUCKETS:
        yield f"layer range [{config.layer.start}, {config.layer.end}) must satisfy 0 <= start < end <= 10000"
    for holdout in config.holdouts:
        if not 1 <= holdout.size <= BUCKETS:
            yield f"holdout {holdout.key!r} has size {holdout.size}; it must be in 1..10000"
    yield from _prerequisite_problems(config)
    if config.targeting and (problem := targeting.problem(config.targeting)):
        yield problem
    yield from _record_problems(config.record)
    yield from _metric_problems(config.metrics)
    yield from _plan_problems(config.analysis, config.record)
    for kind, keys in (
        ("surface", config.surfaces),
        ("metric", [metric.key for metric in config.metrics]),
        ("holdout", [holdout.key for holdout in config.holdouts]),
        ("prerequisite", [prerequisite.experiment for prerequisite in config.prerequisites]),
        ("recorded attribute", config.record),
    ):
        for name in _repeated(keys):
            yield f"{kind} {name!r} is named twice; name it once"


def _ramp_problems(config: ExperimentConfig) -> Iterator[str]:
    coverage, at = config.coverage, None
    for step in config.ramp:
        when = step.at.isoformat().replace("+00:00", "Z")
        if not 0 <= step.coverage <= BUCKETS:
            yield f"ramp step {when} has coverage {step.coverage}; it must be in 0..10000"
        elif step.coverage < coverage:
            yield f"ramp step {when} lowers the coverage from {coverage} to {step.coverage}; a ramp must not fall"
        if at is not None and step.at <= at:
            yield f"ramp step {when} does not come after the step before it; order the steps by time"
        coverage, at = step.coverage, step.at


def _record_problems(names: tuple[str, ...]) -> Iterator[str]:
    if len(names) > MAX_RECORDED:
        yield f"record names {len(names)} attributes; it may have at most {MAX_RECORDED}"
    for name in names:
        if not _ATTRIBUTE.fullmatch(name):
            yield f"recorded attribute {name!r} must begin with a letter or _ and have at most 64 of A-Z a-z 0-9 _"


def _metric_problems(metrics: tuple[MetricRole, ...]) -> Iterator[str]:
    for metric in metrics:
        if metric.margin is None:
            continue
        if metric.role != "guardrail":
            yield f"metric {metric.key!r} is a {metric.role} and has a margin; only a guardrail has one"
        elif not 0 < metric.margin < 1:
            yield f"metric {metric.key!r} has the margin {metric.margin:g}; it must lie between 0 and 1 (0.02 is 2 %)"


def _plan_problems(plan: AnalysisPlan, recorded: tuple[str, ...]) -> Iterator[str]:
    for name, days in (("window_days", plan.window_days), ("pre_period_days", plan.pre_period_days)):
        if not 0 < days <= _MAX_DAYS:
            yield f"analysis.{name} is {days:g}; it must be above 0 and at most {_MAX_DAYS}"
    if plan.planned_units is not None and plan.planned_units < 1:
        yield f"analysis.planned_units is {plan.planned_units}; it must be at least 1"
    if plan.spending is not None and not _SPENDING.fullmatch(plan.spending):
        yield f"analysis.spending {plan.spending!r} must be obrien-fleming, pocock, power=3 or hsd=-4"
    if plan.spending is not None and plan.planned_units is None:
        yield "analysis.spending needs analysis.planned_units, the size at the last look"
    if plan.looks and plan.spending is None:
        yield "analysis.looks needs analysis.spending, for example obrien-fleming"
    steps = (0, *plan.looks, *((plan.planned_units,) if plan.planned_units is not None else ()))
    if plan.looks and any(later <= earlier for earlier, later in pairwise(steps)):
        yield f"analysis.looks {list(plan.looks)} must rise and stay below planned_units ({plan.planned_units})"
    if (segment := plan.segment) is not None:
        table, dot, name = segment.rpartition(".")
        if not name or bool(table) != bool(dot):
            yield f"analysis.segment {segment!r} must look like country or customer.country"
        elif not dot and segment not in recorded:
            yield f"analysis.segment {segment!r} is not a recorded attribute; add it to record, or name table.column"


def _prerequisite_problems(config: ExperimentConfig) -> Iterator[str]:
    for prerequisite in config.prerequisites:
        if prerequisite.experiment == config.key:
            yield "the experiment is its own prerequisite; name another experiment"
        elif not _KEY.fullmatch(prerequisite.experiment):
            yield f"prerequisite {prerequisite.experiment!r} must {_KEY_RULE}"
        if not prerequisite.arms:
            yield f"prerequisite {prerequisite.experiment!r} names no arm; name the arms that let a unit in"


def _salt_problems(salt: str) -> Iterator[str]:
    if not salt:
        yield "salt is empty; give a text that no other experiment uses, such as the key and a date"
    elif not _SALT.fullmatch(salt):
        yield f"salt {salt!r} must be 1 to 128 characters of A-Z a-z 0-9 . _ / : -"
    elif salt.startswith(_RESERVED_SALTS):
        reserved = " or ".join(map(repr, _RESERVED_SALTS))
        yield f"salt {salt!r} must not begin with {reserved}: these salts are for the platform's own draws"


def _arm_problems(config: ExperimentConfig) -> Iterator[str]:
    keys = [arm.key for arm in config.arms]
    if len(keys) < 2:
        yield f"{len(keys)} arm(s) given; an experiment needs at least two"
    for name in _repeated(keys):
        yield f"arm {name!r} is given twice; give each arm its own key"
    for arm in config.arms:
        if arm.weight < 1:
            yield f"arm {arm.key!r} has weight {arm.weight}; a weight is at least 1 (leave the arm out instead)"
    if (total := sum(arm.weight for arm in config.arms)) != BUCKETS:
        yield f"the arms' weights sum to {total}; they must sum to exactly 10000"
    if config.control not in keys:
        yield f"control {config.control!r} is not one of the arms ({', '.join(keys)})"


def _repeated(keys: Iterable[str]) -> list[str]:
    return sorted(key for key, count in Counter(keys).items() if count > 1)
