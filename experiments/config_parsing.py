"""Configs from JSON and YAML: decoded, checked, and refused with the place, the value and the rule."""

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from experiments.config import CONFIG_SCHEMA, ExperimentConfig
from experiments.errors import ConfigError
from experiments.validation_errors import locate_invalid_value

_SHARES: Final = ("coverage", "weight", "size", "start", "end")


class _Schema(msgspec.Struct):
    """The one field that configs of every schema have."""

    schema: int = CONFIG_SCHEMA


def from_json(text: bytes | str) -> ExperimentConfig:
    """Decode and check a stored config.

    Raises:
        ConfigError: The text is not a config, or its schema is newer than this program.
    """
    try:
        # Check the schema first: a field that only a newer schema has is not a mistake of the config's author.
        if (schema := msgspec.json.decode(text, type=_Schema).schema) > CONFIG_SCHEMA:
            supported = f"this program reads {CONFIG_SCHEMA}"
            raise ConfigError(f"experiment config: schema {schema} is not known here ({supported}); upgrade it.")
        return msgspec.json.decode(text, type=ExperimentConfig)
    except msgspec.DecodeError as error:
        raise _config_error("experiment config", error) from error


def from_yaml(text: str, *, name: str = "experiment config") -> ExperimentConfig:
    """Parse and check a YAML document.

    Args:
        text: One YAML document.
        name: Where the text comes from; the messages begin with it.

    Raises:
        ConfigError: The text is not YAML or not a valid config. A repeated key in a mapping is refused too: YAML would
            silently use the last of two `control:` lines.
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
    """Read one experiment from a UTF-8 YAML file.

    Raises:
        ConfigError: The file cannot be read, or holds no valid config.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}.") from error
    return from_yaml(text, name=str(path))


def _config_error(name: str, error: msgspec.MsgspecError, document: Any = None) -> ConfigError:
    # msgspec wraps an error of `__post_init__`; its own message is already a sentence.
    if isinstance(cause := error.__cause__, ConfigError):
        return ConfigError(f"{name}: {cause}")
    place, value, rule = locate_invalid_value(document, str(error))
    prefix = f"{place} is {value!r}: " if value is not None else f"{place}: " if place else ""
    is_share = isinstance(value, float) and place.rpartition(".")[2] in _SHARES
    remedy = (
        "shares are whole 1/10,000, 5000 is half" if is_share else "`sagelift experiment schema` prints what is allowed"
    )
    return ConfigError(f"{name}: {prefix}{rule[:1].lower()}{rule[1:]}; {remedy}.")


def _repeated_yaml_keys(node: Any, seen: set[int]) -> Iterator[tuple[Hashable, int]]:
    """Yield each key that a mapping has twice, with its line number.

    Args:
        node: Root of the document.
        seen: Ids of visited nodes: a node with aliases is visited once, and a recursive one does not loop.
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
