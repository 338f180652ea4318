"""What can go wrong in an analysis, as one tree.

AnalysisError
├── ArgumentError(ValueError)          an argument is out of its range
├── MetricError(ValueError)            a metric is declared in a way that cannot be computed
├── ArmError(ValueError)               control or treatment is missing, or there is nothing to compare
├── MissingColumnError(LookupError)    a metric names a column that the source does not have
├── DataError(ValueError)              the values themselves: NULL, NaN, infinite, duplicates
│   └── MixedCurrenciesError           amounts of several currencies, and no rates
│       └── MissingRateError           rates are given, but not for one of the currencies
└── SourceError(OSError)               the file or the database cannot be read

Every message is meant for a person: it names the value, the rule and the remedy.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AnalysisError(Exception):
    """Base class of all errors of this package."""


class ArgumentError(AnalysisError, ValueError):
    """An argument is of the wrong kind or out of its range; the message names it, its value and the rule."""


class MetricError(AnalysisError, ValueError):
    """A metric is declared in a way that cannot be computed."""


class ArmError(AnalysisError, ValueError):
    """Control or treatment is missing from the data, or they are the same arm."""


class MissingColumnError(AnalysisError, LookupError):
    """A metric names a column that the source does not have."""

    def __init__(self, missing: str, available: Iterable[str], where: str) -> None:
        known = sorted(available)
        near = get_close_matches(missing, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known)}."
        super().__init__(f"{where} has no column {missing!r}. {hint}")


class DataError(AnalysisError, ValueError):
    """The data holds values from which no mean can be computed."""


class MixedCurrenciesError(DataError):
    """Amounts of several currencies meet in one metric, and nothing says how to convert them."""

    def __init__(self, currencies: Iterable[str]) -> None:
        self.currencies = tuple(sorted(currencies))
        super().__init__(
            f"The amounts are in several currencies ({', '.join(self.currencies)}), and amounts of different "
            "currencies are never added. Give a table of rates, or analyse one currency at a time."
        )


class MissingRateError(MixedCurrenciesError):
    """Amounts in a currency that the table of rates does not know."""

    def __init__(self, currencies: Iterable[str], known: Iterable[str]) -> None:
        self.currencies = tuple(sorted(currencies))
        DataError.__init__(
            self,
            f"The table of rates has none for {', '.join(self.currencies)}; it has {', '.join(sorted(known))}. Add it.",
        )


class SourceError(AnalysisError, OSError):
    """The file or the database cannot be read."""
