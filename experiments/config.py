"""What an experiment is: the config that a version freezes, its canonical JSON, and the file a team reviews.

A config that exists is valid: construction and decoding run the same checks, and name every rule that is
broken.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from experiments.errors import ConfigError
from experiments.kernel import BUCKETS

CONFIG_SCHEMA: Final = 1

State = Literal["draft", "running", "paused", "stopped", "decided"]

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SALT: Final = re.compile(r"[A-Za-z0-9._/:-]{1,128}")
# Salts of draws that are not an experiment's own; sharing one would make two draws the same.
_RESERVED_SALTS: Final = ("layer:", "holdout:")
_KEY_RULE: Final = "begin with a-z or 0-9 and hold at most 64 of a-z 0-9 . _ -"


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


class MetricRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part a metric plays in the decision."""

    key: str
    role: Literal["primary", "secondary", "guardrail"]


class ExperimentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An experiment's assignment and what it is judged by. Raises ConfigError when a rule is broken.

    `coverage` is the enrolled share in 1/10,000. The order of `arms` is part of the meaning: it orders the
    split's ranges.
    """

    schema: int = CONFIG_SCHEMA
    key: str
    description: str = ""
    hash_version: Literal["sha256"] = "sha256"
    salt: str
    unit_kind: str = "user"
    layer: LayerRange | None = None
    coverage: int
    arms: tuple[Arm, ...]
    control: str
    surfaces: tuple[str, ...] = ()
    metrics: tuple[MetricRole, ...] = ()

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ConfigError(f"experiment {self.key!r}: " + "; ".join(problems) + ".")

    def canonical_json(self) -> bytes:
        """UTF-8 JSON, keys sorted, no blanks, every field written: one config has one text, and one
        SHA-256.
        """
        return msgspec.json.encode(self, order="sorted")

    def sha256(self) -> str:
        return hashlib.sha256(self.canonical_json()).hexdigest()


class PublishedExperiment(msgspec.Struct, frozen=True):
    """What a service is given: a published config, its version, and the state that its experiment is in."""

    config: ExperimentConfig
    version: int
    state: State = "running"


def _problems(config: ExperimentConfig) -> Iterator[str]:
    if config.schema != CONFIG_SCHEMA:
        yield f"schema {config.schema} is not known here (this program reads {CONFIG_SCHEMA}); upgrade it"
    names = [("key", config.key), ("unit_kind", config.unit_kind), *(("arm", arm.key) for arm in config.arms)]
    names += [("surface", surface) for surface in config.surfaces]
    names += [("metric", metric.key) for metric in config.metrics]
    if config.layer is not None:
        names.append(("layer", config.layer.key))
    for field, name in names:
        if not _KEY.fullmatch(name):
            yield f"{field} {name!r} must {_KEY_RULE}"
    yield from _salt_problems(config.salt)
    if not 0 <= config.coverage <= BUCKETS:
        yield f"coverage {config.coverage} must lie in 0..10000 (10000 is everyone)"
    yield from _arm_problems(config)
    if config.layer is not None and not 0 <= config.layer.start < config.layer.end <= BUCKETS:
        yield f"layer range [{config.layer.start}, {config.layer.end}) must satisfy 0 <= start < end <= 10000"
    for kind, keys in (("surface", config.surfaces), ("metric", [metric.key for metric in config.metrics])):
        for name in _repeated(keys):
            yield f"{kind} {name!r} is named twice; name it once"


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


def from_json(text: bytes | str) -> ExperimentConfig:
    """Decodes and checks a stored config. Raises ConfigError."""
    try:
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
        return msgspec.convert(yaml.safe_load(text), ExperimentConfig)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}.") from error
    except msgspec.ValidationError as error:
        raise _config_error(name, error) from error


def load_yaml(path: Path) -> ExperimentConfig:
    """Reads one experiment from a UTF-8 YAML file. Raises ConfigError, also for a file that cannot be
    read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}.") from error
    return from_yaml(text, name=str(path))


def _config_error(name: str, error: msgspec.MsgspecError) -> ConfigError:
    # A rule broken in __post_init__ arrives wrapped; its own message is already a sentence.
    cause = error.__cause__
    return ConfigError(f"{name}: {cause if isinstance(cause, ConfigError) else f'{error}.'}")


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
