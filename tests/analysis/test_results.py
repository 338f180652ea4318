"""The parts of a report are found by name, and their fields keep their names."""

import msgspec
import pytest

from analysis import results
from analysis.report import analyze
from analysis.results import Report
from analysis.sources import UserTable
from tests.analysis.reports import GMV, users


@pytest.fixture(scope="module")
def report() -> Report:
    return analyze(UserTable(users()), [GMV], "a", "b")


def test_metrics_and_checks_are_found_by_name(report: Report) -> None:
    assert report.metric("gmv") is report.metrics[0]
    assert report.check("sample_ratio").name == "sample_ratio"


def test_an_unknown_name_is_an_error_with_the_known_names(report: Report) -> None:
    with pytest.raises(LookupError, match="no metric 'clicks'; it has gmv"):
        report.metric("clicks")
    with pytest.raises(LookupError, match="no check 'none'; it has sample_ratio"):
        report.check("none")


def test_every_field_of_a_part_is_documented_under_its_name() -> None:
    """The published JSON Schema takes the descriptions from the docstrings."""
    parts = [
        part
        for part in vars(results).values()
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and part.__module__ == results.__name__
    ]
    assert len(parts) > 15
    for part in parts:
        missing = [name for name in part.__struct_fields__ if f"        {name}: " not in (part.__doc__ or "")]
        assert not missing, part
