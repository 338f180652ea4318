"""Which columns of a source with one row per unit play which part."""

from dataclasses import dataclass

from analysis.aggregates import Needs
from analysis.columns import Filter
from analysis.currencies import Rates, currency_code
from analysis.errors import ArgumentError, DataError


@dataclass(frozen=True, kw_only=True)
class UserColumns:
    """The columns of a source with one row per unit that play a part, and the units that count.

    Attributes:
        variant: Column with the arm. None puts all units into one arm, `all`.
        unit: Column with the unit's id. With it, units in several arms are found and left out, and a unit with several
            rows in one arm is an error. Without it, each row counts as a unit.
        day: Column with the unit's first exposure, a DATE or TIMESTAMP WITH TIME ZONE.
        segment: Column with the unit's segment.
        where: Conditions that a unit must satisfy to count.
        covariate_until: Column with the end of the time that the unit's covariates cover, a DATE or TIMESTAMP WITH TIME
            ZONE. With it and `day`, covariates that extend beyond first exposure fail the report.
        currency: Currency of the amounts, in minor units.
        currency_column: Column with the currency of the amounts, in minor units.
        rates: Rates to convert the columns of `money` to their base currency.
        money: Columns that hold amounts.
        name: Name of the source in messages and in the report.

    Raises:
        ArgumentError: `currency` is unknown.
        DataError: `rates` come without `currency_column` and `money`, or `covariate_until` without `day`.
    """

    variant: str | None = "variant"
    unit: str | None = None
    day: str | None = None
    segment: str | None = None
    where: tuple[Filter, ...] = ()
    covariate_until: str | None = None
    currency: str | None = None
    currency_column: str | None = None
    rates: Rates | None = None
    money: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.currency is not None:
            try:
                object.__setattr__(self, "currency", currency_code(self.currency))
            except DataError as error:
                raise ArgumentError(str(error)) from error
        if self.rates is not None and not (self.currency_column and self.money):
            raise DataError(
                "Rates are given, but not what to convert. Name the column of currencies (currency_column) and the "
                "columns that hold amounts (money)."
            )
        if self.covariate_until and not self.day:
            raise DataError(
                "covariate_until is compared with the first exposure, which is missing. Name its column too (day)."
            )

    def names(self, needs: Needs) -> list[str]:
        """Return every column that is read: keys, then numbers, then the columns of filters."""
        keys = [self.variant, self.unit, self.day, self.segment, self.currency_column, self.covariate_until]
        filters = [f.column for f in self.where] + [f.column for c in needs.quantities for f in c.where]
        numbers = sorted({column.name for column in needs.quantities})
        return [*dict.fromkeys([key for key in keys if key] + numbers + filters)]
