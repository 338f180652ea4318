"""Options that declare metrics: `--mean gmv`, `--ratio clicks/impressions`, `--guardrail clicks=2%`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, overload

import typer

from sagelift.commands.analysis_texts import parse_cap, parse_number, parse_pair, parse_share
from sagelift.commands.option_order import written_order

if TYPE_CHECKING:
    from analysis.config import Declarations
    from analysis.metrics import Declared

Texts = list[str] | None

QuantileOption = Annotated[
    Texts, typer.Option(help="Metric: quantile of a column, such as gmv@0.9; repeatable.", rich_help_panel="Metrics")
]


@dataclass(frozen=True)
class GoalOptions:
    """Which metrics decide, and which must not get worse."""

    panel: ClassVar[str] = "Metrics"

    goal: Annotated[
        Texts,
        typer.Option(
            help="Metric that decides, by name; repeatable. Default: the goals that the metrics declare, or else the "
            "first metric that is not a guardrail."
        ),
    ] = None
    guardrail: Annotated[
        Texts,
        typer.Option(
            help="Metric that must not get worse: clicks. Or with the loss to rule out: clicks=2%; repeatable."
        ),
    ] = None

    def applied(self, metrics: Iterable[Declared], written: Mapping[str, str] | None = None) -> list[Declared]:
        """The metrics with the roles of the options. A guardrail never becomes a goal, and keeps its margin.

        Args:
            metrics: The metrics.
            written: Names of metrics by what else the user may write for them.

        Raises:
            typer.BadParameter: An option cannot be read, or names a metric that is not declared.
        """
        by_name = {metric.name: metric for metric in metrics}
        for text in self.guardrail or ():
            name, loss = find_metric(text, by_name, "--guardrail", written, required=False), None
            if name is None:
                text, loss = parse_pair(text, "=", "--guardrail", "clicks=2%") if "=" in text else (text, None)
                name = find_metric(text, by_name, "--guardrail", written)
            margin = by_name[name].margin if loss is None else parse_share(loss, "--guardrail")
            by_name[name] = replace(by_name[name], role="guardrail", margin=margin)
        goals = [find_metric(text, by_name, "--goal", written) for text in self.goal or ()]
        for name in goals:
            if by_name[name].role == "guardrail":
                raise typer.BadParameter(
                    f"{name!r} is a guardrail, and a guardrail cannot be a goal. Name another metric.",
                    param_hint="--goal",
                )
        for name, metric in by_name.items():
            if name in goals:
                by_name[name] = replace(metric, role="goal")
            elif goals and metric.role == "goal":
                by_name[name] = replace(metric, role="secondary")
        return list(by_name.values())


@dataclass(frozen=True)
class RoleOptions(GoalOptions):
    """Roles, directions and units of metrics: goals, guardrails, lower is better, money."""

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
        Texts,
        typer.Option(
            help="Metric: ratio of the sums of two columns, such as items/orders. Or a share, whose part is never more "
            "than the whole: clicks/impressions:share; repeatable."
        ),
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
        metrics, written = self._named(quantile, roles.money or ())
        self._add_caps(metrics)
        self._add_covariates(metrics, written)
        both = {metric.name: metric for metric in from_file.metrics}
        for name, metric in metrics.items():
            _add(both, name, metric)
        for text in roles.lower_is_better or ():
            name = find_metric(text, both, "--lower-is-better", written)
            both[name] = replace(both[name], direction="decrease")
        return Declarations(tuple(roles.applied(both.values(), written)), from_file.rates)

    def _named(self, quantile: Texts, money: Sequence[str]) -> tuple[dict[str, Declared], dict[str, str]]:
        """The metrics by name, in the order of the command line, and their names by what the user wrote for them.

        A name is a column, `clicks/impressions`, `orders > 0`, or `gmv@0.9`.
        """
        texts = {
            "mean": self.mean,
            "count": self.count,
            "ratio": self.ratio,
            "proportion": self.proportion,
            "quantile": quantile,
        }
        metrics: dict[str, Declared] = {}
        written: dict[str, str] = {}
        for kind, position in written_order({kind: len(given or ()) for kind, given in texts.items()}):
            text = (texts[kind] or [])[position]
            metric = _declared(kind, text, money)
            _add(metrics, metric.name, metric)
            written.setdefault(text, metric.name)
        return metrics, written

    def _add_caps(self, metrics: dict[str, Declared]) -> None:
        means = {name: metrics[name] for name in _means(metrics)}
        for text in self.cap or ():
            name, limit = parse_pair(text, "=", "--cap", "gmv=p99")
            name = find_metric(name, means, "--cap")
            metrics[name] = replace(metrics[name], cap=parse_cap(limit))  # type: ignore[call-arg]

    def _add_covariates(self, metrics: dict[str, Declared], written: Mapping[str, str]) -> None:
        """`gmv_pre` is for all means and counts, `clicks=clicks_pre` for one metric."""
        adjustable = {name: metric for name, metric in metrics.items() if hasattr(metric, "covariates")}
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
            for metric in [find_metric(name, adjustable, "--covariate", written)] if equals else means:
                columns.setdefault(metric, []).append(column)
        for name, covariates in columns.items():
            metrics[name] = replace(metrics[name], covariates=tuple(covariates))  # type: ignore[call-arg]


def _means(metrics: Mapping[str, Declared]) -> list[str]:
    """Names of the means and counts."""
    return [name for name, metric in metrics.items() if type(metric).__name__ in ("Mean", "Count")]


def _add(metrics: dict[str, Declared], name: str, metric: Declared) -> None:
    if name in metrics:
        raise typer.BadParameter(f"the metric {name!r} is given twice; each metric of a report needs its own name.")
    metrics[name] = metric


def _declared(kind: str, text: str, money: Sequence[str]) -> Declared:
    """The metric that an option declares."""
    from analysis.metrics import Count, Mean, Proportion, Quantile, Ratio

    def unit(column: str) -> Any:
        return "money" if column in money else "count"

    if kind == "mean":
        return Mean(name=text, column=text, unit=unit(text))
    if kind == "count":
        return Count(name=text, column=text)
    if kind == "proportion":
        return Proportion(name=f"{text} > 0", column=text)
    if kind == "quantile":
        column, q = parse_pair(text, "@", "--quantile", "gmv@0.9")
        return Quantile(name=text, column=column, q=parse_number(q, "--quantile"), unit=unit(column))
    name, _, qualifier = text.partition(":")
    if qualifier not in ("", "share"):
        raise typer.BadParameter(f"{text!r}: only `share` may follow the colon.", param_hint="--ratio")
    top, bottom = parse_pair(name, "/", "--ratio", "clicks/impressions")
    return Ratio(name=name, numerator=top, denominator=bottom, unit="share" if qualifier else unit(top))


@overload
def find_metric(
    text: str, metrics: Mapping[str, Declared], option: str, written: Mapping[str, str] | None = None
) -> str: ...
@overload
def find_metric(
    text: str, metrics: Mapping[str, Declared], option: str, written: Mapping[str, str] | None, *, required: bool
) -> str | None: ...
def find_metric(
    text: str,
    metrics: Mapping[str, Declared],
    option: str,
    written: Mapping[str, str] | None = None,
    *,
    required: bool = True,
) -> str | None:
    """Return the name of the metric that a user means: by its name, its label, or what the user wrote to declare it.

    Args:
        text: What the user wrote.
        metrics: The metrics by name.
        option: The option, for the message.
        written: Names of metrics by what the user wrote to declare them.
        required: Whether a text that no metric fits is an error; otherwise it gives None.

    Raises:
        typer.BadParameter: The text fits no metric, or several.
    """
    if text in metrics:
        return text
    if written and written.get(text) in metrics:
        return written[text]
    labelled = [name for name, metric in metrics.items() if metric.label == text]
    if len(labelled) == 1:
        return labelled[0]
    if not required:
        return None
    listed = ", ".join(metrics) or "none"
    raise typer.BadParameter(
        f"{text!r} is not a metric that this option applies to; those are: {listed}.", param_hint=option
    )
