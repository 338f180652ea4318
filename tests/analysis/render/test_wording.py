"""Numbers and notes are worded alike in every output."""

import re
from datetime import date, timedelta
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.bayes import Prior
from analysis.columns import Cap, Filter
from analysis.currencies import Rates
from analysis.metrics import Mean, shop_metrics
from analysis.novelty import age_windows
from analysis.render import wording
from analysis.render.html import to_html
from analysis.render.json import from_json, to_json
from analysis.render.markdown import to_markdown
from analysis.report import Report, analyze
from analysis.sequential import Design
from analysis.sources import ExperimentTables, UserTable
from tests.analysis.render.builders import plain


def test_every_format_shows_the_requested_options() -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"variant": rng.choice(["a", "b"], 3000), "country": rng.choice(["de", "fr"], 3000)})
    data["x"] = rng.gamma(4, 1, 3000)
    metrics = [Mean(name="x", column="x"), Mean(name="y", column="x", role="guardrail", margin=0.1)]
    source = UserTable(data, segment="country")
    report = analyze(source, metrics, "a", "b", equivalence=0.1, prior=Prior(0.0, 0.05), resamples=200, seed=1)
    html = unescape(to_html(report))
    for face in (" ".join(plain(report, width=4000).split()), to_markdown(report), html):
        assert "x: a lift within ±10 % is shown (p " in face
        assert "x: under a normal prior of 0 ± 5 %, the lift is" in face
        assert "x: 200 resamples, without CUPED:" in face
        assert "y: a loss of 10 % is ruled out (p " in face
        assert "x: no sign that the lift differs between segments (p = " in face


def test_the_lift_by_time_since_exposure_is_shown_by_every_face_and_drawn_for_the_goals(filled_shop: Any) -> None:
    source = ExperimentTables(filled_shop.engine, "ranking", window=timedelta(days=4))
    ages = age_windows(timedelta(days=4), timedelta(days=1))
    report = analyze(source, shop_metrics(), "control", "treatment", ages=ages)
    clicks = report.metric("clicks_per_user")
    page = to_html(report)
    for face in (plain(report), to_markdown(report), page):
        assert "day 0 to 1" in face
        assert wording.bounds(clicks.ages[1].low, clicks.ages[1].high) in face
        assert "with time since exposure" in " ".join(face.split())
    bounded = [age for r in report.metrics if r.role == "goal" for age in r.ages if age.low is not None]
    assert page.count('class="whisker"') == len(bounded) >= 4
    for dot in re.findall(r'<circle class="dot treatment"[^>]*cy="([\d.-]+)"', page):
        assert 0 <= float(dot) <= 240  # the first days, where novelty is, are inside the picture


def test_a_look_of_a_design_is_said_by_every_face_and_colours_only_what_crossed(report: Report) -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"variant": rng.choice(["a", "b"], 4000)})
    data["x"] = rng.gamma(4, 1, 4000) * np.where(data.variant == "b", 1.05, 1)
    metrics = [Mean(name="x", column="x"), Mean(name="y", column="x", role="guardrail", margin=0.1)]
    early, late = (analyze(UserTable(data), metrics, "a", "b", design=Design(planned)) for planned in (20_000, 4001))
    assert wording.effect(early.metric("x"), early) == "open"
    assert wording.effect(late.metric("x"), late) == "good"
    for face in (" ".join(plain(early, width=4000).split()), to_markdown(early), unescape(to_html(early))):
        assert "Look 1 of a group-sequential design (obrien-fleming spending): 4,000 of 20,000 planned units." in face
        assert "x: the boundary is not crossed: p" in face
        assert "planned in advance" not in face
    assert "x: the boundary is crossed" in to_markdown(late)
    assert 'class="margin"' in to_html(late)
    assert 'class="margin"' not in to_html(report)


def test_until_the_planned_size_only_what_the_sequence_shows_is_coloured() -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"variant": rng.choice(["a", "b"], 4000)})
    data["x"] = rng.gamma(4, 1, 4000) * np.where(data.variant == "b", 1.05, 1)
    fixed, peeking = (
        analyze(UserTable(data), [Mean(name="x", column="x")], "a", "b", planned_units=size) for size in (None, 20_000)
    )
    assert wording.effect(fixed.metric("x"), fixed) == "good"
    assert wording.effect(peeking.metric("x"), peeking) == "open"
    assert peeking.verdict.conclusion == "keep running"


def test_a_lift_that_cuped_turns_around_says_what_it_was_without() -> None:
    """The row shows unadjusted values, which contradict the adjusted lift, so a note must explain it."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"variant": ["a", "b"] * 500, "pre": rng.gamma(4, 1, 1000)})
    data["pre"] += np.where(data.variant == "b", 0.4, 0.0)
    data["x"] = data.pre * np.where(data.variant == "b", 0.97, 1.0) + rng.normal(0, 0.1, 1000)
    report = analyze(UserTable(data), [Mean(name="x", column="x", covariate="pre")], "a", "b")
    x = report.metric("x")
    assert x.control is not None
    assert x.treatment is not None
    assert x.lift is not None
    assert x.treatment > x.control
    assert x.lift < 0
    assert x.unadjusted is not None
    text = f"x: without CUPED the lift is {wording.lift(x.unadjusted.lift)}"
    for face in (" ".join(plain(report, width=4000).split()), to_markdown(report), unescape(to_html(report))):
        assert text in face
    usual = analyze(UserTable(data), [Mean(name="x", column="x")], "a", "b")
    assert "without CUPED" not in to_markdown(usual)


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        (0, 2, "day 0 to 2"),
        (0.25, 0.5, "hour 6 to 12"),
        (10 / 1440, 20 / 1440, "minute 10 to 20"),
        (12.5, 14, "day 12.5 to 14"),
    ],
)
def test_an_age_is_said_in_the_unit_that_suits_it(start: float, end: float, text: str) -> None:
    assert wording.age(start, end) == text


def test_every_face_shows_every_metric_check_and_the_verdict(report: Report) -> None:
    for face in (plain(report), to_markdown(report), to_html(report)):
        assert wording.CONCLUSIONS[report.verdict.conclusion].lower() in face.lower()
        for result in report.metrics:
            assert result.label in face
            assert wording.lift(result.lift) in face
        for check in report.checks:
            assert wording.check_name(check.name) in face
        assert wording.when(report.data.cut_off) in face


@pytest.mark.parametrize(
    ("value", "unit", "currency", "shown"),
    [
        (123456.0, "money", "EUR", "1,234.56 EUR"),
        (1234.0, "money", "JPY", "1,234.0 JPY"),
        (-1500.0, "money", "KWD", "−1.500 KWD"),
        (0.1234, "share", None, "12.34%"),
        (2.07395, "count", None, "2.074"),
        (1234567.0, "count", None, "1,234,567.00"),
        (None, "count", None, "–"),
    ],
)
def test_quantities_are_shown_in_their_unit(value: float | None, unit: Any, currency: str | None, shown: str) -> None:
    assert wording.quantity(value, unit, currency) == shown


def test_segments_caps_margins_rates_and_filters_are_shown_by_every_face() -> None:
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"variant": rng.choice(["a", "b"], 2000), "x": rng.lognormal(8, 1, 2000)})
    data["country"], data["currency"] = rng.choice(["<de>", "f|r"], 2000), rng.choice(["EUR", "USD"], 2000)
    metrics = [
        Mean(name="x", label="Value", column="x", unit="money", cap=Cap(upper_quantile=0.9)),
        Mean(name="guard", label="Guard", column="x", role="guardrail", margin=0.5),
    ]
    source = UserTable(
        data,
        segment="country",
        where=(Filter("x", ">", 10),),
        currency_column="currency",
        rates=Rates("EUR", {"USD": 0.9}, date(2026, 6, 1), "ECB"),
        money=("x",),
    )
    made = analyze(source, metrics, "a", "b", planned_units=5000)
    assert len(made.data.sql) == 3  # the aggregates, and for the cap a count and its quantile
    for face in (plain(made, 400), to_markdown(made), to_html(made)):
        shown = unescape(face)
        assert "Value is capped (<= p90): at most" in shown
        assert "Guard: a loss of 50 % is ruled out" in shown
        assert "Rates of 2026-06-01 (ECB): 1 USD = 0.9 EUR." in shown
        assert "Only units with x > 10" in shown
        assert "Until 5,000 units are enrolled" in shown
        assert "country" in shown
        assert "<de>" in shown
        assert "Adjusted p" in shown
    assert "<de>" not in to_html(made)
    assert "f\\|r" in to_markdown(made)
    assert from_json(to_json(made)) == made
