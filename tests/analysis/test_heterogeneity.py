"""Effects by segment: the interaction test equals that of statsmodels, and the correction keeps its error rate."""

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from analysis.aggregates import Moments
from analysis.errors import ArmError
from analysis.heterogeneity import by_segment
from analysis.inference import Effect, Undefined
from analysis.metrics import Mean
from analysis.sample_moments import sample_moments

MEAN = Mean(name="y", column="y")
Segments = dict[str, tuple[Moments, Moments]]


def moments(values: object) -> Moments:
    return sample_moments(MEAN.needs, {"y": values})  # type: ignore[dict-item]


def segments(rng: np.random.Generator, lifts: dict[str, float], n: int = 300) -> Segments:
    return {
        name: (moments(rng.gamma(2, 2, n)), moments((1 + lift) * rng.gamma(2, 2, n))) for name, lift in lifts.items()
    }


def test_the_interaction_test_is_the_wald_test_of_least_squares_with_hc2() -> None:
    rng = np.random.default_rng(1)
    frames = [(s, a, rng.gamma(2, 1 + s + a * s, 40 + 13 * s + 7 * a)) for s in range(3) for a in (0, 1)]
    y = np.concatenate([v for *_, v in frames])
    segment, arm = (np.concatenate([np.full(len(f[2]), f[k]) for f in frames]) for k in (0, 1))
    cells = [(segment == s).astype(float) for s in range(3)]
    design = np.column_stack([*cells, *(cell * arm for cell in cells)])
    fit = sm.OLS(y, design).fit(cov_type="HC2")
    wald = fit.wald_test(np.array([[0, 0, 0, 1, -1, 0], [0, 0, 0, 1, 0, -1]]), use_f=False, scalar=True)
    parts = {str(s): tuple(moments(v) for t, _, v in frames if t == s) for s in range(3)}
    ours = by_segment(MEAN, parts, scale="difference").interaction  # type: ignore[arg-type]
    assert ours is not None
    assert (ours.statistic, ours.p, ours.df) == pytest.approx((float(wald.statistic), float(wald.pvalue), 2), rel=1e-9)


def test_the_p_values_are_corrected_for_the_number_of_segments() -> None:
    result = by_segment(MEAN, segments(np.random.default_rng(2), {"a": 0.1, "b": 0.0, "c": 0.2, "d": 0.05}))
    plain = [s.effect.difference.p for s in result.segments if isinstance(s.effect, Effect)]
    assert [s.p_adjusted for s in result.segments] == pytest.approx(list(multipletests(plain, method="holm")[1]))


def test_one_lift_for_all_is_no_interaction_and_two_are() -> None:
    rng = np.random.default_rng(3)
    p = [
        result.p
        for _ in range(500)
        if (result := by_segment(MEAN, segments(rng, {"a": 0.2, "b": 0.2, "c": 0.2})).interaction)
    ]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)
    apart = by_segment(MEAN, segments(rng, {"a": 0.0, "b": 0.6})).interaction
    assert apart is not None
    assert apart.p < 0.001


def test_segments_without_effect_yield_few_false_ones() -> None:
    """Ten segments without an effect: uncorrected, four of ten experiments have a significant one."""
    rng = np.random.default_rng(4)
    shining = corrected = 0
    for _ in range(200):
        result = by_segment(MEAN, segments(rng, dict.fromkeys("abcdefghij", 0.0), n=60)).segments
        shining += any(s.effect.difference.p < 0.05 for s in result if isinstance(s.effect, Effect))
        corrected += any(s.p_adjusted is not None and s.p_adjusted < 0.05 for s in result)
    assert shining / 200 > 0.3
    assert corrected / 200 < 0.1


def test_a_multiplied_arm_has_one_lift_and_many_differences() -> None:
    rng = np.random.default_rng(5)
    parts = {
        name: (moments(scale * rng.gamma(2, 2, 2000)), moments(1.3 * scale * rng.gamma(2, 2, 2000)))
        for name, scale in (("small", 1.0), ("large", 10.0))
    }
    lift, difference = (by_segment(MEAN, parts, scale=s).interaction for s in ("lift", "difference"))  # type: ignore[arg-type]
    assert lift is not None
    assert difference is not None
    assert lift.p > 0.01 > difference.p


def test_the_order_and_the_names_of_segments_change_nothing() -> None:
    parts = segments(np.random.default_rng(6), {"a": 0.1, "b": 0.3, "c": 0.0})
    assert by_segment(MEAN, dict(reversed(parts.items()))) == by_segment(MEAN, parts)
    assert by_segment(MEAN, parts).segment("b").segment == "b"


def test_a_segment_without_variance_is_shown_and_not_counted() -> None:
    parts = segments(np.random.default_rng(7), {"a": 0.2, "b": 0.2})
    more = by_segment(MEAN, {**parts, "flat": (moments(np.ones(9)), moments(np.ones(9)))})
    assert isinstance(more.segment("flat").effect, Undefined)
    assert more.segment("flat").p_adjusted is None
    less = by_segment(MEAN, parts)
    assert more.interaction == less.interaction
    assert more.segment("a").p_adjusted == less.segment("a").p_adjusted
    assert by_segment(MEAN, {"a": parts["a"]}).interaction is None


def test_no_segments_are_refused() -> None:
    with pytest.raises(ArmError, match="no segments"):
        by_segment(MEAN, {})
    with pytest.raises(LookupError, match="no segment 'z'"):
        by_segment(MEAN, segments(np.random.default_rng(8), {"a": 0.0})).segment("z")
