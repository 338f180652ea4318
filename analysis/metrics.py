"""Metrics, declared: what is measured, in which direction it is good, and which aggregates that takes.

A metric sees no rows. It declares the columns whose joint second moments it needs (`Metric.moments`), and
from the means of those columns it gives its value and the gradient of that value. That is all the statistics need:
for per-unit columns Y with means m and covariance S, the delta method says Var(f(m)) = g' S g / n with g = df/dm;
a mean has g = 1, a ratio N/D has g = (1/D, -N/D^2). Further kinds of metric need nothing but these two methods.

The unit of analysis is the unit of randomisation (a user). A click-through rate is therefore a ratio of two means
per user, never a proportion of impressions: impressions of one user are not independent (Deng, Lu, Litz 2017).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.aggregates import Column, Needs
from analysis.errors import MetricError

Direction = Literal["increase", "decrease"]
Role = Literal["goal", "guardrail", "secondary"]
Unit = Literal["money", "count", "share"]


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """What all metrics declare.

    name: stable identifier, the key in every output. label: the same for people.
    direction: the direction that is good. role: `goal` metrics decide, `guardrail` metrics must not get worse.
    unit: `money` is in minor units (cents) of the source's currency; `count` per unit of analysis; `share` of 1.
    covariate: a column known before exposure; when given, variance is reduced with it (CUPED, Deng et al. 2013).
    """

    name: str
    label: str = ""
    direction: Direction = "increase"
    role: Role = "secondary"
    unit: Unit = "count"
    owner: str = ""
    description: str = ""
    covariate: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise MetricError("A metric has an empty name. Give every metric a short, stable name.")
        if self.covariate in {column.name for column in self.inputs}:
            raise MetricError(
                f"Metric {self.name!r} uses its own column {self.covariate!r} as covariate. "
                "A covariate is measured before exposure, or it hides the effect."
            )

    @property
    @abstractmethod
    def inputs(self) -> tuple[Column, ...]:
        """The columns that the value is made of, the numerator first."""

    @abstractmethod
    def value(self, means: Mapping[Column, float]) -> float | None:
        """The metric from the means per unit of its inputs; None where it is undefined (empty denominator)."""

    @abstractmethod
    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        """Derivative of `value` by each mean. Called only where `value` is defined."""

    @property
    def covariate_column(self) -> Column | None:
        return Column(self.covariate) if self.covariate else None

    @property
    def needs(self) -> Needs:
        covariate = (self.covariate_column,) if self.covariate_column else ()
        return Needs.moments((*self.inputs, *covariate))


@dataclass(frozen=True, kw_only=True)
class Mean(Metric):
    """Mean of a column per unit: GMV per user, clicks per user."""

    column: str

    @property
    def needs(self) -> Needs:
        """Also how many units have a value at all and what the largest is: a mean can hang on a few."""
        return super().needs | Needs(tails=frozenset(self.inputs))

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (Column(self.column),)

    def value(self, means: Mapping[Column, float]) -> float | None:
        return means[Column(self.column)]

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        return {Column(self.column): 1.0}


@dataclass(frozen=True, kw_only=True)
class Proportion(Metric):
    """Share of units whose column is above zero: the share of buyers is `Proportion(column="orders")`."""

    column: str
    unit: Unit = "share"

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (Column(self.column, positive=True),)

    def value(self, means: Mapping[Column, float]) -> float | None:
        return means[Column(self.column, positive=True)]

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        return {Column(self.column, positive=True): 1.0}


@dataclass(frozen=True, kw_only=True)
class Ratio(Metric):
    """Ratio of two sums: clicks / impressions, GMV / orders. Units with much of the denominator weigh more."""

    numerator: str
    denominator: str
    unit: Unit = "share"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numerator == self.denominator:
            raise MetricError(f"Metric {self.name!r} divides {self.numerator!r} by itself.")

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (Column(self.numerator), Column(self.denominator))

    def value(self, means: Mapping[Column, float]) -> float | None:
        top, bottom = (means[column] for column in self.inputs)
        return top / bottom if bottom > 0 else None

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        (numerator, denominator), (top, bottom) = self.inputs, (means[column] for column in self.inputs)
        return {numerator: 1 / bottom, denominator: -top / bottom**2}


def merged_needs(metrics: Sequence[Metric]) -> Needs:
    """The aggregates of all metrics together. Refuses an empty list and names used twice."""
    if not metrics:
        raise MetricError("No metrics were given. Give at least one, for example Mean(name='gmv', column='gmv').")
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise MetricError(f"Two metrics are called {name!r}. Every metric of a report needs its own name.")
    needs = Needs()
    for metric in metrics:
        needs |= metric.needs
    return needs


def shop_metrics(*, covariates: bool = True) -> tuple[Metric, ...]:
    """The metrics of a shop's recommendation experiment, on the columns of `sources.ExperimentTables`.

    GMV per user (net of cancellations and refunds) and clicks per user are the goals; gross GMV stands beside net.
    """

    def pre(column: str) -> str | None:
        return f"{column}_pre" if covariates else None

    return (
        Mean(
            name="gmv_per_user",
            label="GMV per user",
            column="gmv_net",
            unit="money",
            role="goal",
            covariate=pre("gmv_net"),
            description="Value of orders placed in the window, less what was cancelled, refunded or charged back in it",
        ),
        Mean(
            name="clicks_per_user",
            label="Clicks per user",
            column="clicks",
            role="goal",
            covariate=pre("clicks"),
            description="Clicks on recommended products in the window",
        ),
        Mean(
            name="gmv_gross_per_user",
            label="Gross GMV per user",
            column="gmv_gross",
            unit="money",
            covariate=pre("gmv_gross"),
            description="Value of orders placed in the window, before cancellations and refunds",
        ),
        Mean(
            name="orders_per_user",
            label="Orders per user",
            column="orders",
            covariate=pre("orders"),
            description="Orders placed in the window",
        ),
        Proportion(
            name="buyers",
            label="Buyers",
            column="orders",
            description="Share of users who placed at least one order in the window",
        ),
        Ratio(
            name="ctr",
            label="Click-through rate",
            numerator="clicks",
            denominator="impressions",
            description="Clicks over impressions; the variance is over users, by the delta method",
        ),
        Ratio(
            name="aov",
            label="Average order value",
            numerator="gmv_net",
            denominator="orders",
            unit="money",
            description="Net GMV over orders; the variance is over users, by the delta method",
        ),
    )
