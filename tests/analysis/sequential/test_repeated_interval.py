"""Repeated intervals reject exactly where the statistic crosses."""

from analysis.inference import ArmEstimate, Effect, effect_of
from analysis.sequential import (
    repeated_interval,
)


def an_effect(n: int = 1000, lift: float = 0.1, variance: float = 0.001, control: float = 1.0) -> Effect:
    arms = [ArmEstimate(n, v, v, variance, variance, variance) for v in (control, control * (1 + lift))]
    result = effect_of(*arms)
    assert isinstance(result, Effect)
    return result


def test_a_repeated_interval_rejects_where_the_statistic_crosses() -> None:
    effect = an_effect(lift=0.1)
    z = effect.difference.value / effect.difference.standard_error
    assert repeated_interval(effect, 0.999 * z).rejects
    assert not repeated_interval(effect, 1.001 * z).rejects
