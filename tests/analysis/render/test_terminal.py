"""The terminal shows names as they are and never cuts them off."""

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from analysis.metrics import Mean, shop_metrics
from analysis.novelty import age_windows
from analysis.report import analyze
from analysis.sources import ExperimentTables, UserTable
from tests.analysis.render.builders import plain


def test_a_narrow_window_breaks_names_and_numbers_and_never_cuts_them_off(filled_shop: Any) -> None:
    source = ExperimentTables(filled_shop.engine, "ranking", window=timedelta(days=4))
    ages = age_windows(timedelta(days=4), timedelta(days=2))
    assert "…" not in plain(analyze(source, shop_metrics(), "control", "treatment", ages=ages), width=50)


def test_rich_markup_in_a_name_is_shown_not_obeyed() -> None:
    data = pd.DataFrame({"variant": ["[red]a", "[/x]b"] * 50, "x": np.arange(100.0)})
    report = analyze(UserTable(data), [Mean(name="x", label="[bold]x", column="x")], "[red]a", "[/x]b")
    shown = plain(report)
    assert "[red]a" in shown
    assert "[/x]b" in shown
    assert "[bold]x" in shown
