"""A refused request gets a problem that names value, rule and remedy."""

from typing import Any

import pytest

from experiments.config import ExperimentConfig
from tests.experiments.rest.builders import REASON, live, published


def test_a_refused_request_names_value_rule_and_remedy(api: Any, config: ExperimentConfig) -> None:
    live(api, config)
    publish = "/v1/experiments/ranking/publish"
    bad = published(config)
    bad["config"]["arms"][0]["weight"] = 1
    cases: list[tuple[str, str, Any, int, str]] = [
        ("POST", publish, bad, 422, "sum to 5001; they must sum to exactly 10000"),
        ("POST", publish, published(config, coverage=9), 422, "coverage lowered from 10000 to 9"),
        ("POST", publish, published(config, key="other"), 422, "the config's key must be that of the path"),
        ("POST", publish, {**published(config), "force": True}, 422, "unknown field `force`"),
        ("POST", publish, {"config": {**bad["config"], "schema": 2}, **REASON}, 422, "schema 2 is not known here"),
        ("POST", "/v1/experiments/ranking/new-phase", published(config), 422, "Give a new one, such as 'ranking-2'"),
        ("POST", "/v1/experiments/ranking/start", REASON, 409, "is running and cannot become running"),
        ("POST", "/v1/experiments/none/start", REASON, 404, "there is no experiment 'none'"),
        ("POST", "/v1/experiments/ranking/start", {}, 422, "missing required field `reason`"),
        ("POST", "/v1/experiments/ranking/decide", {**REASON, "outcome": "win"}, 422, "win"),
        (
            "POST",
            "/v1/experiments/ranking/schedule",
            {**REASON, "action": "stop", "at": "2999-01-01T00:00:00"},
            422,
            "at must have a time zone",
        ),
        ("POST", "/v1/units/token", {"users": ["ann", ""]}, 422, "'' is not a user id (unit_missing)"),
        ("POST", "/v1/units/erase", {"user": "ann", "reason": "Ann asked"}, 422, "the reason contains the user id"),
        ("POST", "/v1/units/erase", {"user": 7, **REASON}, 422, "7: user: Expected `str`, got `int`; send what"),
        ("GET", "/v1/experiments/ranking/versions/0", None, 422, "greater than or equal to 1"),
        ("GET", "/v1/experiments/ranking/versions/9", None, 404, "has no version 9"),
        ("GET", "/v1/experiments/a%00b", None, 404, "a name is plain text"),
        ("GET", "/nothing", None, 404, "this path does not exist"),
        ("PUT", "/v1/experiments", None, 405, "does not allow this method"),
    ]
    for method, path, sent, status, said in cases:
        answer = api(method, path, "admin", json=sent)
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert said in problem["detail"], (path, problem)
        assert problem["status"] == status
        assert problem["type"].startswith("/problems/")
        assert problem["rule"]
        assert problem["remedy"]
    not_json = api("POST", publish, "edit", content=b"\xff{")
    assert (not_json.status_code, not_json.json()["title"]) == (400, "Not JSON")
    nothing = api("POST", "/v1/experiments/ranking/stop", "edit")
    assert (nothing.status_code, "it is empty; send what /openapi.json" in nothing.json()["detail"]) == (400, True)
    assert [v.version for v in api.store.versions("ranking")] == [1]


def test_an_internal_error_reveals_no_details(
    api: Any, config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("password is hunter2")

    monkeypatch.setattr(api.store, "experiments", fail)
    answer = api("GET", "/v1/experiments", "read")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert answer.json()["title"] == "Internal error"
