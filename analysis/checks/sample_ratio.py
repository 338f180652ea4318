"""Sample ratio mismatch (SRM): is the split between the arms as planned?"""

from collections.abc import Mapping
from math import exp, fsum, lgamma, log

from analysis.aggregates import Aggregates
from analysis.checks.check import Check, Status, check_each, joined, p_text

SRM_P = 0.001  # a check that runs on every report must almost never raise a false alarm (Fabijan et al. 2019)
SRM_EXPECTED = 5.0  # below this number of expected units per arm, the chi-square approximation is poor
SRM_PRIOR = 100.0  # weight of the planned split in the always-valid test; most sensitive to deviations of a few percent


def sample_ratio(counts: Mapping[str, int], expected: Mapping[str, float]) -> Check:
    """Test the units per arm against the planned split, by Pearson's chi-square.

    A planned arm without units fails, and so does an arm that was not planned.

    Args:
        counts: Units of each arm.
        expected: Weight of each planned arm, above 0, on any scale.
    """

    def result(status: Status, sentence: str) -> Check:
        return Check(name="sample_ratio", status=status, sentence=sentence, value=None, threshold=SRM_P)

    empty = sorted(arm for arm in expected if not counts.get(arm))
    if empty:
        return result(
            "fail",
            f"The expected split names {joined(empty)}, but the data has no units there. Find out why it has none, or "
            "remove it from the split.",
        )
    unplanned = sorted(arm for arm, count in counts.items() if count and arm not in expected)
    if unplanned:
        return result(
            "fail",
            f"The data has units in {joined(unplanned)}, which the expected split does not name. Add them to "
            "the split, or remove their units from the data.",
        )
    total, weight = sum(counts[arm] for arm in expected), sum(expected.values())
    planned_units = {arm: total * share / weight for arm, share in expected.items()}
    if min(planned_units.values()) < SRM_EXPECTED:
        return result("warn", f"There are too few units ({total:,}) to test whether the split is as planned.")
    arms = sorted(expected)
    statistic = sum((counts[arm] - planned_units[arm]) ** 2 / planned_units[arm] for arm in arms)
    p = chi_square_p(statistic, len(expected) - 1)
    return _tested(counts, {arm: expected[arm] / weight for arm in arms}, p)


def _tested(counts: Mapping[str, int], shares: Mapping[str, float], p: float) -> Check:
    """Word the result of the chi-square test. shares: planned shares by arm, sorted."""
    observed = " : ".join(f"{counts[arm]:,}" for arm in shares)
    equal = len(set(shares.values())) == 1
    planned = "equal shares" if equal else " : ".join(f"{share:.4g}" for share in shares.values())
    split = f"{' : '.join(shares)} is {observed}, planned {planned} ({p_text(p)})."
    if p < SRM_P:
        sentence = f"Sample ratio mismatch: {split} The arms are not comparable. Find the cause first."
        if equal:
            sentence += " If the plan was another split, state it (--split control=90%,treatment=10%)."
        return Check(name="sample_ratio", status="fail", sentence=sentence, value=p, threshold=SRM_P)
    sentence = f"The split is as planned: {split}"
    return Check(name="sample_ratio", status="ok", sentence=sentence, value=p, threshold=SRM_P)


def chi_square_p(statistic: float, df: int) -> float:
    """Return the upper tail probability of a chi-square statistic."""
    from scipy.special import chdtrc

    return float(chdtrc(df, statistic))


def sample_ratio_by_segment(aggregates: Aggregates, expected: Mapping[str, float]) -> Check | None:
    """Test the split in each segment, with Bonferroni's correction; None below two segments.

    A mismatch may hide in one browser or country.
    """
    segments = aggregates.segments
    if len(segments) < 2:
        return None
    p_values: dict[str, float] = {}
    for segment in segments:
        counts = {arm: aggregates.count(arm, segment) for arm in expected}
        check = sample_ratio(counts, expected)
        if check.value is not None:
            p_values[segment] = min(check.value * len(segments), 1.0)
        elif sum(counts.values()) >= SRM_EXPECTED * sum(expected.values()) / min(expected.values()):
            p_values[segment] = 0.0  # an arm has no units although some are expected
    return check_each(
        "sample_ratio_by_segment",
        p_values,
        SRM_P,
        low_is_bad=True,
        status="fail",
        finding="Sample ratio mismatch in {names}: the arms are not comparable there, and so not as a whole. "
        "Find out what differs there: tracking, redirects, bots.",
        ok=f"The split is as planned in each of {len(p_values)} segments (smallest corrected {{p}}).",
    )


def sample_ratio_over_time(aggregates: Aggregates, expected: Mapping[str, float]) -> Check | None:
    """Test the split at the end of each interval of time, with an always-valid p-value; None below two intervals.

    If the split is right, the Bayes factor of a Dirichlet prior around the planned split against the planned split is a
    martingale. It ever exceeds 1 / a with probability a at most (Lindon, Malek 2022).
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
        f"At some time the split was not as planned (always-valid {p_text(p)}). Find out what happened at that time."
        if p < SRM_P
        else f"The split was as planned at all times (always-valid {p_text(p)})."
    )
    return Check(
        name="sample_ratio_over_time",
        status="fail" if p < SRM_P else "ok",
        sentence=sentence,
        value=p,
        threshold=SRM_P,
    )


def log_bayes_factor(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the log of P(counts | Dirichlet(SRM_PRIOR * shares)) / P(counts | shares).

    Args:
        counts: Units of each arm.
        shares: Planned share of each arm; they add up to 1.
    """
    total = sum(counts.values())
    terms = [lgamma(SRM_PRIOR) - lgamma(SRM_PRIOR + total)]
    for arm, share in shares.items():
        prior = SRM_PRIOR * share
        terms.append(lgamma(prior + counts[arm]) - lgamma(prior) - counts[arm] * log(share))
    return fsum(terms)
