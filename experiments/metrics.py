"""Metrics as YAML files that a team reviews, and as published versions.

    metrics:
      - name: gmv_per_user       # key in a config's `metrics`
        owner: pricing           # whom to ask
        tier: 1                  # 1 company, 2 team, 3 diagnosis
        kind: mean               # from here on: what `analysis` computes (docs/analysts/which-interval.md)
        column: gmv_net
        direction: increase

This module checks the owner and the tier. It does not check what the metric computes; `analysis.config` does. A changed
metric is a new version, and a report names the version that it shows.
"""

import hashlib
import re
from typing import Any, Final, Literal, cast, get_args

import msgspec
import yaml

from experiments.errors import ConfigError
from experiments.text_rules import text_problem

Tier = Literal[1, 2, 3]
"""Importance: 1 of the company, 2 of a team, 3 for diagnosis."""

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class MetricDefinition(msgspec.Struct, frozen=True):
    """A metric as a file declares it.

    Attributes:
        key: Name of the metric.
        owner: Whom to ask about it.
        tier: Its importance.
        definition: The whole entry of the file, including `name`, `owner` and `tier`.
    """

    key: str
    owner: str
    tier: Tier
    definition: dict[str, Any]

    def canonical_json(self) -> bytes:
        """Return the definition as UTF-8 JSON with sorted keys, without spaces."""
        return msgspec.json.encode(self.definition, order="sorted")

    def sha256(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical_json()).hexdigest()


class MetricVersion(msgspec.Struct, frozen=True):
    """A published version of a metric.

    Attributes:
        key: Name of the metric.
        version: Number of the version, from 1.
        owner: Whom to ask about it.
        tier: Its importance.
        sha256: SHA-256 of the definition's canonical JSON, in hexadecimal.
        created_at: Time in microseconds UTC.
        created_by: Who published it.
        definition: The whole entry of the file.
    """

    key: str
    version: int
    owner: str
    tier: int
    sha256: str
    created_at: int
    created_by: str
    definition: dict[str, Any]


def from_yaml(text: str, *, name: str = "metrics") -> list[MetricDefinition]:
    """Read the metrics of a YAML document.

    Args:
        text: The document.
        name: Where the text comes from; the messages begin with it.

    Raises:
        ConfigError: The document is not valid. The message names every problem.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}.") from error
    entries = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{name}: it has no list of metrics; begin it with `metrics:`.")
    return definitions(entries, name=name)


def definitions(entries: list[Any], *, name: str = "metrics") -> list[MetricDefinition]:
    """Check entries and return the metrics that they declare.

    Args:
        entries: Entries of a list of metrics.
        name: Where they come from; the messages begin with it.

    Raises:
        ConfigError: An entry is not valid. The message names every problem.
    """
    problems: list[str] = []
    by_key: dict[str, MetricDefinition] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            problems.append(f"metric {number} is {entry!r}; it must be a mapping")
            continue
        key = entry.get("name")
        wrong = list(_problems(entry))
        if not wrong and key in by_key:
            wrong.append("its name is given twice; give each metric its own")
        if wrong:
            problems.append(f"metric {number} ({key!r}): {', '.join(wrong)}")
            continue
        by_key[cast(str, key)] = MetricDefinition(cast(str, key), entry["owner"], entry["tier"], entry)
    if problems:
        raise ConfigError(f"{name}: {'; '.join(problems)}.")
    return list(by_key.values())


def _problems(entry: dict[Any, Any]) -> list[str]:
    key, owner, tier = entry.get("name"), entry.get("owner"), entry.get("tier")
    wrong = []
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        wrong.append("its name must begin with a-z or 0-9 and have at most 64 characters of a-z 0-9 . _ -")
    if not isinstance(owner, str) or not owner.strip() or text_problem(owner):
        wrong.append(f"its owner is {owner!r}; give a plain text that says whom to ask about it")
    if isinstance(tier, bool) or tier not in get_args(Tier):
        wrong.append(f"its tier is {tier!r}; give 1 (company), 2 (team) or 3 (diagnosis)")
    try:
        msgspec.json.encode(entry)
    except (TypeError, UnicodeEncodeError) as error:
        wrong.append(f"it has a value that JSON cannot represent ({error})")
    return wrong
