"""Declarations of metrics: what is measured, which direction is good, and which aggregates that needs.

A metric sees no rows. It declares the columns whose joint second moments it needs, and computes its value and the
gradient of its value from the means of those columns. The statistics need nothing else: for per-unit columns Y with
means m and covariance S, the delta method says Var(f(m)) = g' S g / n with g = df/dm. A mean has g = 1, a ratio N/D has
g = (1/D, -N/D^2). Only a quantile is not a function of means: it declares order statistics.

The unit of analysis is the unit of randomisation (a user). A click-through rate is therefore a ratio of two means per
user, never a proportion of impressions: impressions of one user are not independent (Deng, Lu, Litz 2017).
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

    Attributes:
        name: Stable identifier, the key in every output.
        label: Name that people read; the identifier if empty.
        direction: The direction that is good.
        role: `goal` metrics decide, `guardrail` metrics must not get worse, `secondary` metrics only inform.
        margin: Largest acceptable relative loss of a guardrail (0.01 is 1 %). With a margin, the guardrail must be
            shown to hold (non-inferiority); without one, it must not be significantly worse.
        unit: `money` is in minor units (cents) of the source's currency, `count` per unit of analysis, `share` of 1.
        owner: Who owns the metric.
        tier: Importance: 1 for the company, 2 for a team, 3 for diagnosis.
        description: What the metric measures.
        where: Conditions for rows to count. In a table with one row per unit, a unit that fails them has the value 0.
        window: Time since first exposure that counts, for sources with times; None means the source's window.

    Raises:
        MetricError: The declaration contradicts itself.
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
            raise MetricError(
                f"Metric {self.name!r} is a {self.role} and has a margin, and only guardrails have one. "
                "Remove the margin, or make it a guardrail."
            )
        if self.margin is not None and not 0 < self.margin < 1:
            raise MetricError(f"The margin of metric {self.name!r} is {self.margin}, and must lie between 0 and 1.")

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """Aggregates that the metric needs."""

    def _column(self, name: str, *, positive: bool = False, cap: Cap | None = None) -> Column:
        return Column(name, positive=positive, cap=cap, where=self.where, window=self.window)


@dataclass(frozen=True, kw_only=True)
class Metric(Declared):
    """A metric that is a function of means.

    Attributes:
        covariate: Column measured before exposure, which reduces the variance (CUPED, Deng et al. 2013). `a/b` is the
            ratio of two columns.
        covariates: Further covariates.
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
                    "Use a column measured before exposure: the metric's own column would hide the effect."
                )

    @property
    @abstractmethod
    def inputs(self) -> tuple[Column, ...]:
        """Columns of the value, the numerator first."""

    @abstractmethod
    def value(self, means: Mapping[Column, float]) -> float | None:
        """Return the metric's value from the means of its inputs; None where it is undefined (the denominator is 0)."""

    @abstractmethod
    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        """Return the derivative of `value` by each mean. Call it only where `value` is defined."""

    @property
    def rules(self) -> frozenset[Rule]:
        """Rules that every unit satisfies if the data is sound."""
        return frozenset()

    @property
    def adjusters(self) -> tuple["Metric", ...]:
        """Covariates as metrics of the time before exposure."""
        names = dict.fromkeys((*((self.covariate,) if self.covariate else ()), *self.covariates))
        return tuple(_covariate(name) for name in names)

    @property
    def without_covariates(self) -> "Metric":
        """The metric without CUPED."""
        return replace(self, covariate=None, covariates=())

    @property
    def needs(self) -> Needs:
        """Joint moments of inputs and covariates, and the rules."""
        adjusters = [column for adjuster in self.adjusters for column in adjuster.inputs]
        return Needs.moments((*self.inputs, *dict.fromkeys(adjusters))) | Needs(rules=self.rules)

    @property
    def uncapped(self) -> "Metric":
        """The metric without its cap; the metric itself if it has none."""
        return self


def _covariate(name: str) -> Metric:
    top, slash, bottom = (part.strip() for part in name.partition("/"))
    if not slash:
        return Mean(name=name, column=name)
    return Ratio(name=name, numerator=top, denominator=bottom)


@dataclass(frozen=True, kw_only=True)
class Mean(Metric):
    """Mean of a column per unit: GMV per user.

    Attributes:
        column: The column.
        cap: Limits of the values, the same in all arms.
    """

    column: str
    cap: Cap | None = None

    @property
    def needs(self) -> Needs:
        """Joint moments, and the tail of the column: a mean may depend on few units."""
        needs = super().needs | Needs(tails=frozenset(self.inputs))
        return needs | self.uncapped.needs if self.cap else needs

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The column, capped."""
        return (self._column(self.column, cap=self.cap),)

    @property
    def uncapped(self) -> Metric:
        """The metric without its cap; the metric itself if it has none."""
        return replace(self, cap=None) if self.cap else self

    def value(self, means: Mapping[Column, float]) -> float | None:
        """Return the column's mean."""
        return means[self.inputs[0]]

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        """Return 1 for the column."""
        return {self.inputs[0]: 1.0}


@dataclass(frozen=True, kw_only=True)
class Count(Mean):
    """Number of events per unit: clicks per user. A check reports numbers below zero."""

    @property
    def rules(self) -> frozenset[Rule]:
        """The number is not below zero."""
        return frozenset({Rule(self._column(self.column))})


@dataclass(frozen=True, kw_only=True)
class Proportion(Metric):
    """Share of units whose column is above zero: the share of buyers is `Proportion(column="orders")`.

    Attributes:
        column: The column.
        unit: `share`.
    """

    column: str
    unit: Unit = "share"

    @property
    def inputs(self) -> tuple[Column, ...]:
        """Whether the column is above zero."""
        return (self._column(self.column, positive=True),)

    def value(self, means: Mapping[Column, float]) -> float | None:
        """Return the share."""
        return means[self.inputs[0]]

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        """Return 1 for the column."""
        return {self.inputs[0]: 1.0}


@dataclass(frozen=True, kw_only=True)
class Retention(Proportion):
    """Share of units that came back: units with any event in a window after first exposure.

    Attributes:
        column: Column that counts a unit's events.
        window: Time since first exposure in which a unit must have an event.
    """

    column: str = "events"
    window: Window | None = SECOND_WEEK


@dataclass(frozen=True, kw_only=True)
class Ratio(Metric):
    """Ratio of two sums: clicks / impressions, GMV / orders. Units with a larger denominator weigh more.

    With the unit `share`, the numerator counts a part of the denominator. A check reports units with more of the part
    than of the whole, or with a negative number.

    Attributes:
        numerator: Column above the line.
        denominator: Column below the line.
        unit: Unit of the ratio. Only `share` declares that the numerator is a part of the denominator.
    """

    numerator: str
    denominator: str
    unit: Unit = "count"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numerator == self.denominator:
            raise MetricError(f"Metric {self.name!r} divides {self.numerator!r} by itself. Give two different columns.")

    @property
    def inputs(self) -> tuple[Column, ...]:
        """Numerator and denominator."""
        return (self._column(self.numerator), self._column(self.denominator))

    @property
    def rules(self) -> frozenset[Rule]:
        """The denominator is not below 0; the numerator of a share is not below 0 and not above the denominator."""
        top, bottom = self.inputs
        return frozenset({Rule(top), Rule(bottom), Rule(top, bottom)} if self.unit == "share" else {Rule(bottom)})

    def value(self, means: Mapping[Column, float]) -> float | None:
        """Return the ratio; None where the denominator is 0."""
        top, bottom = (means[column] for column in self.inputs)
        return top / bottom if bottom > 0 else None

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        """Return 1 / D for the numerator and -N / D^2 for the denominator."""
        (numerator, denominator), (top, bottom) = self.inputs, (means[column] for column in self.inputs)
        return {numerator: 1 / bottom, denominator: -top / bottom**2}


@dataclass(frozen=True, kw_only=True)
class Quantile(Declared):
    """Quantile of a column over units: the median GMV of a user.

    Attributes:
        column: The column.
        q: The quantile, between 0 and 1.
    """

    column: str
    q: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.q < 1:
            raise MetricError(f"The quantile q of metric {self.name!r} is {self.q}, and must lie between 0 and 1.")

    @property
    def rank(self) -> Rank:
        """Order statistics that the quantile needs of each arm."""
        return Rank(self._column(self.column), self.q, RANK_REACH)

    @property
    def needs(self) -> Needs:
        """The column's sum, which shows NaN, and the order statistics."""
        return Needs(columns=frozenset({self.rank.column}), ranks=frozenset({self.rank}))


def money_columns(metrics: Sequence[Declared]) -> tuple[str, ...]:
    """Return the columns that hold amounts: the numerators of all metrics in the unit `money`. Rates convert them."""
    columns: dict[str, None] = {}
    for metric in metrics:
        if metric.unit == "money":
            first = metric.inputs[0] if isinstance(metric, Metric) else min(metric.needs.quantities)
            columns[first.name] = None
    return tuple(columns)


def merged_needs(metrics: Sequence[Declared]) -> Needs:
    """Return the aggregates that all metrics need together.

    Raises:
        MetricError: There are no metrics, or two have the same name.
    """
    if not metrics:
        raise MetricError("No metrics were given. Give at least one, for example Mean(name='gmv', column='gmv').")
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise MetricError(f"Two metrics have the name {name!r}. Every metric of a report needs its own name.")
    needs = Needs()
    for metric in metrics:
        needs |= metric.needs
    return needs


def shop_metrics(*, covariates: bool = True) -> tuple[Metric, ...]:
    """Return the metrics of a shop's recommendation experiment, on the columns of `sources.ExperimentTables`.

    GMV per user (net of cancellations and refunds) and clicks per user are the goals.

    Args:
        covariates: Whether to reduce variance with the same columns before exposure (CUPED).
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
            description="Value of orders placed in the window, minus cancellations, refunds and chargebacks in it",
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
            unit="share",
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
