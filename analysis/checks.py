"""Checks that are always on: may these numbers be trusted at all?

Each returns a `Check` with a sentence for people. `fail` means that the report must not be used for a decision, `warn`
that a reader should know. Thresholds stand here, each with its reason.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal

import msgspec

from analysis.aggregates import Aggregates, Moments
from analysis.inference import Effect, compare
from analysis.metrics import Mean, Metric, Proportion
from analysis.sources.base import Facts

Status = Literal["ok", "warn", "fail"]

SRM_P = 0.001  # a check that runs on every report must almost never cry wolf (Fabijan et al. 2019)
SRM_EXPECTED = 5.0  # below this per arm the chi-square distribution is no good approximation
MULTIPLE_ARMS = 0.01  # share of units; more than a trickle means that assignment or identity is broken
FEW_NONZERO = 100  # in the smaller arm; below it every interval of a heavy-tailed mean misses more than it says
IMMATURE = 0.05  # share of units whose window is not over: their late orders are missing in both arms
ONE_UNIT = 0.2  # share of an arm's variance that a single unit may carry (a rule of thumb)
IMBALANCE_P = 0.001  # as for SRM


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
    return Check(name="currency", status="ok", sentence=f"All amounts are in {facts.currency}.")


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
                distance = (arm.tails[column].largest - arm.means[column]) ** 2
                share = min(distance / (arm.variance(column) * (arm.n - 1)), 1.0)
                shares[_label(metric)] = max(shares.get(_label(metric), 0.0), share)
    if not shares:
        return None
    heavy = [name for name, share in shares.items() if share > ONE_UNIT]
    most = max(shares.values())
    sentence = (
        f"{_names(heavy)}: a single unit carries up to {most:.0%} of an arm's variance. "
        "One order could turn the result."
        if heavy
        else f"No single unit carries more than {most:.1%} of an arm's variance."
    )
    return Check(name="heavy_tail", status="warn" if heavy else "ok", sentence=sentence, value=most, threshold=ONE_UNIT)


def balance_before(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Covariates are measured before exposure, so they must not differ between the arms."""
    p_values: dict[str, float] = {}
    for name in sorted({m.covariate for m in metrics if m.covariate}):
        effect = compare(Mean(name=name, column=name), control, treatment)
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
    metrics: Sequence[Metric],
    control: Moments,
    treatment: Moments,
    expected_split: Mapping[str, float],
) -> list[Check]:
    """All checks that apply, the most serious subject first."""
    counts = {arm: aggregates.count(arm) for arm in aggregates.arms}
    counted = sum(counts.values())
    found: list[Check | None] = [
        sample_ratio(counts, expected_split),
        several_arms(facts.multiple_arms, counted) if facts.multiple_arms is not None else None,
    ]
    if control.n > 1 and treatment.n > 1:
        found += [
            variation(metrics, control, treatment),
            few_nonzero(metrics, control, treatment),
            heavy_tail(metrics, control, treatment),
            balance_before(metrics, control, treatment),
        ]
    found += [immature_units(facts, counted), one_currency(facts)]
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
