"""A view's status for tests."""

from __future__ import annotations

from feature_repo.monitoring.watch import Norms, ViewStatus
from tests.feature_repo.builders import NOON

STATUS = ViewStatus(
    view="v",
    parts=3,
    bytes=99,
    history_rows=7,
    products=5,
    deleted=1,
    online_rows=6,
    newest_event=NOON,
    age_s=3600.0,
    age_p50_s=None,
    age_p90_s=None,
    age_p99_s=None,
    sampled=5,
    empty_rates={"title": 0.25},
    norms=Norms(smallest=0.99, mean=1.0, largest=1.002, not_finite=2),
    schema_drift=[],
)
