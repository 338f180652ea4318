"""Metrics as files that a team reviews, and what is kept of one that is published.

    metrics:
      - name: gmv_per_user       # its key in a config's `metrics`
        owner: pricing           # whom to ask
        tier: 1                  # 1 the company's, 2 a team's, 3 for diagnosis
        kind: mean               # from here on: what analysis/ computes (docs/analysts/which-interval.md)
        column: gmv_net
        direction: increase

Who owns a metric and how much it counts is checked here; what it computes is opaque, and checked by whoever computes
it (`analysis.config` knows the fields). A metric that changes is a new version: a report says which one it showed.
"""

import hashlib
import re
from typing import Any, Final, Literal, cast, get_args

import msgspec
import yaml

from experiments.errors import ConfigError
from experiments.text_rules import text_problem

Tier = Literal[1, 2, 3]
_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class MetricDefinition(msgspec.Struct, frozen=True):
    """A metric as a file declares it. `definition` is the whole entry, `name`, `owner` and `tier` among it."""

    key: str
    owner: str
    tier: Tier
    definition: dict[str, Any]

    def canonical_json(self) -> bytes:
        """UTF-8 JSON of the definition, keys sorted, no blanks."""
        return msgspec.json.encode(self.definition, order="sorted")

    def sha256(self) -> str:
        return hashlib.sha256(self.canonical_json()).hexdigest()


class MetricVersion(msgspec.Struct, frozen=True):
    """A published version of a metric. `sha256` is that of its canonical JSON; times are microseconds UTC."""

    key: str
    version: int
    owner: str
    tier: int
    sha256: str
    created_at: int
    created_by: str
    definition: dict[str, Any]


def from_yaml(text: str, *, name: str = "metrics") -> list[MetricDefinition]:
    """The metrics of a YAML document; `name` begins the messages. Raises ConfigError, which names all that is wrong."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}.") from error
    entries = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{name}: no list of metrics; it must begin with `metrics:`.")
    return definitions(entries, name=name)


def definitions(entries: list[Any], *, name: str = "metrics") -> list[MetricDefinition]:
    """The metrics that entries declare. Raises ConfigError, which names all that is wrong."""
    problems: list[str] = []
    found: dict[str, MetricDefinition] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            problems.append(f"metric {number} is {entry!r}; it must be a mapping")
            continue
        key = entry.get("name")
        wrong = list(_problems(entry))
        if not wrong and key in found:
            wrong.append("its name is given twice; give each its own")
        if wrong:
            problems.append(f"metric {number} ({key!r}): {', '.join(wrong)}")
            continue
        found[cast(str, key)] = MetricDefinition(cast(str, key), entry["owner"], entry["tier"], entry)
    if problems:
        raise ConfigError(f"{name}: {'; '.join(problems)}.")
    return list(found.values())


def _problems(entry: dict[Any, Any]) -> list[str]:
    key, owner, tier = entry.get("name"), entry.get("owner"), entry.get("tier")
    wrong = []
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        wrong.append("its name must begin with a-z or 0-9 and hold at most 64 of a-z 0-9 . _ -")
    if not isinstance(owner, str) or not owner.strip() or text_problem(owner):
        wrong.append(f"its owner is {owner!r}; say in plain text who is asked about it")
    if isinstance(tier, bool) or tier not in get_args(Tier):
        wrong.append(f"its tier is {tier!r}; give 1 (the company's), 2 (a team's) or 3 (for diagnosis)")
    try:
        msgspec.json.encode(entry)
    except (TypeError, UnicodeEncodeError) as error:
        wrong.append(f"it holds what JSON cannot ({error})")
    return wrong
