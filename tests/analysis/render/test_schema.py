"""The published schemas are those of the code."""

from pathlib import Path

import msgspec
import pytest

from analysis.render.json import from_json, to_json
from analysis.render.schema import PUBLISHED, json_schema, text
from analysis.report import Report


def test_json_comes_back_as_it_went_and_its_schema_names_its_fields(report: Report) -> None:
    text = to_json(report)
    assert from_json(text) == report
    document, kinds = msgspec.json.decode(text), json_schema()["$defs"]
    for kind, part in (
        ("PrintedReport", document),
        ("MetricResult", document["metrics"][0]),
        ("Data", document["data"]),
    ):
        assert set(kinds[kind]["properties"]) == set(kinds[kind]["required"]) == set(part)
    with pytest.raises(msgspec.ValidationError):
        from_json(text.replace('"schema_version": 1', '"schema_version": "one"'))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_the_one_of_the_code(name: str) -> None:
    """If it is not: python -m analysis.render.schema docs/reference/schemas"""
    published = Path(__file__).parents[3] / "docs" / "reference" / "schemas" / name
    assert published.read_text(encoding="utf-8") == text(name)
