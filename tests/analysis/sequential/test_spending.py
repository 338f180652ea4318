"""Spending functions start at 0, end at alpha, and never decrease."""

import pytest

from analysis.sequential import (
    hwang_shih_decani_spending,
    obrien_fleming_spending,
    pocock_spending,
    power_spending,
)


def test_the_spending_families_agree_where_they_meet() -> None:
    assert hwang_shih_decani_spending(0.0)(0.3, 0.05) == power_spending(1.0)(0.3, 0.05) == pytest.approx(0.015)
    for spending in (obrien_fleming_spending, pocock_spending, power_spending(3), hwang_shih_decani_spending(1.0)):
        values = [spending(t, 0.05) for t in (0.0, 0.3, 0.7, 1.0)]
        assert values == sorted(values)
        assert values[0] == 0
        assert values[-1] == pytest.approx(0.05, rel=1e-12)
