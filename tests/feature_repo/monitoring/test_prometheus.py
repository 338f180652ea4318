from __future__ import annotations

import numpy as np

from feature_repo.monitoring.canary import drift
from feature_repo.monitoring.prometheus import to_prometheus
from tests.feature_repo.monitoring.builders import STATUS


def test_prometheus_text_has_each_known_figure_once_per_view() -> None:
    text = to_prometheus([STATUS])
    assert 'sagelift_features_age_s{view="v"} 3600.0\n' in text
    assert 'sagelift_features_empty_rate{view="v",feature="title"} 0.25\n' in text
    assert "age_p50_s{" not in text
    assert 'sagelift_features_vector_length{view="v",of="largest"} 1.002\n' in text
    assert 'sagelift_features_vectors_not_finite{view="v"} 2\n' in text
    assert 'sagelift_features_schema_drift{view="v"} 0\n' in text
    for line in text.splitlines():
        assert line.startswith(("# HELP sagelift_features_", "# TYPE sagelift_features_", "sagelift_features_"))


def test_prometheus_has_the_canary_by_both_versions() -> None:
    vectors = {f"p{n}": row for n, row in enumerate(np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32))}
    text = to_prometheus([], drift(vectors, vectors, old="m1", new="m2", asked=20))
    assert 'sagelift_features_canary_overlap{old="m1",new="m2"} 1\n' in text
    assert 'sagelift_features_canary_products{old="m1",new="m2"} 20\n' in text
