"""Assignments and exposures over REST come from the configs in memory."""

import json
from copy import copy
from typing import Any

import msgspec
from sqlalchemy import event

from experiments import assignment_vectors, conformance
from experiments.assigner import Assigner
from experiments.config import ExperimentConfig
from experiments.rest.app import create_app
from tests.experiments.rest.builders import live


def test_several_experiments_are_assigned_at_once_and_invalid_units_get_a_reason(
    api: Any, config: ExperimentConfig
) -> None:
    live(api, config)
    live(api, msgspec.structs.replace(config, key="two", salt="two-1", targeting="country == 'DE'"))
    both = api("POST", "/v1/assignments", "assign", json={"unit": "u", "attributes": {"country": "DE"}}).json()
    assert [d["experiment"] for d in both["assignments"]] == ["ranking", "two"]
    assert all(d["enrolled"] for d in both["assignments"])
    some = api("POST", "/v1/assignments", "assign", json={"unit": "u", "experiments": ["two", "none"]}).json()
    assert [(d["experiment"], d["arm"], d["reason"]) for d in some["assignments"]] == [
        ("two", "control", "attribute_missing"),
        ("none", None, "unknown_experiment"),
    ]
    for unit, reason in ((None, "unit_missing"), ("", "unit_missing"), (7, "unit_not_text"), (True, "unit_not_text")):
        body = api("POST", "/v1/assignments/ranking", "assign", json={"unit": unit}).json()
        assert (body["arm"], body["enrolled"], body["reason"]) == ("control", False, reason)


def test_an_exposure_is_logged_once_and_only_for_the_servers_own_assignment(api: Any, config: ExperimentConfig) -> None:
    live(api, msgspec.structs.replace(config, record=("country",)))
    arm = api("POST", "/v1/assignments/ranking", "assign", json={"unit": "u"}).json()["arm"]
    wrong = "treatment" if arm == "control" else "control"
    used = [
        {"unit": "u", "experiment": "ranking", "arm": arm, "config_version": 1, "attributes": {"country": "DE"}},
        {"unit": "u", "experiment": "ranking"},
        {"unit": "v", "experiment": "ranking", "config_version": 2},
        {"unit": "u", "experiment": "ranking", "arm": wrong},
        {"unit": "u", "experiment": "none"},
        {"unit": "", "experiment": "ranking"},
    ]
    answer = api("POST", "/v1/exposures", "assign", json={"exposures": used})
    assert answer.status_code == 202
    assert [(e["logged"], e["reason"]) for e in answer.json()["exposures"]] == [
        (True, "assigned"),
        (False, "logged before"),
        (False, "config_version is 1 now, not 2"),
        (False, f"arm is '{arm}' now, not '{wrong}'"),
        (False, "unknown_experiment"),
        (False, "unit_missing"),
    ]
    assert api.logger.close() == 0
    assert [(row.unit_id, row.arm, row.attributes) for row in api.sent] == [("u", arm, {"country": "DE"})]


def test_no_assignment_waits_for_the_database(api: Any, config: ExperimentConfig) -> None:
    live(api, config)
    statements: list[str] = []
    event.listen(api.store.engine, "before_cursor_execute", lambda _c, _u, sql, *_: statements.append(sql))
    sent = {"unit": "u", "context": {"targetingKey": "u"}}
    for path in ("/v1/assignments", "/v1/assignments/ranking"):
        assert api("POST", path, "assign", json={"unit": "u"}).status_code == 200
    for path in ("/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/ranking"):
        assert api("POST", path, "assign", json={"context": sent["context"]}).status_code == 200
    assert statements == []
    api("GET", "/v1/experiments", "read")
    assert statements


def test_assignments_over_rest_are_those_of_the_vector_file(api: Any) -> None:
    """The same experiments, units and attributes give the same arms and reasons as the other implementations."""

    def decide(case: assignment_vectors.Case) -> list[tuple[str | None, str]]:
        assigner = Assigner(lambda: case.published, clock=lambda: case.at)
        assigner.refresh()
        case_api = copy(api)
        case_api.app = create_app(api.store, assigner, api.ring)
        answers = []
        for expected in case.assignments:
            sent = json.dumps({"unit": expected.unit, "attributes": expected.attributes or {}}).encode("ascii")
            answer = case_api("POST", f"/v1/assignments/{expected.experiment}", "assign", content=sent)
            if answer.status_code == 400:  # a lone surrogate: there is no such text in JSON
                answers.append((expected.arm, "unit_not_unicode"))
            else:
                answers.append((answer.json()["arm"], answer.json()["reason"]))
        return answers

    outcome = conformance.check_assignments("REST", decide, assignment_vectors.load())
    assert outcome.checked > 20
    assert outcome.wrong == ()
