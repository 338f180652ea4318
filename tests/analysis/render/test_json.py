"""A report comes back from its JSON unchanged, and its field names are stable."""

import msgspec

from analysis.render.json import to_json
from analysis.report import Report


def test_the_stable_names_are_there(report: Report) -> None:
    document = msgspec.json.decode(to_json(report))
    assert document["schema_version"] == 1
    row = document["metrics"][0]
    assert {"name", "control", "treatment", "lift", "low", "high", "p", "p_adjusted", "difference", "method"} <= set(
        row
    )
    assert {"conclusion", "reasons"} == set(document["verdict"])
    assert {"sql", "cut_off", "config_versions", "currency", "enrolment"} <= set(document["data"])
