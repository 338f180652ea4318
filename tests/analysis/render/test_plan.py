"""A plan as JSON, Markdown and table."""

import io

import msgspec
import pytest
from rich.console import Console

from analysis.metrics import Mean, Proportion
from analysis.plan import Plan, plan
from analysis.render.plan import cost, summary, to_json, to_markdown, to_terminal
from analysis.sources import UserTable
from tests.analysis.reports import users

METRICS = [Mean(name="gmv|net", column="gmv"), Proportion(name="buyers", column="clicks")]


def planned(**options: object) -> Plan:
    return plan(UserTable(users(), name="history"), METRICS, [0.05], units=9000, **options)  # type: ignore[arg-type]


def tables(markdown: str) -> list[list[str]]:
    """The lines of each table."""
    parts = [part.splitlines() for part in markdown.split("\n\n")]
    return [part for part in parts if part[0].startswith("|")]


def test_the_summary_says_what_the_plan_assumes() -> None:
    assert summary(planned()) == (
        "From 2,000 units of history: two-sided test at 0.05, power 80%, 50% of the units treated. Numbers of units "
        "are for both arms together, and for a single analysis at the end."
    )
    assert "for 3 looks, if the experiment runs to the end" in summary(planned(looks=3))


def test_markdown_has_a_row_per_metric_whose_name_cannot_end_a_cell() -> None:
    (table,) = tables(to_markdown(planned()))
    assert [line.split(" | ")[0] for line in table[2:]] == ["| gmv\\|net", "| buyers"]
    assert "Units for +5.0% | Detectable with 9,000 |" in table[0]


def test_looks_have_a_table_with_a_row_each() -> None:
    result = planned(looks=4)
    assert result.design is not None
    _, looks = tables(to_markdown(result))
    assert [line.split("|")[2].strip() for line in looks[2:]] == ["25%", "50%", "75%", "100%"]
    assert cost(result.design) in to_markdown(result)


@pytest.mark.parametrize("options", [{}, {"looks": 3}])
def test_the_terminal_shows_what_markdown_shows(options: dict[str, int]) -> None:
    result = planned(**options)
    console = Console(file=io.StringIO(), width=200)
    console.print(to_terminal(result))
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    cells = [cell.strip() for table in tables(to_markdown(result)) for line in table[2:] for cell in line.split(" | ")]
    assert len(cells) > 8
    assert all(cell.strip("| ").replace("\\|", "|") in shown for cell in cells)


def test_json_is_the_plan() -> None:
    result = planned(looks=2)
    assert msgspec.json.decode(to_json(result), type=Plan) == result
