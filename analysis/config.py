"""Metrics and rates declared in YAML.

    metrics:
      - kind: mean                 # mean, count, proportion, ratio, retention, quantile
        name: gmv_per_user         # the other fields are those of the kind's class in analysis.metrics
        column: gmv_net
        unit: money
        role: goal
        owner: pricing
        tier: 1                    # 1 for the company, 2 for a team, 3 for diagnosis
        covariate: gmv_net_pre
        cap: {upper_quantile: 0.99, nonzero: true}
      - kind: ratio
        name: ctr_home
        numerator: clicks
        denominator: impressions
        unit: share                # clicks are a part of the impressions; without it, any ratio
        where: [{column: surface, op: "=", value: home}]
      - kind: retention
        name: second_week
        window: [7, 14]            # days since first exposure
    rates:                         # where amounts are in several currencies
      base: EUR
      as_of: 2026-06-01
      source: ECB
      rates: {USD: 0.92, JPY: 0.0061}

Nothing is guessed: an unknown field, an unknown kind and a wrong type are errors that name the file and the metric.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import yaml

from analysis.columns import Window
from analysis.currencies import Rates
from analysis.errors import AnalysisError, MetricError, SourceError
from analysis.metrics import Count, Declared, Mean, Proportion, Quantile, Ratio, Retention, merged_needs

KINDS: Mapping[str, type[Declared]] = {
    "mean": Mean,
    "count": Count,
    "proportion": Proportion,
    "ratio": Ratio,
    "retention": Retention,
    "quantile": Quantile,
}


@dataclass(frozen=True)
class Declarations:
    """What a file declares.

    Attributes:
        metrics: The metrics.
        rates: Rates to convert amounts with; None if the file has none.
    """

    metrics: tuple[Declared, ...]
    rates: Rates | None = None


def load_metrics(path: Path) -> Declarations:
    """Read the declarations of a YAML file.

    Raises:
        MetricError: A declaration is wrong.
        SourceError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    return parse_metrics(text, name=str(path))


def parse_metrics(text: str, *, name: str = "metrics") -> Declarations:
    """Read the declarations of YAML text.

    Args:
        text: The YAML text.
        name: Name of the text in error messages.

    Raises:
        MetricError: The text is not YAML, or a declaration is wrong.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MetricError(f"{name} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict) or not isinstance(document.get("metrics"), list):
        raise MetricError(f"{name} has no list of metrics. Add one: `metrics:`, then one entry per metric.")
    _refuse_unknown(document, ("metrics", "rates"), name)
    metrics = declared_metrics(document["metrics"], name=name)
    rates = document.get("rates")
    return Declarations(metrics, None if rates is None else _rates(rates, f"{name}, rates"))


def declared_metrics(entries: Iterable[Any], *, name: str = "metrics") -> tuple[Declared, ...]:
    """Convert entries that were read from YAML or JSON to metrics.

    Args:
        entries: One mapping per metric.
        name: Name of the entries in error messages.

    Raises:
        MetricError: A declaration is wrong.
    """
    metrics = tuple(_metric(entry, f"{name}, metric {number}") for number, entry in enumerate(entries, 1))
    try:
        merged_needs(metrics)
    except MetricError as error:
        raise MetricError(f"{name}: {error}") from error
    return metrics


def _metric(entry: Any, where: str) -> Declared:
    if not isinstance(entry, dict):
        raise MetricError(f"{where} is {entry!r}, and must be a mapping with kind, name and so on.")
    where = f"{where} ({entry['name']})" if entry.get("name") else where
    rest = {key: value for key, value in entry.items() if key != "kind"}
    if entry.get("kind") not in KINDS:
        raise MetricError(f"{where}: the kind is {entry.get('kind')!r}, and must be one of {', '.join(KINDS)}.")
    kind = KINDS[entry["kind"]]
    _refuse_unknown(rest, [field.name for field in fields(kind)], where)
    filters = rest["where"] if isinstance(rest.get("where"), list) else []
    for key, part in [("cap", rest.get("cap")), *(("where", f) for f in filters)]:
        if isinstance(part, dict):
            _refuse_unknown(part, _CAP if key == "cap" else _FILTER, f"{where}, {key}")
    window = rest.pop("window", None)
    try:
        if window is not None:
            rest["window"] = _window(window, where)
        return msgspec.convert(rest, kind)
    except (msgspec.ValidationError, AnalysisError) as error:
        raise MetricError(f"{where}: {error}") from error


_CAP = ("upper", "lower", "upper_quantile", "lower_quantile", "nonzero")
_FILTER = ("column", "op", "value")


def _window(given: Any, where: str) -> Window:
    numbers = isinstance(given, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in given)
    if not numbers or len(given) != 2:
        raise MetricError(f"{where}: the window is {given!r}, and must be two numbers of days, for example [7, 14].")
    return Window(timedelta(days=given[0]), timedelta(days=given[1]))


def _rates(entry: Any, where: str) -> Rates:
    if not isinstance(entry, dict):
        raise MetricError(f"{where} is {entry!r}, and must be a mapping with base, as_of and rates.")
    _refuse_unknown(entry, ("base", "rates", "as_of", "source"), where)
    try:
        return msgspec.convert(entry, Rates)
    except (msgspec.ValidationError, AnalysisError) as error:
        raise MetricError(f"{where}: {error}") from error


def _refuse_unknown(entry: Mapping[Any, Any], allowed: Iterable[str], where: str) -> None:
    names = sorted(allowed)
    for key in entry:
        if key not in names:
            near = get_close_matches(str(key), names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The fields are {', '.join(names)}."
            raise MetricError(f"{where} has an unknown field {key!r}. {hint}")
