"""What an experiment is: the config that a version freezes, its canonical JSON, and the file a team reviews.

A config that exists is valid: construction and decoding run the same checks, and name every rule that is
broken.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from experiments import targeting
from experiments.assignment import Reason
from experiments.attributes import MAX_RECORDED
from experiments.errors import ConfigError
from experiments.kernel import BUCKETS, HashVersion, unit_bytes
from experiments.text_rules import time_text
from experiments.validation_errors import refused

CONFIG_SCHEMA: Final = 1

ExperimentState = Literal["draft", "in_review", "running", "paused", "stopped", "decided", "archived"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SALT: Final = re.compile(r"[A-Za-z0-9._/:-]{1,128}")
# Salts of draws that are not an experiment's own; sharing one would make two draws the same.
_RESERVED_SALTS: Final = ("layer:", "holdout:")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_KEY_RULE: Final = "begin with a-z or 0-9 and hold at most 64 of a-z 0-9 . _ -"
_SHARES: Final = ("coverage", "weight", "size", "start", "end")


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One arm; `weight` is its share of the enrolled in 1/10,000."""

    key: str
    weight: int


class LayerRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part [start, end) of a layer's 10,000 buckets that an experiment owns."""

    key: str
    start: int
    end: int

    @property
    def salt(self) -> str:
        """L1: every experiment of a layer draws with the same salt, made from the layer's key."""
        return f"layer:{self.key}"


class Holdout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Units that an experiment leaves alone, so that the effect of many experiments together can be measured.

    The first `size` of 10,000 buckets are held out. A `global` holdout is named by every experiment that starts while
    one that names it is live (`neighbours.check_beside`); a `selective` one by those that choose to.
    """

    key: str
    size: int
    scope: Literal["selective", "global"] = "selective"

    @property
    def salt(self) -> str:
        """H1: made from the holdout's key, so that all its experiments leave the same units alone."""
        return f"holdout:{self.key}"


class Prerequisite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Only units that are in one of these arms of another experiment take part."""

    experiment: str
    arms: tuple[str, ...]


class RampStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From `at` on, the coverage is this one. `at` names its time zone, and is kept in UTC."""

    at: datetime
    coverage: int

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ConfigError(f"ramp step {self.at.isoformat()} has no time zone; end it with Z for UTC.")
        # One instant has one text: the canonical JSON must not depend on how the time was written.
        try:
            msgspec.structs.force_setattr(self, "at", self.at.astimezone(UTC))
        except OverflowError:
            raise ConfigError(f"ramp step {self.at.isoformat()} is outside of the years 1 to 9999 of UTC.") from None

    @property
    def at_us(self) -> int:
        """Microseconds since the Unix epoch."""
        delta = self.at - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


class MetricRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part a metric plays in the assignment."""

    key: str
    role: Literal["primary", "secondary", "guardrail"]


class ExperimentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An experiment's assignment and what it is judged by. Raises ConfigError when a rule is broken.

    `coverage` is the enrolled share in 1/10,000, until the first step of the `ramp`. The order of `arms` is part of
    the meaning: it orders the split's ranges. `targeting` is a CEL condition over a unit's attributes; empty, it
    targets everyone. `record` names the attributes that are kept with an exposure, for segments and covariates.
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

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ConfigError(f"experiment {self.key!r}: " + "; ".join(problems) + ".")

    def coverage_at(self, now_us: int) -> int:
        """R1: the coverage in force at a time (microseconds UTC): that of the last step that has come."""
        coverage = self.coverage
        for step in self.ramp:
            if step.at_us > now_us:
                break
            coverage = step.coverage
        return coverage

    def held(self, now_us: int) -> "ExperimentConfig":
        """R3: this config with its ramp stopped where it stands: who is enrolled stays, nobody follows."""
        return msgspec.structs.replace(self, coverage=self.coverage_at(now_us), ramp=())

    def canonical_json(self) -> bytes:
        """UTF-8 JSON, keys sorted, no blanks, every field written: one config has one text, and one
        SHA-256.
        """
        return msgspec.json.encode(self, order="sorted")

    def sha256(self) -> str:
        return hashlib.sha256(self.canonical_json()).hexdigest()


class Override(msgspec.Struct, frozen=True):
    """An arm that is forced upon one unit, for a test by hand, until `expires_at` (microseconds UTC).

    Not part of a config: adding a tester must not make a version, which would expose every unit again.
    """

    unit: str
    arm: str
    expires_at: int


class PublishedExperiment(msgspec.Struct, frozen=True):
    """What a service is given: a published config, its version, the state that its experiment is in, and the
    arms that are forced.
    """

    config: ExperimentConfig
    version: int
    state: ExperimentState = "running"
    overrides: tuple[Override, ...] = ()


def check_key(field: str, name: str) -> None:
    """Raises ConfigError unless a name may be a key."""
    if not _KEY.fullmatch(name):
        raise ConfigError(f"{field} {name!r} must {_KEY_RULE}.")


def check_override(config: ExperimentConfig, override: Override, now_us: int) -> None:
    """Raises ConfigError unless the override names an arm, a unit id that can be served, and a time to come."""
    arms = [arm.key for arm in config.arms]
    problems = []
    if override.arm not in arms:
        problems.append(f"arm {override.arm!r} is not one of the arms ({', '.join(arms)})")
    if isinstance(found := unit_bytes(override.unit), Reason):
        problems.append(f"the unit id is unfit ({found.value})")
    if override.expires_at <= now_us:
        problems.append(
            f"expires_at {time_text(override.expires_at)} is past (it is {time_text(now_us)}); give a time to come"
        )
    if problems:
        raise ConfigError(
            f"override of {ascii(override.unit)[:80]} in experiment {config.key!r}: {'; '.join(problems)}."
        )


def _problems(config: ExperimentConfig) -> Iterator[str]:
    if config.schema != CONFIG_SCHEMA:
        yield f"schema {config.schema} is not known here (this program reads {CONFIG_SCHEMA}); upgrade it"
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
        yield f"coverage {config.coverage} must lie in 0..10000 (10000 is everyone)"
    yield from _ramp_problems(config)
    yield from _arm_problems(config)
    if config.layer is not None and not 0 <= config.layer.start < config.layer.end <= BUCKETS:
        yield f"layer range [{config.layer.start}, {config.layer.end}) must satisfy 0 <= start < end <= 10000"
    for holdout in config.holdouts:
        if not 1 <= holdout.size <= BUCKETS:
            yield f"holdout {holdout.key!r} has size {holdout.size}; it must lie in 1..10000"
    yield from _prerequisite_problems(config)
    if config.targeting and (problem := targeting.problem(config.targeting)):
        yield problem
    yield from _record_problems(config.record)
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
            yield f"ramp step {when} has coverage {step.coverage}; it must lie in 0..10000"
        elif step.coverage < coverage:
            yield f"ramp step {when} lowers the coverage from {coverage} to {step.coverage}; a ramp only rises"
        if at is not None and step.at <= at:
            yield f"ramp step {when} does not come after the step before it; order the steps by time"
        coverage, at = step.coverage, step.at


def _record_problems(names: tuple[str, ...]) -> Iterator[str]:
    if len(names) > MAX_RECORDED:
        yield f"record names {len(names)} attributes; it may have at most {MAX_RECORDED}"
    for name in names:
        if not _ATTRIBUTE.fullmatch(name):
            yield f"recorded attribute {name!r} must begin with a letter or _ and hold at most 64 of A-Z a-z 0-9 _"


def _prerequisite_problems(config: ExperimentConfig) -> Iterator[str]:
    for prerequisite in config.prerequisites:
        if prerequisite.experiment == config.key:
            yield "it names itself as its prerequisite; name another experiment"
        elif not _KEY.fullmatch(prerequisite.experiment):
            yield f"prerequisite {prerequisite.experiment!r} must {_KEY_RULE}"
        if not prerequisite.arms:
            yield f"prerequisite {prerequisite.experiment!r} names no arm; name those that let a unit in"


def _salt_problems(salt: str) -> Iterator[str]:
    if not salt:
        yield "salt is empty; give a text that no other experiment uses, such as the key and a date"
    elif not _SALT.fullmatch(salt):
        yield f"salt {salt!r} must be 1 to 128 of A-Z a-z 0-9 . _ / : -"
    elif salt.startswith(_RESERVED_SALTS):
        reserved = " or ".join(map(repr, _RESERVED_SALTS))
        yield f"salt {salt!r} must not begin with {reserved}: those draws are the platform's"


def _arm_problems(config: ExperimentConfig) -> Iterator[str]:
    keys = [arm.key for arm in config.arms]
    if len(keys) < 2:
        yield f"{len(keys)} arm(s) given; an experiment compares at least two"
    for name in _repeated(keys):
        yield f"arm {name!r} is given twice; every arm needs a key of its own"
    for arm in config.arms:
        if arm.weight < 1:
            yield f"arm {arm.key!r} has weight {arm.weight}; a weight is at least 1 (leave the arm out instead)"
    if (total := sum(arm.weight for arm in config.arms)) != BUCKETS:
        yield f"the arms' weights sum to {total}; they must sum to exactly 10000"
    if config.control not in keys:
        yield f"control {config.control!r} is not one of the arms ({', '.join(keys)})"


def _repeated(keys: Iterable[str]) -> list[str]:
    return sorted(key for key, count in Counter(keys).items() if count > 1)


class _Schema(msgspec.Struct):
    """The one field that every schema of a config has."""

    schema: int = CONFIG_SCHEMA


def from_json(text: bytes | str) -> ExperimentConfig:
    """Decodes and checks a stored config. Raises ConfigError."""
    try:
        # Looked at first: what is unknown in a config of a newer schema is not a mistake of its author.
        if (schema := msgspec.json.decode(text, type=_Schema).schema) > CONFIG_SCHEMA:
            known = f"this program reads {CONFIG_SCHEMA}"
            raise ConfigError(f"experiment config: schema {schema} is not known here ({known}); upgrade it.")
        return msgspec.json.decode(text, type=ExperimentConfig)
    except msgspec.DecodeError as error:
        raise _config_error("experiment config", error) from error


def from_yaml(text: str, *, name: str = "experiment config") -> ExperimentConfig:
    """Parses and checks a YAML document with the same rules as everywhere else; `name` begins the messages.

    Raises ConfigError; a key that is given twice in one mapping is refused too (YAML would let the last one
    win, so that a file with two `control:` lines would quietly use the second).
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        for key, line in _repeated_yaml_keys(node, set()):
            raise ConfigError(f"{name}: line {line}: {key!r} is given twice; give it once.")
        document = yaml.safe_load(text)
        if document is None:
            raise ConfigError(f"{name}: it is empty; docs/analysts/experiments.md shows an experiment.")
        return msgspec.convert(document, ExperimentConfig)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}.") from error
    except msgspec.ValidationError as error:
        raise _config_error(name, error, document) from error


def load_yaml(path: Path) -> ExperimentConfig:
    """Reads one experiment from a UTF-8 YAML file. Raises ConfigError, also for a file that cannot be
    read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}.") from error
    return from_yaml(text, name=str(path))


def _config_error(name: str, error: msgspec.MsgspecError, document: Any = None) -> ConfigError:
    # A rule broken in __post_init__ arrives wrapped; its own message is already a sentence.
    if isinstance(cause := error.__cause__, ConfigError):
        return ConfigError(f"{name}: {cause}")
    place, value, rule = refused(document, str(error))
    found = f"{place} is {value!r}: " if value is not None else f"{place}: " if place else ""
    is_share = isinstance(value, float) and place.rpartition(".")[2] in _SHARES
    remedy = (
        "shares are whole 1/10,000, 5000 is half" if is_share else "`sagelift experiment schema` prints what may stand"
    )
    return ConfigError(f"{name}: {found}{rule[:1].lower()}{rule[1:]}; {remedy}.")


def _repeated_yaml_keys(node: Any, seen: set[int]) -> Iterator[tuple[Hashable, int]]:
    """Keys given twice in one mapping, with their line. `seen` keeps aliases from being walked twice (or
    for ever).
    """
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[Hashable] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in keys:
                yield key, key_node.start_mark.line + 1
            keys.add(key)
            yield from _repeated_yaml_keys(value_node, seen)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _repeated_yaml_keys(child, seen)
