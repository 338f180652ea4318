"""Checks that are always on: may these numbers be trusted at all?

Each returns a `Check` with a sentence for people. `fail` means that the report must not be used for a decision, `warn`
that a reader should know. Thresholds stand here, each with its reason.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import exp, fsum, lgamma, log
from typing import Literal

import msgspec

from analysis.aggregates import FEW_NONZERO, ONE_UNIT, Aggregates, Moments
from analysis.inference import Effect, compare
from analysis.metrics import Count, Declared, Mean, Metric, Proportion
from analysis.sources.base import Facts

Status = Literal["ok", "warn", "fail"]

SRM_P = 0.001  # a check that runs on every report must almost never cry wolf (Fabijan et al. 2019)
SRM_EXPECTED = 5.0  # below this per arm the chi-square distribution is no good approximation
MULTIPLE_ARMS = 0.01  # share of units; more than a trickle means that assignment or identity is broken
IMMATURE = 0.05  # share of units whose window is not over: their late orders are missing in both arms
IMBALANCE_P = 0.001  # as for SRM
SRM_PRIOR = 100.0  # weight of the planned split in the always-valid test: sharpest for deviations of a few percent
COPY = 0.999  # correlation with its covariate beyond which a metric is suspected to have been measured twice
LATE = 0.01  # share of events that arrive late; their like of the last days are still missing
REFUNDED_AFTER = 0.05  # share of what is refunded that the window cuts off, and net GMV does not know
IMPOSSIBLE = 0.001  # share of units; an impression just before first exposure may leave its click alone after it
ONE_SOURCE = 0.01  # share of an arm's events that one unit may carry: people do not click like that


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. value and threshold are None where the check has no number."""

    name: str
    status: Status
    sentence: str
    value: float | None = None
    threshold: float | None = None


def sample_ratio(counts: Mapping[str, int], expected: Mapping[str, float]) -> Check:
    """Sample ratio mismatch: Pearson's chi-square of the units per arm against the expected split.

    `expected` holds weights of any scale, above 0. An arm without units fails, and so does an unexpected one.
    """

    def result(status: Status, sentence: str, p: float | None = None) -> Check:
        return Check(name="sample_ratio", status=status, sentence=sentence, value=p, threshold=SRM_P)

    empty = sorted(arm for arm in expected if not counts.get(arm))
    if empty:
        return result("fail", f"No units in {_names(empty)}, which the expected split names.")
    strange = sorted(arm for arm, count in counts.items() if count and arm not in expected)
    if strange:
        return result("fail", f"Units in {_names(strange)}, which the expected split does not name.")
    total, weight = sum(counts[arm] for arm in expected), sum(expected.values())
    wanted = {arm: total * share / weight for arm, share in expected.items()}
    if min(wanted.values()) < SRM_EXPECTED:
        return result("warn", f"Too few units ({total:,}) to tell whether the split is as planned.")
    statistic = sum((counts[arm] - wanted[arm]) ** 2 / wanted[arm] for arm in sorted(expected))
    p = chi_square_p(statistic, len(expected) - 1)
    arms = sorted(expected)
    seen = " : ".join(f"{counts[arm]:,}" for arm in arms)
    shares = [expected[arm] / weight for arm in arms]
    planned = "equal shares" if len(set(shares)) == 1 else " : ".join(f"{share:.4g}" for share in shares)
    split = f"{' : '.join(arms)} is {seen}, planned {planned} ({_p(p)})."
    if p < SRM_P:
        return result("fail", f"Sample ratio mismatch: {split} The arms are not comparable; find the cause first.", p)
    return result("ok", f"The split is as planned: {split}", p)


def chi_square_p(statistic: float, df: int) -> float:
    from scipy.special import chdtrc

    return float(chdtrc(df, statistic))


def sample_ratio_by_segment(aggregates: Aggregates, expected: Mapping[str, float]) -> Check | None:
    """The sample ratio in each segment, with Bonferroni's correction: a mismatch may hide in one browser or country."""
    segments = aggregates.segments
    if len(segments) < 2:
        return None
    p_values: dict[str, float] = {}
    for segment in segments:
        counts = {arm: aggregates.count(arm, segment) for arm in expected}
        found = sample_ratio(counts, expected)
        if found.value is not None:
            p_values[segment] = min(found.value * len(segments), 1.0)
        elif sum(counts.values()) >= SRM_EXPECTED * sum(expected.values()) / min(expected.values()):
            p_values[segment] = 0.0  # an arm without units, where there should be some
    if not p_values:
        return None
    off = [segment for segment, p in p_values.items() if p < SRM_P]
    least = min(p_values.values())
    sentence = (
        f"Sample ratio mismatch in {_names(off)}: the arms are not comparable there, and so not as a whole."
        if off
        else f"The split is as planned in each of {len(p_values)} segments (smallest corrected {_p(least)})."
    )
    return Check(
        name="sample_ratio_by_segment",
        status="fail" if off else "ok",
        sentence=sentence,
        value=least,
        threshold=SRM_P,
    )


def sample_ratio_over_time(aggregates: Aggregates, expected: Mapping[str, float]) -> Check | None:
    """The sample ratio for those who look every day: an always-valid p-value of the counts so far.

    The Bayes factor of a Dirichlet prior around the planned split against that split is a martingale if the split is
    right, so that it ever exceeds 1 / a with chance a at most (Lindon, Malek 2022). It is taken at the end of each
    interval of time.
    """
    if len(aggregates.days) < 2:
        return None
    counts, largest = dict.fromkeys(sorted(expected), 0), 0.0
    weight = sum(expected.values())
    shares = {arm: expected[arm] / weight for arm in counts}
    by_day: dict[int, dict[str, int]] = {}
    for cell in aggregates.cells:
        if cell.day is not None and cell.arm in counts:
            joined = by_day.setdefault(cell.day, dict.fromkeys(counts, 0))
            joined[cell.arm] += cell.n
    for day in sorted(by_day):
        for arm, n in by_day[day].items():
            counts[arm] += n
        largest = max(largest, log_bayes_factor(counts, shares))
    p = exp(-largest)
    sentence = (
        f"At some time the split was not as planned (always-valid {_p(p)}). Find out what happened then."
        if p < SRM_P
        else f"The split was as planned all the time (always-valid {_p(p)})."
    )
    return Check(
        name="sample_ratio_over_time",
        status="fail" if p < SRM_P else "ok",
        sentence=sentence,
        value=p,
        threshold=SRM_P,
    )


def log_bayes_factor(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """log of P(counts | Dirichlet(SRM_PRIOR * shares)) / P(counts | shares). shares add up to 1."""
    total = sum(counts.values())
    terms = [lgamma(SRM_PRIOR) - lgamma(SRM_PRIOR + total)]
    for arm, share in shares.items():
        prior = SRM_PRIOR * share
        terms.append(lgamma(prior + counts[arm]) - lgamma(prior) - counts[arm] * log(share))
    return fsum(terms)


def several_arms(multiple: int, counted: int) -> Check:
    """Units that were seen in two arms; they are in no sum."""
    total = multiple + counted
    share = multiple / total if total else 0.0
    sentence = f"{multiple:,} of {total:,} units ({share:.2%}) were seen in two arms and are left out."
    if share > MULTIPLE_ARMS:
        sentence += " That is more than a trickle: look at assignment and at how units are identified."
    return Check(
        name="units_in_several_arms",
        status="warn" if share > MULTIPLE_ARMS else "ok",
        sentence=sentence,
        value=share,
        threshold=MULTIPLE_ARMS,
    )


def immature_units(facts: Facts, counted: int) -> Check | None:
    """Units whose attribution window had not ended at the data cut-off."""
    if facts.immature is None or facts.window is None:
        return None
    share = facts.immature / counted if counted else 0.0
    status: Status = "warn" if share > IMMATURE else "ok"
    window = _days(facts.window)
    sentence = f"{facts.immature:,} of {counted:,} units ({share:.1%}) have not completed their window of {window}."
    if status == "warn":
        sentence += " Both arms miss late events alike; values per user will still rise."
    return Check(name="immature_units", status=status, sentence=sentence, value=share, threshold=IMMATURE)


def one_currency(facts: Facts) -> Check | None:
    """Several currencies never get here (MixedCurrenciesError); this states which one it was."""
    if facts.currency is None:
        return None
    if facts.rates is not None:
        sentence = f"Amounts are converted to {facts.currency} at the rates of {facts.rates.as_of}, in all arms alike."
        return Check(name="currency", status="ok", sentence=sentence)
    return Check(name="currency", status="ok", sentence=f"All amounts are in {facts.currency}.")


def impossible_values(aggregates: Aggregates, metrics: Sequence[Declared]) -> Check | None:
    """Units that break what must hold for each: more clicks than impressions, a negative number of events."""
    rules = sorted({rule for metric in metrics for rule in metric.needs.rules})
    if not rules:
        return None
    broken = {str(rule): n for rule in rules if (n := aggregates.broken(rule))}
    share = max(broken.values(), default=0) / max(sum(cell.n for cell in aggregates.cells), 1)
    found = "; ".join(f"{name} in {n:,} unit{'s' * (n != 1)}" for name, n in broken.items())
    sentence = (
        f"{found}." if broken else "No unit has a negative number of events, or more of a part than of the whole."
    )
    if share > IMPOSSIBLE:
        sentence += " Such rows are counted wrongly; mend the data first."
    return Check(
        name="impossible_values",
        status="fail" if share > IMPOSSIBLE else "warn" if broken else "ok",
        sentence=sentence,
        value=share,
        threshold=IMPOSSIBLE,
    )


def covariates_before_exposure(
    facts: Facts, metrics: Sequence[Metric], control: Moments, treatment: Moments
) -> Check | None:
    """Covariates reach up to first exposure and no further, or they would hide the effect that they help to see.

    Where the data tells the end of the covariates' time, it is compared. A covariate that is all but the metric itself
    is suspected of being measured in the same time.
    """
    adjusted = [m for m in metrics if m.adjusters]
    if not adjusted:
        return None
    name, threshold = "covariates_before_exposure", COPY
    if facts.late_covariates:
        return Check(
            name=name,
            status="fail",
            sentence=f"The covariates of {facts.late_covariates:,} units reach beyond their first exposure. "
            "They would hide the effect; measure them strictly before.",
            value=float(facts.late_covariates),
            threshold=0.0,
        )
    correlations = {_label(m): _correlation(m, (control, treatment)) for m in adjusted}
    copies = [label for label, r in correlations.items() if r > COPY]
    most = max(correlations.values())
    if copies:
        sentence = f"{_names(copies)}: the covariate is all but the metric itself. Was it measured before exposure?"
    elif facts.late_covariates == 0:
        sentence = "All covariates end before first exposure."
    else:
        sentence = f"No covariate is the metric itself (largest correlation {most:.3g})."
    return Check(name=name, status="warn" if copies else "ok", sentence=sentence, value=most, threshold=threshold)


def _correlation(metric: Metric, arms: Sequence[Moments]) -> float:
    """Largest correlation, within an arm, of a column of the metric with one of its covariates."""
    most = 0.0
    for arm in arms:
        for a in metric.inputs:
            for b in (column for adjuster in metric.adjusters for column in adjuster.inputs):
                scale = arm.variance(a) * arm.variance(b)
                if scale > 0:
                    most = max(most, abs(arm.covariance(a, b)) / scale**0.5)
    return min(most, 1.0)


def late_data(facts: Facts) -> Check | None:
    """Events that took long to arrive: the last days are then not complete yet."""
    if facts.late is None or facts.late.of == 0:
        return None
    share = facts.late.rows / facts.late.of
    sentence = f"{share:.2%} of events arrived later than {_days(facts.late.threshold)} after they happened."
    if share > LATE:
        sentence += " The last days are not complete; wait, or set an earlier cut-off."
    status: Status = "warn" if share > LATE else "ok"
    return Check(name="late_data", status=status, sentence=sentence, value=share, threshold=LATE)


def refunds_after_window(facts: Facts) -> Check | None:
    """Net GMV knows what was taken back inside the window. What came after is stated, as a share of all of it."""
    refunds = facts.refunds
    if refunds is None or refunds.counted + refunds.after <= 0:
        return None
    share = refunds.after / (refunds.counted + refunds.after)
    sentence = f"{share:.1%} of what was refunded of these orders came after the window, and is not in net GMV."
    if share > REFUNDED_AFTER:
        sentence += " A longer window would see it."
    status: Status = "warn" if share > REFUNDED_AFTER else "ok"
    return Check(name="refunds_after_window", status=status, sentence=sentence, value=share, threshold=REFUNDED_AFTER)


def automated_traffic(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """A unit that carries a sizeable share of all events of its arm is no person. Not told apart in small samples."""
    shares: dict[str, float] = {}
    for metric in metrics:
        if not isinstance(metric, Count):
            continue
        (column,) = metric.inputs
        for arm in (control, treatment):
            total = arm.means[column] * arm.n
            if total > 0 and arm.tails[column].nonzero >= 10 / ONE_SOURCE:
                share = min(arm.tails[column].largest / total, 1.0)
                shares[_label(metric)] = max(shares.get(_label(metric), 0.0), share)
    if not shares:
        return None
    loud = [name for name, share in shares.items() if share > ONE_SOURCE]
    most = max(shares.values())
    sentence = (
        f"{_names(loud)}: a single unit carries up to {most:.1%} of all events. Is it a bot? Leave such units out."
        if loud
        else f"No single unit carries more than {most:.2%} of all events."
    )
    return Check(
        name="automated_traffic",
        status="warn" if loud else "ok",
        sentence=sentence,
        value=most,
        threshold=ONE_SOURCE,
    )


def variation(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check:
    """Metrics that do not vary in either arm: nothing can be tested, and tracking may be broken. A goal fails."""
    flat = [m for m in metrics if not any(_varies(m, arm) for arm in (control, treatment))]
    if not flat:
        return Check(name="variance", status="ok", sentence="Every metric varies between units.")
    goals = any(m.role == "goal" for m in flat)
    return Check(
        name="variance",
        status="fail" if goals else "warn",
        sentence=f"{_names([_label(m) for m in flat])}: every unit has the same value, so nothing can be tested. "
        "Is the event tracked?",
        value=float(len(flat)),
        threshold=0.0,
    )


def few_nonzero(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Means that rest on few units with a value other than 0 (buyers, for GMV) in the smaller arm."""
    smallest = {
        _label(m): min(_nonzero(m, control), _nonzero(m, treatment))
        for m in metrics
        if isinstance(m, Mean | Proportion)
    }
    if not smallest:
        return None
    few = [name for name, count in smallest.items() if count < FEW_NONZERO]
    least = min(smallest.values())
    sentence = (
        f"{_names(few)}: fewer than {FEW_NONZERO} units with a value in one arm (least: {least:,}). "
        "Intervals may miss more often than they say."
        if few
        else f"Every metric rests on at least {least:,} units with a value in each arm."
    )
    return Check(
        name="few_buyers",
        status="warn" if few else "ok",
        sentence=sentence,
        value=float(least),
        threshold=float(FEW_NONZERO),
    )


def heavy_tail(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Share of an arm's variance that its single largest unit carries."""
    shares: dict[str, float] = {}
    for metric in metrics:
        column = metric.inputs[0]
        for arm in (control, treatment):
            if isinstance(metric, Mean) and arm.variance(column) > 0:
                share = arm.tails[column].heaviest(arm.means[column], arm.variance(column), arm.n)
                shares[_label(metric)] = max(shares.get(_label(metric), 0.0), share)
    if not shares:
        return None
    heavy = [name for name, share in shares.items() if share > ONE_UNIT]
    most = max(shares.values())
    sentence = (
        f"{_names(heavy)}: a single unit carries up to {most:.0%} of an arm's variance. "
        "One order could turn the result."
        if heavy
        else f"No single unit carries more than {most:.2%} of an arm's variance."
    )
    return Check(name="heavy_tail", status="warn" if heavy else "ok", sentence=sentence, value=most, threshold=ONE_UNIT)


def balance_before(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Covariates are measured before exposure, so they must not differ between the arms."""
    p_values: dict[str, float] = {}
    adjusters = {adjuster.name: adjuster for m in metrics for adjuster in m.adjusters}
    for name in sorted(adjusters):
        effect = compare(adjusters[name], control, treatment)
        if isinstance(effect, Effect):
            p_values[name] = effect.difference.p
    if not p_values:
        return None
    off = [name for name, p in p_values.items() if p < IMBALANCE_P]
    least = min(p_values.values())
    sentence = (
        f"{_names(off)}: the arms already differed before exposure ({_p(least)}). Is the split random?"
        if off
        else f"Before exposure the arms were alike (smallest {_p(least)})."
    )
    return Check(
        name="balance_before_exposure",
        status="warn" if off else "ok",
        sentence=sentence,
        value=least,
        threshold=IMBALANCE_P,
    )


def run_checks(
    aggregates: Aggregates,
    facts: Facts,
    metrics: Sequence[Declared],
    control: Moments,
    treatment: Moments,
    expected_split: Mapping[str, float],
) -> list[Check]:
    """All checks that apply, the most serious subject first."""
    counts = {arm: aggregates.count(arm) for arm in aggregates.arms}
    counted = sum(counts.values())
    of_means = [metric for metric in metrics if isinstance(metric, Metric)]
    found: list[Check | None] = [
        sample_ratio(counts, expected_split),
        sample_ratio_by_segment(aggregates, expected_split),
        sample_ratio_over_time(aggregates, expected_split),
        several_arms(facts.multiple_arms, counted) if facts.multiple_arms is not None else None,
        impossible_values(aggregates, metrics),
    ]
    if control.n > 1 and treatment.n > 1 and of_means:
        found += [
            variation(of_means, control, treatment),
            few_nonzero(of_means, control, treatment),
            heavy_tail(of_means, control, treatment),
            automated_traffic(of_means, control, treatment),
            balance_before(of_means, control, treatment),
            covariates_before_exposure(facts, of_means, control, treatment),
        ]
    found += [immature_units(facts, counted), late_data(facts), refunds_after_window(facts), one_currency(facts)]
    return [check for check in found if check is not None]


def _nonzero(metric: Mean | Proportion, arm: Moments) -> int:
    (column,) = metric.inputs
    return arm.tails[column].nonzero if isinstance(metric, Mean) else round(arm.means[column] * arm.n)


def _varies(metric: Metric, arm: Moments) -> bool:
    return arm.variance(metric.inputs[0]) > 0


def _p(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def _label(metric: Metric) -> str:
    return metric.label or metric.name


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    if days >= 1:
        return f"{days:.4g} day" + "s" * (days != 1)
    return f"{span / timedelta(hours=1):.3g} hours" if days >= 1 / 24 else f"{span / timedelta(minutes=1):.3g} minutes"
