"""A group-sequential design as an experiment states it: its planned size, the looks so far, how alpha is spent.

Information is counted in units of both arms: with a steady split and a steady variance 1 / Var(D) grows in proportion
to them, and unlike a variance their planned number is known beforehand, one for all metrics. The looks that were taken
are a record: a look's boundary depends on them, so name each with the units that it had.

The boundary is applied as a level (Jennison, Turnbull 2000, section 3.3): |Z| >= critical becomes p <= nominal, with
the tails of Student's t instead of the normal's where units are few.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis.arguments import check_count
from analysis.errors import ArgumentError
from analysis.inference import Effect, IntervalMethod, LiftInterval, t_quantile
from analysis.sequential import (
    Look,
    Spending,
    SpendingDesign,
    hwang_shih_decani_spending,
    inflation,
    obrien_fleming_spending,
    pocock_spending,
    power_spending,
    repeated_interval,
)

OBRIEN_FLEMING = "obrien-fleming"
_NAMED: Mapping[str, Spending] = {OBRIEN_FLEMING: obrien_fleming_spending, "pocock": pocock_spending}
_FAMILIES: Mapping[str, Callable[[float], Spending]] = {"power": power_spending, "hsd": hwang_shih_decani_spending}


def spending_named(name: str) -> Spending:
    """`obrien-fleming`, `pocock`, `power=3` (Kim, DeMets) or `hsd=-4` (Hwang, Shih, DeCani). Errors: ArgumentError."""
    family, equals, parameter = name.partition("=")
    if not equals and name in _NAMED:
        return _NAMED[name]
    if equals and family in _FAMILIES:
        try:
            value = float(parameter)
        except ValueError:
            value = float("nan")  # refused by the family, with its own words
        return _FAMILIES[family](value)
    raise ArgumentError(f"There is no spending function {name!r}. Take obrien-fleming, pocock, power=3 or hsd=-4.")


@dataclass(frozen=True)
class Design:
    """planned_units: of the control and one treatment, at the last look. earlier: the units of both at each look that
    was taken before this one. last: there will be no other look (which must not depend on the results): it spends all
    that is left. Errors: ArgumentError."""

    planned_units: int
    earlier: tuple[int, ...] = ()
    spending: str = OBRIEN_FLEMING
    last: bool = False

    def __post_init__(self) -> None:
        check_count(self.planned_units, "planned_units")
        spending_named(self.spending)
        for number, units in enumerate(self.earlier, 1):
            check_count(units, f"units of look {number}")
            if units >= self.planned_units:
                raise ArgumentError(
                    f"Look {number} had {units:,} units, and {self.planned_units:,} were planned: all alpha was spent "
                    "then, and there is no later look. Plan a new experiment, on new users."
                )

    def look(self, units: int, alpha: float) -> Look:
        """The boundary of the look at `units` of both arms, two-sided at a total of alpha. Errors: ArgumentError."""
        if self.earlier and units <= self.earlier[-1]:
            raise ArgumentError(
                f"This look has {units:,} units, and the one before it had {self.earlier[-1]:,}. "
                "Looks are named with the units that each had, growing."
            )
        design = SpendingDesign(self.planned_units, alpha, spending_named(self.spending))
        return design.looks([*self.earlier, units], last=self.last)[-1]


@dataclass(frozen=True)
class Taken:
    """A metric at a look. crossed: its boundary is. critical: standard errors to either side, of Student's t; lift: the
    repeated interval, which excludes 0 exactly when it is crossed. Both None where nothing may be spent yet."""

    look: Look
    crossed: bool
    critical: float | None
    lift: LiftInterval | None


def take(design: Design, effect: Effect, alpha: float, method: IntervalMethod = "fieller") -> Taken:
    """An effect held against its boundary. alpha: of all looks together, for this metric."""
    look = design.look(effect.control.n + effect.treatment.n, alpha)
    if look.nominal <= 0:
        return Taken(look, crossed=False, critical=None, lift=None)
    critical = t_quantile(effect.difference.df, look.nominal)
    interval = repeated_interval(effect, critical, method=method)
    return Taken(look, crossed=interval.rejects, critical=critical, lift=interval.lift)


@dataclass(frozen=True)
class PlannedLooks:
    """Equally spaced looks before any was taken, and what they cost. inflation: of the largest size over one look's."""

    looks: tuple[Look, ...]
    inflation: float


def planned_looks(number: int, spending: str, alpha: float, power: float) -> PlannedLooks:
    """A design of so many looks, equally spaced. Errors: ArgumentError."""
    shares = [(k + 1) / check_count(number, "looks") for k in range(number)]
    looks = SpendingDesign(1.0, alpha, spending_named(spending)).looks(shares)
    # Looks at which nothing can be spent yet cannot reject: they are left out of the integration.
    open_ones = [look for look in looks if look.nominal > 0]
    critical, at = [look.critical for look in open_ones], [look.share for look in open_ones]
    return PlannedLooks(looks, max(1.0, inflation(critical, at, alpha, power)))
