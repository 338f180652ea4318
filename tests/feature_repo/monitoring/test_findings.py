from __future__ import annotations

from datetime import timedelta

import pytest

from feature_repo.monitoring.findings import Thresholds, findings
from tests.feature_repo.monitoring.builders import STATUS


@pytest.mark.parametrize(
    ("limits", "sentences"),
    [
        (Thresholds(), []),
        (Thresholds(max_age=timedelta(hours=1)), []),
        (Thresholds(max_age=timedelta(minutes=59)), ["v: the newest event is 1:00:00 old, over 0:59:00"]),
        (Thresholds(max_empty={"title": 0.25, "brand": 0.0}), []),
        (Thresholds(max_empty={"title": 0.2}), ["v: title is empty in 25.0% of the products, over 20.0%"]),
        (Thresholds(max_empty={"a feature of another view": -1.0}), []),
        (Thresholds(norm_tolerance=0.02), ["v: 2 vectors have NaN or infinity"]),
    ],
)
def test_limits_are_passed_only_beyond_them(limits: Thresholds, sentences: list[str]) -> None:
    assert findings([STATUS], limits) == sentences
