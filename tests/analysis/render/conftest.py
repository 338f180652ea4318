"""A report with everything that the tables of an experiment can give."""

from typing import Any

import pytest

from analysis.metrics import shop_metrics
from analysis.report import Report, analyze
from analysis.sources import ExperimentTables


@pytest.fixture
def report(filled_shop: Any) -> Report:
    return analyze(ExperimentTables(filled_shop.engine, "ranking"), shop_metrics(), "control", "treatment")
