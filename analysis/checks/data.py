"""Checks of the data: units in several arms, impossible values, incomplete windows, late events, refunds, currency."""

from collections.abc import Sequence

from analysis.aggregates import Aggregates
from analysis.checks.check import Check, Status
from analysis.metrics import Declared
from analysis.sources.base import Facts
from analysis.times import describe_length

MULTIPLE_ARMS = 0.01  # share of units; more than that points to a fault in assignment or in unit ids
IMPOSSIBLE = 0.001  # share of units; an impression just before first exposure may leave its click alone after it
IMMATURE = 0.05  # share of units whose window is incomplete: their late orders are missing in both arms
LATE = 0.01  # share of events that arrive late; similar events of the last days are still missing
REFUNDED_AFTER = 0.05  # share of refunds that come after the window, so that net GMV does not contain them


def units_in_several_arms(multiple: int, counted: int) -> Check:
    """Check the share of units that were seen in more than one arm. They are left out of all metrics.

    Args:
        multiple: Units seen in several arms.
        counted: Units seen in one arm.
    """
    total = multiple + counted
    share = multiple / total if total else 0.0
    sentence = f"{multiple:,} of {total:,} units ({share:.2%}) were seen in several arms and are left out."
    if share > MULTIPLE_ARMS:
        sentence += " That is too many: check the assignment and the unit ids."
    return Check(
        name="units_in_several_arms",
        status="warn" if share > MULTIPLE_ARMS else "ok",
        sentence=sentence,
        value=share,
        threshold=MULTIPLE_ARMS,
    )


def impossible_values(aggregates: Aggregates, metrics: Sequence[Declared]) -> Check | None:
    """Check for units with impossible values: more clicks than impressions, a negative number of events."""
    rules = sorted({rule for metric in metrics for rule in metric.needs.rules})
    if not rules:
        return None
    broken = {str(rule): n for rule in rules if (n := aggregates.broken(rule))}
    share = max(broken.values(), default=0) / max(sum(cell.n for cell in aggregates.cells), 1)
    violations = "; ".join(f"{name} in {n:,} unit{'s' * (n != 1)}" for name, n in broken.items())
    sentence = (
        f"{violations}." if broken else "No unit has a negative number of events or more of a part than of the whole."
    )
    if share > IMPOSSIBLE:
        sentence += " Something counts these rows wrongly. Correct the data first."
        if any(aggregates.broken(rule) for rule in rules if rule.most):
            sentence += " If the numerator is no part of the denominator, do not declare the ratio a share."
    return Check(
        name="impossible_values",
        status="fail" if share > IMPOSSIBLE else "warn" if broken else "ok",
        sentence=sentence,
        value=share,
        threshold=IMPOSSIBLE,
    )


def immature_units(facts: Facts, counted: int) -> Check | None:
    """Check the share of units whose attribution window had not ended at the data cut-off."""
    if facts.immature is None or facts.window is None:
        return None
    share = facts.immature / counted if counted else 0.0
    status: Status = "warn" if share > IMMATURE else "ok"
    window = describe_length(facts.window)
    sentence = f"{facts.immature:,} of {counted:,} units ({share:.1%}) have not completed their window of {window}."
    if status == "warn":
        sentence += " Both arms miss late events alike, and values per user will still rise."
    return Check(name="immature_units", status=status, sentence=sentence, value=share, threshold=IMMATURE)


def late_data(facts: Facts) -> Check | None:
    """Check the share of events that arrived late: then the data of the last days is not complete yet."""
    if facts.late is None or facts.late.of == 0:
        return None
    share = facts.late.rows / facts.late.of
    sentence = f"{share:.2%} of events arrived later than {describe_length(facts.late.threshold)} after they happened."
    if share > LATE:
        sentence += " The last days are not complete yet. Wait, or set an earlier cut-off."
    status: Status = "warn" if share > LATE else "ok"
    return Check(name="late_data", status=status, sentence=sentence, value=share, threshold=LATE)


def refunds_after_window(facts: Facts) -> Check | None:
    """Check the share of refunds that came after the window. Net GMV contains only refunds inside the window."""
    refunds = facts.refunds
    if refunds is None or refunds.counted + refunds.after <= 0:
        return None
    share = refunds.after / (refunds.counted + refunds.after)
    sentence = f"{share:.1%} of the refunds of these orders came after the window and are not part of net GMV."
    if share > REFUNDED_AFTER:
        sentence += " A longer window would include them."
    status: Status = "warn" if share > REFUNDED_AFTER else "ok"
    return Check(name="refunds_after_window", status=status, sentence=sentence, value=share, threshold=REFUNDED_AFTER)


def one_currency(facts: Facts) -> Check | None:
    """State the currency of all amounts. A source refuses mixed currencies before (MixedCurrenciesError)."""
    if facts.currency is None:
        return None
    if facts.rates is not None:
        sentence = (
            f"All amounts are converted to {facts.currency} at the rates of {facts.rates.as_of}, in all arms alike."
        )
        return Check(name="currency", status="ok", sentence=sentence)
    return Check(name="currency", status="ok", sentence=f"All amounts are in {facts.currency}.")
