"""The charts of the page: axes, confidence sequences, ages, open intervals."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.metrics import Mean, shop_metrics
from analysis.render.charts import Axis, round_step
from analysis.render.html import to_html
from analysis.report import Report, analyze
from analysis.sources import ExperimentTables, UserTable
from tests.analysis.render.builders import plain


def test_the_confidence_sequence_is_drawn_where_a_size_was_planned(filled_shop: Any, report: Report) -> None:
    source = ExperimentTables(filled_shop.engine, "ranking")
    planned = analyze(source, shop_metrics(), "control", "treatment", planned_units=5000)
    pictures = to_html(planned).count('class="sequence"')
    assert pictures == 2 * sum(result.role == "goal" for result in planned.metrics)
    assert 'class="sequence"' not in to_html(report)


def test_an_unbounded_interval_is_drawn_open_and_called_so() -> None:
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"variant": rng.choice(["a", "b"], 400), "x": rng.normal(0.001, 1, 400)})
    report = analyze(UserTable(data), [Mean(name="x", column="x")], *_by_mean(data))
    page = to_html(report)
    assert report.metrics[0].interval != "bounded"
    assert "unbounded" in page
    assert 'class="open-ended"' in page
    assert "unbounded" in plain(report)


def _by_mean(data: pd.DataFrame) -> tuple[str, str]:
    """The arm with the larger mean as control, so that a lift exists."""
    means = data.groupby("variant").x.mean()
    return ("a", "b") if means["a"] > means["b"] else ("b", "a")


def test_axes_have_round_ticks_inside_their_range() -> None:
    assert [round_step(x) for x in (0.03, 0.21, 1.0, 6.0)] == pytest.approx([0.05, 0.25, 1, 10])
    for low, high in ((-0.3, 0.5), (0, 1234), (-0.0012, 0.0031)):
        axis = Axis(low, high, 0, 100)
        ticks = axis.ticks()
        assert 3 <= len(ticks) <= 8
        assert all(low <= tick <= high for tick in ticks)
        assert axis(low) == 0
        assert axis(high) == 100
