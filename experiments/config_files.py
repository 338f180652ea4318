"""Experiments as YAML files that a team reviews: find, read, check and write them, and their JSON Schema."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from experiments.compatibility import find_cycle, find_overlap
from experiments.config import ExperimentConfig
from experiments.config_parsing import load_yaml
from experiments.errors import ConfigError
from experiments.json_schemas import describe_properties

_SUFFIXES: Final = (".yaml", ".yml")
_SHARE: Final = {"minimum": 0, "maximum": 10_000}
_KEY: Final = {"pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}
# Rules that the types do not state. Other rules (the sum of the weights, the control arm) need `validate`.
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


class FileProblem(msgspec.Struct, frozen=True):
    """A problem of a file, as a sentence."""

    file: str
    message: str


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an experiment's file, for editors and reviews."""
    schema = msgspec.json.schema(ExperimentConfig)
    describe_properties(schema["$defs"])
    for name, fields in _RULES.items():
        properties = schema["$defs"][name]["properties"]
        for field, rules in fields.items():
            properties[field] |= rules
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Sagelift experiment",
        **schema,
    }


def to_yaml(config: ExperimentConfig) -> str:
    """Return a config as YAML, without empty fields. `config_parsing.load_yaml` reads the same config from it."""
    fields = msgspec.to_builtins(config)
    given = {name: value for name, value in fields.items() if value not in ("", [], (), None)}
    return str(yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=120))


def experiment_files(paths: Iterable[Path]) -> list[Path]:
    """List files, and the YAML files in folders and their subfolders.

    Args:
        paths: Files and folders.

    Raises:
        ConfigError: A folder has no YAML file.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES)
        if not inside:
            raise ConfigError(f"{path} has no experiment: no file name ends in {' or '.join(_SUFFIXES)}.")
        files += inside
    return files


def read(paths: Sequence[Path]) -> tuple[dict[Path, ExperimentConfig], list[FileProblem]]:
    """Read experiments from files and check them, each alone and all together.

    Returns:
        The valid configs by file, and all problems.
    """
    configs: dict[Path, ExperimentConfig] = {}
    problems: list[FileProblem] = []
    for path in paths:
        try:
            configs[path] = load_yaml(path)
        except ConfigError as error:
            problems.append(FileProblem(str(path), str(error).removeprefix(f"{path}: ")))
    problems += _between(configs)
    return configs, problems


def _between(configs: Mapping[Path, ExperimentConfig]) -> Iterator[FileProblem]:
    keys: dict[str, Path] = {}
    salts: dict[str, Path] = {}
    for path, config in configs.items():
        for what, value, seen in (("key", config.key, keys), ("salt", config.salt, salts)):
            if (other := seen.setdefault(value, path)) != path:
                yield FileProblem(str(path), f"{what} {value!r} is also that of {other}; give each its own.")
    by_key = {config.key: config for config in configs.values()}
    for path, config in configs.items():
        if (overlap := find_overlap(config, configs.values())) is not None:
            own, other_key, theirs = overlap
            yield FileProblem(
                str(path),
                f"experiment {config.key!r} wants [{own.start}, {own.end}) of layer {own.key!r}, but {other_key!r} has "
                f"[{theirs.start}, {theirs.end}): choose a free range or change the other.",
            )
        if cycle := find_cycle(by_key, config.key):
            yield FileProblem(
                str(path), f"its prerequisites lead back to it ({' -> '.join(cycle)}); leave one of them out."
            )
