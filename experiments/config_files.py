"""Experiments as files that a team reviews: YAML in, a JSON Schema for editors, and what is wrong between files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from experiments import lifecycle
from experiments.compatibility import find_circle
from experiments.config import ExperimentConfig, load_yaml
from experiments.errors import ConfigError, ConflictError

_SUFFIXES: Final = (".yaml", ".yml")
_SHARE: Final = {"minimum": 0, "maximum": 10_000}
_KEY: Final = {"pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}
# What the types alone do not say; the rest (weights that sum, a control that is an arm) needs `validate`.
_RULES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "ExperimentConfig": {
        "schema": {"const": 1},
        "key": _KEY,
        "salt": {"pattern": "^[A-Za-z0-9._/:-]{1,128}$"},
        "unit_kind": _KEY,
        "coverage": _SHARE,
        "arms": {"minItems": 2},
    },
    "Arm": {"key": _KEY, "weight": {"minimum": 1, "maximum": 10_000}},
    "LayerRange": {"key": _KEY, "start": _SHARE, "end": _SHARE},
    "Holdout": {"key": _KEY, "size": {"minimum": 1, "maximum": 10_000}},
    "Prerequisite": {"experiment": _KEY, "arms": {"minItems": 1}},
    "RampStep": {"coverage": _SHARE},
    "MetricRole": {"key": _KEY},
}


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a file, in a sentence."""

    file: str
    message: str


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an experiment's file, for editors and reviews."""
    schema = msgspec.json.schema(ExperimentConfig)
    for name, fields in _RULES.items():
        properties = schema["$defs"][name]["properties"]
        for field, rules in fields.items():
            properties[field] |= rules
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An experiment of Sagelift",
        **schema,
    }


def to_yaml(config: ExperimentConfig) -> str:
    """A config as a file of its own, without the fields that are empty. `load_yaml` reads the same config from it."""
    fields = msgspec.to_builtins(config)
    given = {name: value for name, value in fields.items() if value not in ("", [], (), None)}
    return str(yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=120))


def experiment_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and of each folder the YAML files in it and below. Raises ConfigError for a folder without any."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES)
        if not inside:
            raise ConfigError(f"{path} holds no experiment: no file ends in {' or '.join(_SUFFIXES)}.")
        found += inside
    return found


def read(paths: Sequence[Path]) -> tuple[dict[Path, ExperimentConfig], list[Fault]]:
    """The experiments in files, and all that is wrong with each alone and with them together."""
    configs: dict[Path, ExperimentConfig] = {}
    faults: list[Fault] = []
    for path in paths:
        try:
            configs[path] = load_yaml(path)
        except ConfigError as error:
            faults.append(Fault(str(path), str(error).removeprefix(f"{path}: ")))
    faults += _between(configs)
    return configs, faults


def _between(configs: Mapping[Path, ExperimentConfig]) -> Iterator[Fault]:
    keys: dict[str, Path] = {}
    salts: dict[str, Path] = {}
    for path, config in configs.items():
        for what, value, seen in (("key", config.key, keys), ("salt", config.salt, salts)):
            if (other := seen.setdefault(value, path)) != path:
                yield Fault(str(path), f"{what} {value!r} is that of {other} as well; give each its own.")
    by_key = {config.key: config for config in configs.values()}
    for path, config in configs.items():
        try:
            lifecycle.check_layer(config, configs.values())
        except ConflictError as error:
            yield Fault(
                str(path), str(error).replace("is live on", "is on").replace("stop the other", "mend the other")
            )
        if circle := find_circle(by_key, config.key):
            yield Fault(str(path), f"its prerequisites lead back to it ({' -> '.join(circle)}); leave one of them out.")
