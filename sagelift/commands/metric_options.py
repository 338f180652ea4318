"""Options that declare metrics: `--mean gmv`, `--ratio clicks/impressions`, `--guardrail clicks=2%`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from sagelift.commands.analysis_texts import check_metric, parse_cap, parse_number, parse_pair, parse_share

if TYPE_CHECKING:
    from analysis.config import Declarations
    from analysis.metrics import Declared

Texts = list[str] | None

QuantileOption = Annotated[
    Texts, typer.Option(help="Metric: quantile of a column, such as gmv@0.9; repeatable.", rich_help_panel="Metrics")
]


@dataclass(frozen=True)
class RoleOptions:
    """Roles, directions and units of metrics: guardrails, lower is better, money."""

    panel: ClassVar[str] = "Metrics"

    guardrail: Annotated[
        Texts,
        typer.Option(
            help="Metric that must not get worse: clicks. Or with the loss to rule out: clicks=2%; repeatable."
        ),
    ] = None
    lower_is_better: Annotated[Texts, typer.Option(help="Metric that is better when it is lower; repeatable.")] = None
    money: Annotated[Texts, typer.Option(help="Column that holds money in minor units, such as cents; repeatable.")] = (
        None
    )


@dataclass(frozen=True)
class MetricOptions:
    """Which metrics a command computes."""

    panel: ClassVar[str] = "Metrics"

    metrics: Annotated[
        Path | None, typer.Option("--metrics", help="YAML file that declares metrics and exchange rates.")
    ] = None
    mean: Annotated[Texts, typer.Option(help="Metric: mean of a column per user, such as gmv; repeatable.")] = None
    count: Annotated[
        Texts, typer.Option(help="Metric: mean number of events per user, such as clicks; repeatable.")
    ] = None
    ratio: Annotated[
        Texts, typer.Option(help="Metric: ratio of the sums of two columns, such as clicks/impressions; repeatable.")
    ] = None
    proportion: Annotated[
        Texts,
        typer.Option(
            "--proportion", help="Metric: share of users with a value above 0 in a column, such as orders; repeatable."
        ),
    ] = None
    covariate: Annotated[
        Texts,
        typer.Option(
            help="Column from before the exposure, for every --mean and --count. Or for one metric: "
            "clicks=clicks_pre; repeatable."
        ),
    ] = None
    cap: Annotated[
        Texts,
        typer.Option(
            help="Cap of a --mean or --count, the same in all arms: gmv=50000, gmv=p99 or gmv=p99:nonzero; repeatable."
        ),
    ] = None

    def declared(self, quantile: Texts = None, roles: RoleOptions = RoleOptions()) -> Declarations:
        """The metrics of the file, then those of the options.

        Args:
            quantile: Quantile metrics as the user wrote them.
            roles: Guardrails, directions and money columns.

        Raises:
            typer.BadParameter: An option cannot be read, or names a metric that is not declared.
            AnalysisError: The file cannot be read.
        """
        from analysis.config import Declarations, load_metrics

        from_file = load_metrics(self.metrics) if self.metrics else Declarations(())
        metrics = self._named(quantile, roles.money or ())
        self._add_caps(metrics)
        self._add_covariates(metrics)
        _add_roles(metrics, roles)
        return Declarations((*from_file.metrics, *metrics.values()), from_file.rates)

    def _named(self, quantile: Texts, money: Sequence[str]) -> dict[str, Declared]:
        """The metrics by name: a column, `clicks/impressions`, `orders > 0`, `gmv@0.9`."""
        from analysis.metrics import Count, Mean, Proportion, Quantile, Ratio

        def unit(column: str, otherwise: str) -> Any:
            return "money" if column in money else otherwise

        declared: list[Declared] = [Mean(name=c, column=c, unit=unit(c, "count")) for c in self.mean or ()]
        declared += [Count(name=c, column=c) for c in self.count or ()]
        for text in self.ratio or ():
            top, bottom = parse_pair(text, "/", "--ratio", "clicks/impressions")
            declared.append(Ratio(name=text, numerator=top, denominator=bottom, unit=unit(top, "share")))
        declared += [Proportion(name=f"{c} > 0", column=c) for c in self.proportion or ()]
        for text in quantile or ():
            column, q = parse_pair(text, "@", "--quantile", "gmv@0.9")
            declared.append(
                Quantile(name=text, column=column, q=parse_number(q, "--quantile"), unit=unit(column, "count"))
            )
        metrics: dict[str, Declared] = {}
        for metric in declared:
            if metric.name in metrics:
                raise typer.BadParameter(
                    f"the metric {metric.name!r} is given twice; each metric of a report needs its own name."
                )
            metrics[metric.name] = metric
        return metrics

    def _add_caps(self, metrics: dict[str, Declared]) -> None:
        for text in self.cap or ():
            name, limit = parse_pair(text, "=", "--cap", "gmv=p99")
            metric = metrics[check_metric(name, _means(metrics), "--cap")]
            metrics[name] = replace(metric, cap=parse_cap(limit))  # type: ignore[call-arg]

    def _add_covariates(self, metrics: dict[str, Declared]) -> None:
        """`gmv_pre` is for all means and counts, `clicks=clicks_pre` for one metric."""
        adjustable = [name for name, metric in metrics.items() if hasattr(metric, "covariates")]
        columns: dict[str, list[str]] = {}
        for text in self.covariate or ():
            name, equals, column = (part.strip() for part in text.rpartition("="))
            means = _means(metrics)
            if not equals and not means:
                raise typer.BadParameter(
                    f"{column!r} applies to every --mean and --count, but the command has none; name the metric "
                    "(clicks/impressions=ctr_pre).",
                    param_hint="--covariate",
                )
            for metric in [check_metric(name, adjustable, "--covariate")] if equals else means:
                columns.setdefault(metric, []).append(column)
        for name, covariates in columns.items():
            metrics[name] = replace(metrics[name], covariates=tuple(covariates))  # type: ignore[call-arg]


def _means(metrics: Mapping[str, Declared]) -> list[str]:
    """Names of the means and counts."""
    return [name for name, metric in metrics.items() if type(metric).__name__ in ("Mean", "Count")]


def _add_roles(metrics: dict[str, Declared], roles: RoleOptions) -> None:
    for text in roles.guardrail or ():
        name, loss = parse_pair(text, "=", "--guardrail", "clicks=2%") if "=" in text else (text, None)
        metric = metrics[check_metric(name, metrics, "--guardrail")]
        margin = None if loss is None else parse_share(loss, "--guardrail")
        metrics[name] = replace(metric, role="guardrail", margin=margin)
    for name in roles.lower_is_better or ():
        metric = metrics[check_metric(name, metrics, "--lower-is-better")]
        metrics[name] = replace(metric, direction="decrease")
