"""Read the options of a training run from a file, and print them."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from inference.errors import InputError
from inference.training.config import TrainConfig


def read_config(path: Path) -> TrainConfig:
    """Read a configuration from a TOML, YAML or JSON file. Fields that it does not set keep their defaults.

    Raises:
        InputError: If the file is of another kind or malformed, or a field is unknown or has a wrong type or value;
            names file and field.
        OSError: If the file cannot be read.
    """
    if path.suffix not in (".toml", ".yaml", ".yml", ".json"):
        raise InputError(f"{path}: a training configuration is TOML (.toml), YAML (.yaml, .yml) or JSON (.json)")
    content = _parse(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold fields with values, such as steps and seed")
    for name in content:
        if name not in TrainConfig.__struct_fields__:
            close = get_close_matches(str(name), TrainConfig.__struct_fields__, n=1)
            hint = f"did you mean {close[0]}?" if close else "`sagelift model config` lists them"
            raise InputError(f"{path}: {name} is not a field of a training configuration; {hint}")
    try:
        return msgspec.convert(content, TrainConfig)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise InputError(f"{path}: {error.__cause__}") from None
        rule, _, place = str(error).partition(" - at `$.")
        raise InputError(f"{path}: {place.rstrip('`') or 'the file'}: {rule}") from None


def _parse(path: Path) -> Any:
    import yaml

    kind = path.suffix
    try:
        text = path.read_text(encoding="utf-8")
        if kind == ".toml":
            return tomllib.loads(text)
        if kind == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=_yaml_loader())
    except (ValueError, yaml.YAMLError) as error:
        language = {".toml": "TOML", ".json": "JSON"}.get(kind, "YAML")
        raise InputError(f"{path} is not valid {language}: {' '.join(str(error).split())}") from None


class Field(NamedTuple):
    """One field of the configuration, described for people."""

    name: str
    values: str
    default: str | None  # as TOML; None if the field is not set by default
    meaning: str


def fields() -> Iterator[Field]:
    """Yield all fields of `TrainConfig`, in their order."""
    for field in msgspec.structs.fields(TrainConfig):
        kind, about = get_args(field.type)
        default = None if field.default is None else json.dumps(field.default)  # plain JSON values are TOML too
        yield Field(field.name, _values(kind), default, str(about.description))


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    words = {int: "integer", float: "number", bool: "true, false", tuple[int, ...]: "list of integers"}
    return words.get(kind, "table of numbers")


def as_table() -> str:
    """Return the fields as a Markdown table, for `docs/operators/models.md`."""
    lines = ["| field | values | default | meaning |", "|---|---|---|---|"]
    for name, values, default, meaning in fields():
        lines.append(f"| `{name}` | {values} | {'not set' if default is None else f'`{default}`'} | {meaning} |")
    return "\n".join(lines) + "\n"


def as_toml() -> str:
    """Return a TOML file with all fields, their defaults and meanings."""
    lines: list[str] = []
    for name, values, default, meaning in fields():
        lines += [f"# {line}" for line in textwrap.wrap(f"{meaning} ({values})", 100)]
        lines += [f"# {name} is not set" if default is None else f"{name} = {default}", ""]
    return "\n".join(lines[:-1]) + "\n"


def _yaml_loader() -> Any:
    """Return a loader that reads 1e-3 as a number, as YAML 1.2, TOML and JSON do.

    PyYAML follows YAML 1.1 and reads it as text.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    exponent = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    return Loader
