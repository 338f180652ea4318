"""Every face of a report says the same, safely, and stands alone."""

import io
import re
from datetime import date, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.bayes import Prior
from analysis.columns import Cap, Filter
from analysis.currencies import Rates
from analysis.metrics import Mean, shop_metrics
from analysis.novelty import age_windows
from analysis.render import wording
from analysis.render.charts import Axis, round_step
from analysis.render.html import to_html, write_html
from analysis.render.json import from_json, to_json
from analysis.render.markdown import to_markdown
from analysis.render.schema import PUBLISHED, json_schema, text
from analysis.render.terminal import to_terminal
from analysis.report import Report, analyze
from analysis.sequential import Design
from analysis.sources import ExperimentTables, UserTable


@pytest.fixture
def report(filled_shop: Any) -> Report:
    return analyze(ExperimentTables(filled_shop.engine, "ranking"), shop_metrics(), "control", "treatment")


def evil_report() -> Report:
    """Labels and names that try to leave their place."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"variant": rng.choice(["<b>a", "b|\"'"], 400), "x": rng.normal(5, 1, 400)})
    metric = Mean(name="x", label="<script>alert(1)</script>", column="x", description="a & b")
    return analyze(UserTable(data), [metric], "<b>a", "b|\"'", title="<img src=x>")


def plain(report: Report, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(to_terminal(report))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_json_comes_back_as_it_went_and_its_schema_names_its_fields(report: Report) -> None:
    text = to_json(report)
    assert from_json(text) == report
    document, kinds = msgspec.json.decode(text), json_schema()["$defs"]
    for kind, part in (("Report", document), ("MetricResult", document["metrics"][0]), ("Data", document["data"])):
        assert set(kinds[kind]["properties"]) == set(kinds[kind]["required"]) == set(part)
    with pytest.raises(msgspec.ValidationError):
        from_json(text.replace('"schema_version": 1', '"schema_version": "one"'))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_the_one_of_the_code(name: str) -> None:
    """If it is not: python -m analysis.render.schema docs/reference/schemas"""
    published = Path(__file__).parents[3] / "docs" / "reference" / "schemas" / name
    assert published.read_text(encoding="utf-8") == text(name)


def test_what_was_asked_for_is_said_on_every_face() -> None:
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


def test_the_confidence_sequence_is_drawn_where_a_size_was_planned(filled_shop: Any, report: Report) -> None:
    source = ExperimentTables(filled_shop.engine, "ranking")
    planned = analyze(source, shop_metrics(), "control", "treatment", planned_units=5000)
    pictures = to_html(planned).count('class="sequence"')
    assert pictures == 2 * sum(result.role == "goal" for result in planned.metrics)
    assert 'class="sequence"' not in to_html(report)


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


def test_a_narrow_window_breaks_names_and_numbers_and_never_cuts_them_off(filled_shop: Any) -> None:
    source = ExperimentTables(filled_shop.engine, "ranking", window=timedelta(days=4))
    ages = age_windows(timedelta(days=4), timedelta(days=2))
    assert "…" not in plain(analyze(source, shop_metrics(), "control", "treatment", ages=ages), width=50)


def test_a_lift_that_cuped_turns_around_says_what_it_was_without() -> None:
    """The row shows the raw values of the arms, which then contradict the lift beside them."""
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


def test_the_stable_names_are_there(report: Report) -> None:
    document = msgspec.json.decode(to_json(report))
    assert document["schema_version"] == 1
    row = document["metrics"][0]
    assert {"name", "control", "treatment", "lift", "low", "high", "p", "p_adjusted", "difference", "method"} <= set(
        row
    )
    assert {"conclusion", "reasons"} == set(document["verdict"])
    assert {"sql", "cut_off", "config_versions", "currency", "enrolment"} <= set(document["data"])


def test_every_face_shows_every_metric_check_and_the_verdict(report: Report) -> None:
    for face in (plain(report), to_markdown(report), to_html(report)):
        assert wording.CONCLUSIONS[report.verdict.conclusion].lower() in face.lower()
        for result in report.metrics:
            assert result.label in face
            assert wording.lift(result.lift) in face
        for check in report.checks:
            assert wording.check_name(check.name) in face
        assert wording.when(report.data.cut_off) in face


def test_the_page_stands_alone_and_is_described_for_those_who_cannot_see_it(report: Report) -> None:
    page = to_html(report)
    assert not re.search(r"""(src|href)\s*=|url\(|@import|<script|https?://""", page)
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(pictures) == 1 + len(report.metrics) + 2 + 1  # axis, intervals, two goals over time, enrolment
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert 'aria-hidden="true"' in picture or ('role="img"' in picture and "<title>" in picture)
        assert "nan" not in picture
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 100_000


def test_the_sql_stands_on_the_page_as_it_ran(report: Report) -> None:
    assert report.data.sql[0] in unescape(to_html(report))
    assert report.data.sql[0] in to_markdown(report)


def test_names_from_data_are_escaped_everywhere() -> None:
    report = evil_report()
    page = to_html(report)
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>a" not in page
    assert "&lt;script&gt;" in page
    table = [line for line in to_markdown(report).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<script" not in to_markdown(report).split("```")[0]
    assert "<script>" in plain(report)  # a terminal shows it as it is


def test_rich_markup_in_a_name_is_shown_not_obeyed() -> None:
    data = pd.DataFrame({"variant": ["[red]a", "[/x]b"] * 50, "x": np.arange(100.0)})
    report = analyze(UserTable(data), [Mean(name="x", label="[bold]x", column="x")], "[red]a", "[/x]b")
    shown = plain(report)
    assert "[red]a" in shown
    assert "[/x]b" in shown
    assert "[bold]x" in shown


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


def test_a_page_is_written_whole_or_not_at_all(report: Report, tmp_path: Path) -> None:
    path = write_html(report, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == to_html(report)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_html(report, tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "taken"]


def test_a_report_without_days_has_no_empty_pictures() -> None:
    page = to_html(evil_report())
    assert "Over time" not in page
    assert 'class="chart"' not in page


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


def test_axes_have_round_ticks_inside_their_range() -> None:
    assert [round_step(x) for x in (0.03, 0.21, 1.0, 6.0)] == pytest.approx([0.05, 0.25, 1, 10])
    for low, high in ((-0.3, 0.5), (0, 1234), (-0.0012, 0.0031)):
        axis = Axis(low, high, 0, 100)
        ticks = axis.ticks()
        assert 3 <= len(ticks) <= 8
        assert all(low <= tick <= high for tick in ticks)
        assert axis(low) == 0
        assert axis(high) == 100


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
