"""A group-sequential design as an experiment states it: planned size, looks so far, spending of alpha.

Information is counted in units of both arms. With a steady split and a steady variance, 1 / Var(D) grows in proportion
to them; and the planned number of units is known beforehand and is the same for all metrics. A look's boundary depends
on the earlier looks, so a design records how many units each of them had.

The boundary is applied as a level (Jennison, Turnbull 2000, section 3.3): |Z| >= critical becomes p <= nominal, with
the tails of Student's t instead of the normal distribution where units are few.
"""

from dataclasses import dataclass

from analysis.errors import ArgumentError
from analysis.inference import Effect, IntervalMethod, LiftInterval, t_quantile
from analysis.sequential.boundaries import Look, SpendingDesign, inflation
from analysis.sequential.repeated_interval import repeated_interval
from analysis.sequential.spending import OBRIEN_FLEMING, spending_named
from analysis.validation import check_count


@dataclass(frozen=True)
class Design:
    """A group-sequential design at its next look.

    Attributes:
        planned_units: Planned units of the control and one treatment together, at the last look.
        earlier: Units of both arms at each earlier look.
        spending: Name of the spending function; see `spending_named`.
        last: There will be no further look, so this one spends all that is left. This must not depend on the results.

    Raises:
        ArgumentError: A number is not a positive whole number, the spending function is unknown, or an earlier look
            already reached the planned size.
    """

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
                    f"Look {number} had {units:,} units, and {self.planned_units:,} were planned: that look spent all "
                    "alpha, so there is no later look. Plan a new experiment on new users."
                )

    def look(self, units: int, alpha: float) -> Look:
        """Compute the boundary of the look at this number of units.

        Args:
            units: Units of both arms now.
            alpha: Two-sided level of all looks together.

        Raises:
            ArgumentError: There are no more units than at the look before.
        """
        if self.earlier and units <= self.earlier[-1]:
            raise ArgumentError(
                f"This look has {units:,} units, and the look before had {self.earlier[-1]:,}. "
                "Give the units of each earlier look; they must grow from look to look."
            )
        design = SpendingDesign(self.planned_units, alpha, spending_named(self.spending))
        return design.looks([*self.earlier, units], last=self.last)[-1]


@dataclass(frozen=True)
class InterimResult:
    """A metric at an interim analysis.

    Attributes:
        look: Boundary of this look.
        crossed: Whether the metric crosses the boundary.
        critical: Critical value by Student's t, in standard errors to either side; None where no alpha may be spent
            yet.
        lift: Repeated interval of the lift, which excludes 0 exactly when the boundary is crossed; None where no alpha
            may be spent yet or the lift is undefined.
    """

    look: Look
    crossed: bool
    critical: float | None
    lift: LiftInterval | None


def analyze_interim(design: Design, effect: Effect, alpha: float, method: IntervalMethod = "fieller") -> InterimResult:
    """Compare an effect with the boundary of the design's next look.

    Args:
        design: The design, with its earlier looks.
        effect: Effect on the metric now.
        alpha: Level of all looks together, for this metric.
        method: Method of the lift's interval.

    Raises:
        ArgumentError: There are no more units than at the look before.
    """
    look = design.look(effect.control.n + effect.treatment.n, alpha)
    if look.nominal <= 0:
        return InterimResult(look, crossed=False, critical=None, lift=None)
    critical = t_quantile(effect.difference.df, look.nominal)
    interval = repeated_interval(effect, critical, method=method)
    return InterimResult(look, crossed=interval.rejects, critical=critical, lift=interval.lift)


@dataclass(frozen=True)
class PlannedLooks:
    """Equally spaced looks of a design that has not started.

    Attributes:
        looks: Boundary of each look.
        inflation: Maximum sample size relative to a single look of the same power.
    """

    looks: tuple[Look, ...]
    inflation: float


def planned_looks(number: int, spending: str, alpha: float, power: float) -> PlannedLooks:
    """Compute the boundaries and the cost of equally spaced looks.

    Args:
        number: Number of looks.
        spending: Name of the spending function.
        alpha: Level of the whole test.
        power: Power of the whole test.

    Raises:
        ArgumentError: An argument is out of range.
    """
    shares = [(k + 1) / check_count(number, "looks") for k in range(number)]
    looks = SpendingDesign(1.0, alpha, spending_named(spending)).looks(shares)
    # Looks at which nothing may be spent yet cannot reject: they are left out of the integration.
    testable = [look for look in looks if look.nominal > 0]
    critical, testable_shares = [look.critical for look in testable], [look.share for look in testable]
    return PlannedLooks(looks, max(1.0, inflation(critical, testable_shares, alpha, power)))
