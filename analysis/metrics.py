"""Metrics, declared: what is measured, in which direction it is good, and which aggregates that takes.

A metric sees no rows. It declares the columns whose joint second moments it needs, and from the means of those columns
it gives its value and the gradient of that value. That is all the statistics need: for per-unit columns Y with means m
and covariance S, the delta method says Var(f(m)) = g' S g / n with g = df/dm; a mean has g = 1, a ratio N/D has
g = (1/D, -N/D^2). Only a quantile is not made of means: it declares order statistics.

The unit of analysis is the unit of randomisation (a user). A click-through rate is therefore a ratio of two means
per user, never a proportion of impressions: impressions of one user are not independent (Deng, Lu, Litz 2017).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from analysis.aggregates import Needs, Rank, Rule
from analysis.columns import Cap, Column, Filter, Window
from analysis.errors import MetricError

Direction = Literal["increase", "decrease"]
Role = Literal["goal", "guardrail", "secondary"]
Unit = Literal["money", "count", "share"]

# Standard deviations of the rank between a quantile and the order statistics from which its variance is taken.
RANK_REACH = 1.96

SECOND_WEEK = Window(timedelta(days=7), timedelta(days=14))


@dataclass(frozen=True, kw_only=True)
class Declared(ABC):
    """What all metrics declare.

    name: stable identifier, the key in every output. label: the same for people.
    direction: the direction that is good. role: `goal` metrics decide, `guardrail` metrics must not get worse.
    margin: of a guardrail, the relative loss that would still be accepted (0.01 is 1 %): with it the guardrail has to
    be shown to hold (non-inferiority); without it, it only must not be significantly worse.
    tier: how much it counts: 1 the company's, 2 a team's, 3 for diagnosis.
    unit: `money` is in minor units (cents) of the source's currency; `count` per unit of analysis; `share` of 1.
    where: rows that count. In a table with one row per unit, a unit that does not pass has the value 0.
    window: the time since first exposure that counts, where the source has times; None is the source's own.
    """

    name: str
    label: str = ""
    direction: Direction = "increase"
    role: Role = "secondary"
    margin: float | None = None
    unit: Unit = "count"
    owner: str = ""
    tier: Literal[1, 2, 3] = 3
    description: str = ""
    where: tuple[Filter, ...] = ()
    window: Window | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise MetricError("A metric has an empty name. Give every metric a short, stable name.")
        if self.margin is not None and self.role != "guardrail":
            raise MetricError(f"Metric {self.name!r} has a margin, and only guardrails have one. It is a {self.role}.")
        if self.margin is not None and not 0 < self.margin < 1:
            raise MetricError(f"The margin of metric {self.name!r} is {self.margin}; it is a share between 0 and 1.")

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """The aggregates that the metric is made from."""

    def _column(self, name: str, *, positive: bool = False, cap: Cap | None = None) -> Column:
        return Column(name, positive=positive, cap=cap, where=self.where, window=self.window)


@dataclass(frozen=True, kw_only=True)
class Metric(Declared):
    """A metric that is a function of means.

    covariate: a column known before exposure; with it variance is reduced (CUPED, Deng et al. 2013). `a/b` names the
    ratio of two columns. covariates: further ones.
    """

    covariate: str | None = None
    covariates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        own = {column.name for column in self.inputs}
        for column in sorted(column for adjuster in self.adjusters for column in adjuster.inputs):
            if column.name in own:
                raise MetricError(
                    f"Metric {self.name!r} uses its own column {column.name!r} as covariate. "
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
    def rules(self) -> frozenset[Rule]:
        """What holds for every unit if the data is sound."""
        return frozenset()

    @property
    def adjusters(self) -> tuple["Metric", ...]:
        """The covariates as metrics of the time before exposure."""
        names = dict.fromkeys((*((self.covariate,) if self.covariate else ()), *self.covariates))
        return tuple(_covariate(name) for name in names)

    @property
    def without_covariates(self) -> "Metric":
        """The metric as it is without CUPED."""
        return replace(self, covariate=None, covariates=())

    @property
    def needs(self) -> Needs:
        adjusters = [column for adjuster in self.adjusters for column in adjuster.inputs]
        return Needs.moments((*self.inputs, *dict.fromkeys(adjusters))) | Needs(rules=self.rules)

    @property
    def uncapped(self) -> "Metric":
        """The metric without its cap, or itself."""
        return self


def _covariate(name: str) -> Metric:
    top, slash, bottom = (part.strip() for part in name.partition("/"))
    if not slash:
        return Mean(name=name, column=name)
    return Ratio(name=name, numerator=top, denominator=bottom, unit="count")


@dataclass(frozen=True, kw_only=True)
class Mean(Metric):
    """Mean of a column per unit: GMV per user. cap: limits for its values, the same in both arms."""

    column: str
    cap: Cap | None = None

    @property
    def needs(self) -> Needs:
        """Also how many units have a value at all and what the largest is: a mean can hang on a few."""
        needs = super().needs | Needs(tails=frozenset(self.inputs))
        return needs | self.uncapped.needs if self.cap else needs

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (self._column(self.column, cap=self.cap),)

    @property
    def uncapped(self) -> Metric:
        return replace(self, cap=None) if self.cap else self

    def value(self, means: Mapping[Column, float]) -> float | None:
        return means[self.inputs[0]]

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        return {self.inputs[0]: 1.0}


@dataclass(frozen=True, kw_only=True)
class Count(Mean):
    """Number of events per unit: clicks per user. A number below zero is a fault of the data, and is reported."""

    @property
    def rules(self) -> frozenset[Rule]:
        return frozenset({Rule(self._column(self.column))})


@dataclass(frozen=True, kw_only=True)
class Proportion(Metric):
    """Share of units whose column is above zero: the share of buyers is `Proportion(column="orders")`."""

    column: str
    unit: Unit = "share"

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (self._column(self.column, positive=True),)

    def value(self, means: Mapping[Column, float]) -> float | None:
        return means[self.inputs[0]]

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        return {self.inputs[0]: 1.0}


@dataclass(frozen=True, kw_only=True)
class Retention(Proportion):
    """Share of units that came back: with any event between two times after first exposure, as `window` says."""

    column: str = "events"
    window: Window | None = SECOND_WEEK


@dataclass(frozen=True, kw_only=True)
class Ratio(Metric):
    """Ratio of two sums: clicks / impressions, GMV / orders. Units with much of the denominator weigh more.

    With the unit `share` the numerator counts a part of the denominator: more of it than there is, or less than none,
    is a fault of the data, and is reported.
    """

    numerator: str
    denominator: str
    unit: Unit = "share"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numerator == self.denominator:
            raise MetricError(f"Metric {self.name!r} divides {self.numerator!r} by itself.")

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (self._column(self.numerator), self._column(self.denominator))

    @property
    def rules(self) -> frozenset[Rule]:
        top, bottom = self.inputs
        return frozenset({Rule(top), Rule(bottom), Rule(top, bottom)} if self.unit == "share" else {Rule(bottom)})

    def value(self, means: Mapping[Column, float]) -> float | None:
        top, bottom = (means[column] for column in self.inputs)
        return top / bottom if bottom > 0 else None

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        (numerator, denominator), (top, bottom) = self.inputs, (means[column] for column in self.inputs)
        return {numerator: 1 / bottom, denominator: -top / bottom**2}


@dataclass(frozen=True, kw_only=True)
class Quantile(Declared):
    """Quantile of a column over units: the median GMV of a user."""

    column: str
    q: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.q < 1:
            raise MetricError(f"Metric {self.name!r} asks for the quantile {self.q}, which must lie between 0 and 1.")

    @property
    def rank(self) -> Rank:
        return Rank(self._column(self.column), self.q, RANK_REACH)

    @property
    def needs(self) -> Needs:
        return Needs(columns=frozenset({self.rank.column}), ranks=frozenset({self.rank}))


def money_columns(metrics: Sequence[Declared]) -> tuple[str, ...]:
    """The columns that metrics in the unit `money` are made of, and that rates convert; not what they divide by."""
    found: dict[str, None] = {}
    for metric in metrics:
        if metric.unit == "money":
            first = metric.inputs[0] if isinstance(metric, Metric) else min(metric.needs.quantities)
            found[first.name] = None
    return tuple(found)


def merged_needs(metrics: Sequence[Declared]) -> Needs:
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
        Count(
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
        Count(
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
