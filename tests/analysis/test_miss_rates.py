"""How often intervals miss on heavy-tailed GMV: 3 % buyers, lognormal values, most users at zero.

The sums of an arm are drawn directly: a binomial number of buyers and the sums of their values, which is what a source
would have returned. Bounds are wide enough for the random draws (20,000 experiments: 0.15 points on 5 %), and narrow
enough that the delta method fails them.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.inference import ArmEstimate, IntervalMethod, lift_interval, welch

Array = NDArray[np.float64]
EXPERIMENTS = 20_000
BUYERS = 0.03


def arms_of_gmv(
    rng: np.random.Generator, users: int, factor: float = 1.0, experiments: int = EXPERIMENTS
) -> list[ArmEstimate]:
    """One arm of many experiments."""
    buyers = rng.binomial(users, BUYERS, experiments)
    values = factor * rng.lognormal(3.5, 1.0, int(buyers.sum()))
    ends = np.cumsum(buyers)
    sums, squares = (np.diff(np.r_[0.0, np.r_[0.0, np.cumsum(v)][ends]]) for v in (values, values**2))
    means = sums / users
    variances = (squares / users - means**2) / (users - 1)
    return [ArmEstimate(users, m, m, v, v, v) for m, v in zip(means.tolist(), variances.tolist(), strict=True)]


def misses(
    control: list[ArmEstimate], treatment: list[ArmEstimate], truth: float, method: IntervalMethod
) -> tuple[float, float]:
    """Shares of experiments whose interval lies wholly above and wholly below the true lift."""
    above = below = 0
    for c, t in zip(control, treatment, strict=True):
        interval = lift_interval(c, t, method=method)
        if not interval.contains(truth):
            above += interval.low > truth
            below += interval.low <= truth
    return above / len(control), below / len(control)


@pytest.fixture(scope="module")
def ten_thousand() -> dict[str, list[ArmEstimate]]:
    rng = np.random.default_rng(20)
    factors = {"control": 1.0, "the same": 1.0, "doubled": 2.0}
    return {name: arms_of_gmv(rng, 10_000, factor) for name, factor in factors.items()}


@pytest.mark.parametrize(("treatment", "truth"), [("the same", 0.0), ("doubled", 1.0)])
def test_fieller_misses_five_percent_at_ten_thousand_users_per_arm(
    ten_thousand: dict[str, list[ArmEstimate]], treatment: str, truth: float
) -> None:
    """An A/A test, and a treatment that doubles GMV: 4 to 6 %, each tail 1.7 to 3.3 %."""
    above, below = misses(ten_thousand["control"], ten_thousand[treatment], truth, "fieller")
    assert 0.04 <= above + below <= 0.06
    assert 0.017 <= above <= 0.033
    assert 0.017 <= below <= 0.033


def test_the_delta_method_is_lopsided_where_fieller_is_not(ten_thousand: dict[str, list[ArmEstimate]]) -> None:
    above, below = misses(ten_thousand["control"], ten_thousand["the same"], 0.0, "delta")
    assert above < 0.017 or below > 0.033


def test_the_differences_interval_over_the_control_mean_misses_a_large_lift(
    ten_thousand: dict[str, list[ArmEstimate]],
) -> None:
    """Some tools do this: they treat the control's mean as known."""
    missed = 0
    for c, t in zip(ten_thousand["control"], ten_thousand["doubled"], strict=True):
        d = welch(c, t)
        missed += not d.low / c.raw <= 1.0 <= d.high / c.raw
    assert missed / EXPERIMENTS > 0.1


def test_fieller_errs_on_the_safe_side_with_thirty_buyers_per_arm() -> None:
    rng = np.random.default_rng(21)
    control, treatment = arms_of_gmv(rng, 1000), arms_of_gmv(rng, 1000)
    assert sum(misses(control, treatment, 0.0, "fieller")) <= 0.055
    assert sum(misses(control, treatment, 0.0, "delta")) > 0.08


def test_an_unequal_split_is_taken_as_it_is() -> None:
    """Nine to one, 300 buyers in the smaller arm: a little above 5 % (5.7 over many runs), where a test that takes
    equal halves for granted errs one time in four."""
    rng = np.random.default_rng(22)
    arms = arms_of_gmv(rng, 90_000, experiments=4000), arms_of_gmv(rng, 10_000, experiments=4000)
    p = np.array([welch(c, t).p for c, t in zip(*arms, strict=True)])
    assert 0.04 <= np.mean(p <= 0.05) <= 0.07
    half = 50_000
    halves = [c.variance * c.n / half + t.variance * t.n / half for c, t in zip(*arms, strict=True)]
    z = np.array([(t.raw - c.raw) / v**0.5 for c, t, v in zip(*arms, halves, strict=True)])
    assert np.mean(np.abs(z) > 1.96) > 0.2
