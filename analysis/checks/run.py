"""All checks of a report, in order."""

from collections.abc import Mapping, Sequence

from analysis.aggregates import Aggregates, Moments
from analysis.checks.check import Check
from analysis.checks.data import (
    immature_units,
    impossible_values,
    late_data,
    one_currency,
    refunds_after_window,
    units_in_several_arms,
)
from analysis.checks.metrics import (
    automated_traffic,
    balance_before_exposure,
    covariates_before_exposure,
    few_buyers,
    heavy_tail,
    variance,
)
from analysis.checks.sample_ratio import sample_ratio, sample_ratio_by_segment, sample_ratio_over_time
from analysis.metrics import Declared, Metric
from analysis.sources.base import Facts


def run_checks(
    aggregates: Aggregates,
    facts: Facts,
    metrics: Sequence[Declared],
    control: Moments,
    treatment: Moments,
    expected_split: Mapping[str, float],
) -> list[Check]:
    """Run all checks that apply, the most serious subject first.

    Args:
        aggregates: Aggregates of all arms.
        facts: Facts about the data.
        metrics: Metrics of the report.
        control: Moments of the control.
        treatment: Moments of the treatment.
        expected_split: Weight of each planned arm, on any scale.
    """
    counts = {arm: aggregates.count(arm) for arm in aggregates.arms}
    counted = sum(counts.values())
    of_means = [metric for metric in metrics if isinstance(metric, Metric)]
    checks: list[Check | None] = [
        sample_ratio(counts, expected_split),
        sample_ratio_by_segment(aggregates, expected_split),
        sample_ratio_over_time(aggregates, expected_split),
        units_in_several_arms(facts.multiple_arms, counted) if facts.multiple_arms is not None else None,
        impossible_values(aggregates, metrics),
    ]
    if control.n > 1 and treatment.n > 1 and of_means:
        checks += [
            variance(of_means, control, treatment),
            few_buyers(of_means, control, treatment),
            heavy_tail(of_means, control, treatment),
            automated_traffic(of_means, control, treatment),
            balance_before_exposure(of_means, control, treatment),
            covariates_before_exposure(facts, of_means, control, treatment),
        ]
    checks += [immature_units(facts, counted), late_data(facts), refunds_after_window(facts), one_currency(facts)]
    return [check for check in checks if check is not None]
