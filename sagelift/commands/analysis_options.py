"""What analysts write on the command line: `gmv=p99` is a cap, `clicks/impressions` a ratio, `country=DE,FR` a filter.

A text that cannot be read is wrong usage (`typer.BadParameter`), with the option's name and an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from analysis.columns import Cap, Filter
    from analysis.config import Declarations
    from analysis.metrics import Declared

Texts = Sequence[str] | None


@dataclass(frozen=True)
class MetricOptions:
    """The options that declare metrics, as they were written."""

    file: Path | None = None
    mean: Texts = None
    count: Texts = None
    ratio: Texts = None
    proportion: Texts = None
    quantile: Texts = None
    covariate: Texts = None
    cap: Texts = None
    money: Texts = None
    guardrail: Texts = None
    lower_is_better: Texts = None

    def declared(self) -> Declarations:
        """The metrics of the file, then those of the options. Wrong usage; errors of `analysis.config`."""
        from analysis.config import Declarations, load_metrics

        from_file = load_metrics(self.file) if self.file else Declarations(())
        metrics = self._named()
        means = [name for name, metric in metrics.items() if type(metric).__name__ in ("Mean", "Count")]
        for text in self.cap or ():
            name, limit = _two(text, "=", "--cap", "gmv=p99")
            metric = metrics[_known(name, means, "--cap")]
            metrics[name] = replace(metric, cap=cap(limit))  # type: ignore[call-arg]
        for name, columns in self._covariates(metrics, means).items():
            metrics[name] = replace(metrics[name], covariates=tuple(columns))  # type: ignore[call-arg]
        for text in self.guardrail or ():
            name, loss = _two(text, "=", "--guardrail", "clicks=2%") if "=" in text else (text, None)
            metric = metrics[_known(name, metrics, "--guardrail")]
            margin = None if loss is None else share(loss, "--guardrail")
            metrics[name] = replace(metric, role="guardrail", margin=margin)
        for name in self.lower_is_better or ():
            metric = metrics[_known(name, metrics, "--lower-is-better")]
            metrics[name] = replace(metric, direction="decrease")
        return Declarations((*from_file.metrics, *metrics.values()), from_file.rates)

    def _named(self) -> dict[str, Declared]:
        """The metrics by name: a column, `clicks/impressions`, `orders > 0`, `gmv@0.9`."""
        from analysis.metrics import Count, Mean, Proportion, Quantile, Ratio

        def unit(column: str, otherwise: str) -> Any:
            return "money" if column in (self.money or ()) else otherwise

        found: list[Declared] = [Mean(name=c, column=c, unit=unit(c, "count")) for c in self.mean or ()]
        found += [Count(name=c, column=c) for c in self.count or ()]
        for text in self.ratio or ():
            top, bottom = _two(text, "/", "--ratio", "clicks/impressions")
            found.append(Ratio(name=text, numerator=top, denominator=bottom, unit=unit(top, "share")))
        found += [Proportion(name=f"{c} > 0", column=c) for c in self.proportion or ()]
        for text in self.quantile or ():
            column, q = _two(text, "@", "--quantile", "gmv@0.9")
            found.append(Quantile(name=text, column=column, q=number(q, "--quantile"), unit=unit(column, "count")))
        metrics = {metric.name: metric for metric in found}
        if len(metrics) < len(found):
            twice = next(m.name for m in found if sum(other.name == m.name for other in found) > 1)
            raise typer.BadParameter(f"{twice!r} is asked for twice; every metric of a report needs its own name.")
        return metrics

    def _covariates(self, metrics: Mapping[str, Declared], means: Sequence[str]) -> dict[str, list[str]]:
        """The covariates of each metric: `gmv_pre` is for all means, `clicks=clicks_pre` for one metric."""
        adjustable = [name for name, metric in metrics.items() if hasattr(metric, "covariates")]
        found: dict[str, list[str]] = {}
        for text in self.covariate or ():
            whose, equals, column = (part.strip() for part in text.rpartition("="))
            if not equals and not means:
                raise typer.BadParameter(
                    f"{column!r} is for every --mean and --count, and there is none; name the metric that it is for "
                    "(clicks/impressions=ctr_pre).",
                    param_hint="--covariate",
                )
            for name in [_known(whose, adjustable, "--covariate")] if equals else means:
                found.setdefault(name, []).append(column)
        return found


def cap(text: str) -> Cap:
    """50000, p99, or p99:nonzero."""
    from analysis.columns import Cap

    limit, _, over = text.partition(":")
    if over not in ("", "nonzero"):
        raise typer.BadParameter(f"{text!r}: after the colon only `nonzero` can stand.", param_hint="--cap")
    if limit.startswith("p"):
        return Cap(upper_quantile=number(limit[1:], "--cap") / 100, nonzero=bool(over))
    return Cap(upper=number(limit, "--cap"))


def where(texts: Texts) -> tuple[Filter, ...]:
    """country=DE,FR; age>=18."""
    return tuple(map(_filter, texts or ()))


def _filter(text: str) -> Filter:
    from analysis.columns import Filter, Operator

    operators: tuple[Operator, ...] = ("!=", "<=", ">=", "=", "<", ">")
    for operator in operators:
        column, found, value = text.partition(operator)
        if found and column and value:
            values = tuple(map(_literal, value.split(",")))
            if operator == "=" and len(values) > 1:
                return Filter(column.strip(), "in", values)
            return Filter(column.strip(), operator, _literal(value))
    raise typer.BadParameter(f"{text!r} is no comparison such as country=DE.", param_hint="--where")


def _literal(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def split(text: str | None) -> dict[str, float] | None:
    """control=0.9,treatment=0.1."""
    if text is None:
        return None
    pairs = [_two(part, "=", "--split", "0=0.9,1=0.1") for part in text.split(",")]
    return {arm: number(weight, "--split") for arm, weight in pairs}


def interval(name: str) -> Any:
    if name not in ("fieller", "delta", "log"):
        raise typer.BadParameter(f"{name!r} is none of fieller, delta, log.", param_hint="--interval")
    return name


def share(text: str, option: str) -> float:
    """2% or 0.02."""
    text = text.strip()
    return number(text[:-1], option) / 100 if text.endswith("%") else number(text, option)


def number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number.", param_hint=option) from None


def _two(text: str, by: str, option: str, example: str) -> tuple[str, str]:
    left, found, right = (part.strip() for part in text.partition(by))
    if not (found and left and right):
        raise typer.BadParameter(f"{text!r} must look like {example}.", param_hint=option)
    return left, right


def _known(name: str, known: Iterable[str], option: str) -> str:
    there = list(known)
    if name not in there:
        listed = ", ".join(there) or "none"
        raise typer.BadParameter(f"{name!r} is none of the metrics it could be for ({listed}).", param_hint=option)
    return name
