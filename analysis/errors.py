"""The errors of this package, as one tree.

AnalysisError
├── ArgumentError(ValueError)          an argument is of the wrong kind or out of its range
├── MetricError(ValueError)            a metric as declared cannot be computed
├── ArmError(ValueError)               control or treatment is missing, or there is nothing to compare
│   └── ArmNameError                   an arm is named that does not exist, or named twice
├── MissingColumnError(LookupError)    a metric names a column that the source does not have
├── DataError(ValueError)              the values are unusable: NULL, NaN, infinite, duplicates
│   └── MixedCurrenciesError           amounts are in several currencies, without rates
│       └── MissingRateError           rates are given, but not for one of the currencies
└── SourceError(OSError)               the file or the database cannot be read

Every message names the value, the rule and the remedy.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AnalysisError(Exception):
    """Base class of all errors of this package."""


class ArgumentError(AnalysisError, ValueError):
    """An argument is of the wrong kind or out of its range; the message names it, its value and the rule."""


class MetricError(AnalysisError, ValueError):
    """A metric as declared cannot be computed."""


class ArmError(AnalysisError, ValueError):
    """Control or treatment is missing from the data, or they are the same arm."""


class ArmNameError(ArmError):
    """An arm is named that does not exist, is named twice, or has no possible share."""


class MissingColumnError(AnalysisError, LookupError):
    """A metric names a column that the source does not have.

    Args:
        missing: Name of the missing column.
        available: Names of the columns that exist.
        where: Name of the source.
        what: What is missing there.
    """

    def __init__(self, missing: str, available: Iterable[str], where: str, what: str = "column") -> None:
        names = sorted(available)
        near = get_close_matches(missing, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(names) or 'none'}."
        super().__init__(f"{where} has no {what} {missing!r}. {hint}")


class DataError(AnalysisError, ValueError):
    """The data holds values that cannot be averaged."""


class MixedCurrenciesError(DataError):
    """A metric has amounts in several currencies, and there are no rates to convert them.

    Attributes:
        currencies: The currencies, sorted.
    """

    def __init__(self, currencies: Iterable[str]) -> None:
        self.currencies = tuple(sorted(currencies))
        super().__init__(
            f"The amounts are in several currencies ({', '.join(self.currencies)}), and amounts in different "
            "currencies are never added. Give a table of rates, or analyse one currency at a time."
        )


class MissingRateError(MixedCurrenciesError):
    """Amounts are in a currency that the table of rates does not contain.

    Attributes:
        currencies: The currencies without a rate, sorted.
    """

    def __init__(self, currencies: Iterable[str], available: Iterable[str]) -> None:
        self.currencies = tuple(sorted(currencies))
        DataError.__init__(
            self,
            f"The table of rates has none for {', '.join(self.currencies)}; it has {', '.join(sorted(available))}. "
            "Add the missing rate.",
        )


class SourceError(AnalysisError, OSError):
    """The file or the database cannot be read."""
