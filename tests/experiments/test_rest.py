"""The REST interface: roles, limits, problems, and the life cycle, assignments and exposures through it."""

import json
import threading
from copy import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from experiments import assignment_vectors, conformance
from experiments.assigner import Assigner
from experiments.config import ExperimentConfig, LayerRange
from experiments.rest.app import create_app
from experiments.rest.limits import Limits, RateLimiter
from experiments.roles import RIGHTS
from experiments.times import from_epoch_us
from tests.experiments.builders import HOUR, NOW

REPOSITORY = Path(__file__).parents[2]
REASON = {"reason": "test"}


def published(config: ExperimentConfig, **changes: Any) -> dict[str, Any]:
    return {"config": msgspec.to_builtins(msgspec.structs.replace(config, **changes)), **REASON}


def live(api: Any, config: ExperimentConfig) -> None:
    assert api("POST", f"/v1/experiments/{config.key}/publish", "edit", json=published(config)).status_code == 200
    assert api("POST", f"/v1/experiments/{config.key}/start", "edit", json=REASON).status_code == 200


def test_a_whole_life_over_rest(api: Any, config: ExperimentConfig) -> None:
    """The same acts under the same names; each is in force in this process at once, and in the audit log."""
    narrow = msgspec.structs.replace(config, coverage=10)

    def act(name: str, **sent: Any) -> Any:
        answer = api("POST", f"/v1/experiments/ranking/{name}", "edit", json={**REASON, **sent})
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert act("publish", **published(narrow)) == {"experiment": "ranking", "version": 1}
    assert act("submit")["state"] == "in_review"
    assert act("revise")["state"] == "draft"
    assert act("start")["state"] == "running"
    assert api("POST", "/v1/assignments/ranking", "assign", json={"unit": "u"}).json()["config_version"] == 1
    assert act("ramp", coverage=10_000)["version"] == 2
    decided = api("POST", "/v1/assignments/ranking", "assign", json={"unit": "u"}).json()
    assert decided == {
        "experiment": "ranking", "arm": decided["arm"], "enrolled": True, "reason": "assigned", "config_version": 2,
    }  # fmt: skip
    assert act("hold")["version"] == 2
    assert act("pause")["state"] == "paused"
    assert act("new-phase", **published(config, salt="ranking-2"))["version"] == 3
    assert act("stop")["state"] == "stopped"
    assert api("POST", "/v1/assignments/ranking", "assign", json={"unit": "u"}).json()["reason"] == "stopped"
    assert act("decide", outcome="ship")["outcome"] == "ship"
    assert act("archive")["state"] == "archived"
    told = api("GET", "/v1/experiments/ranking", "read").json()
    assert told["summary"] | {"since": 0} == {
        "key": "ranking", "state": "archived", "version": 3, "phase": 2, "since": 0,
    }  # fmt: skip
    assert len(told["history"]) == 10
    assert api("GET", "/v1/experiments", "read").json()["experiments"] == [told["summary"]]
    versions = api("GET", "/v1/experiments/ranking/versions", "read").json()["versions"]
    assert [(v["version"], v["phase"], v["config"]["coverage"]) for v in versions] == [
        (1, 1, 10), (2, 1, 10_000), (3, 2, 10_000),
    ]  # fmt: skip
    assert api("GET", "/v1/experiments/ranking/versions/2", "read").json() == versions[1]
    log = api("GET", "/v1/audit", "admin", params={"subject": "ranking"}).json()["entries"]
    assert [entry["action"] for entry in log][:3] == ["archived", "decided", "stopped"]
    assert {(entry["actor"], entry["reason"]) for entry in log} == {("edit", "test")}


def test_a_schedule_and_forced_arms_over_rest(api: Any, config: ExperimentConfig) -> None:
    live(api, config)
    later = from_epoch_us(NOW + HOUR).isoformat()
    made = api("POST", "/v1/experiments/ranking/schedule", "edit", json={**REASON, "action": "stop", "at": later})
    assert made.status_code == 201
    gone = api("POST", f"/v1/experiments/ranking/schedule/{made.json()['id']}/cancel", "edit", json=REASON)
    assert gone.json()["result"] == "cancelled"
    forced = {**REASON, "unit": "tester", "arm": "treatment", "expires_at": "2999-01-01T00:00:00Z"}
    assert api("POST", "/v1/experiments/ranking/override", "edit", json=forced).status_code == 200
    told = api("POST", "/v1/assignments/ranking", "assign", json={"unit": "tester"}).json()
    assert (told["arm"], told["enrolled"], told["reason"]) == ("treatment", False, "override")
    for path in ("/v1/experiments/ranking", "/v1/audit"):
        assert "tester" not in api("GET", path, "admin").text
    cleared = api("POST", "/v1/experiments/ranking/clear-override", "edit", json={**REASON, "unit": "tester"})
    assert cleared.json() == {"cleared": True}


def test_layers_and_metrics_over_rest(api: Any, config: ExperimentConfig) -> None:
    made = api("POST", "/v1/layers/home/create", "edit", json={**REASON, "description": "the first page"})
    assert (made.status_code, made.json()) == (201, {"layer": "home"})
    live(api, msgspec.structs.replace(config, layer=LayerRange("home", 1_000, 4_000)))
    (layer,) = api("GET", "/v1/layers", "read").json()["layers"]
    assert (layer["description"], layer["created_by"]) == ("the first page", "edit")
    assert layer["held"] == [{"experiment": "ranking", "start": 1_000, "end": 4_000}]
    assert layer["free"] == [[0, 1_000], [4_000, 10_000]]
    gmv = {"name": "gmv_per_user", "owner": "pricing", "tier": 1, "kind": "mean", "column": "gmv_net"}
    for entry, version in ((gmv, 1), (gmv, 1), ({**gmv, "column": "gmv_gross"}, 2)):
        sent = api("POST", "/v1/metrics/publish", "edit", json={**REASON, "metrics": [entry]})
        assert sent.json() == {"versions": {"gmv_per_user": version}}
    (metric,) = api("GET", "/v1/metrics", "read").json()["metrics"]
    assert (metric["version"], metric["owner"], metric["tier"]) == (2, "pricing", 1)
    assert metric["definition"] == {**gmv, "column": "gmv_gross"}
    refused = api("POST", "/v1/metrics/publish", "edit", json={**REASON, "metrics": [{**gmv, "owner": ""}]})
    assert (refused.status_code, "its owner is ''" in refused.json()["detail"]) == (422, True)
    log = api("GET", "/v1/audit", "admin").json()["entries"]
    assert [(e["action"], e["subject"]) for e in log if e["subject"] != "ranking"][:3] == [
        ("publish_metric", "gmv_per_user"), ("publish_metric", "gmv_per_user"), ("create_layer", "home"),
    ]  # fmt: skip


def test_units_are_tokens_and_who_is_erased_returns_as_another(api: Any, config: ExperimentConfig) -> None:
    """The token is decided for; no answer and no row of the audit log names the user or the token."""
    live(api, config)

    def units(*users: str) -> list[str]:
        answer = api("POST", "/v1/units/token", "assign", json={"users": users})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["units"])

    ann, bob, again = units("ann@example.com", "bob", "ann@example.com")
    assert ann == again != bob
    assert api("POST", "/v1/assignments/ranking", "assign", json={"unit": ann}).json()["enrolled"] is True
    sent = {"user": "ann@example.com", "reason": "request 4711"}
    for erased in (True, False):
        assert api("POST", "/v1/units/erase", "admin", json=sent).json() == {"erased": erased}
    log = api("GET", "/v1/audit", "admin", params={"subject": "unit_token"})
    assert [(e["actor"], e["action"], e["reason"], e["detail"]) for e in log.json()["entries"]] == [
        ("admin", "erase", "request 4711", {"found": found}) for found in (False, True)
    ]
    everything = api("GET", "/v1/audit", "admin").text
    assert all(name not in everything for name in ("ann", "bob", ann, bob))
    assert units("bob") == [bob]
    assert units("ann@example.com") != [ann]


def test_an_installation_without_a_token_key_says_which_setting_it_needs(api: Any) -> None:
    api.app = create_app(api.store, api.assigner, api.ring)
    for act, role, sent in (("token", "assign", {"users": ["u"]}), ("erase", "admin", {"user": "u", **REASON})):
        answer = api("POST", f"/v1/units/{act}", role, json=sent)
        assert answer.status_code == 501
        assert "experiments.token_key" in answer.json()["rule"]


def test_assignments_of_several_experiments_and_of_unfit_units(api: Any, config: ExperimentConfig) -> None:
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
        told = api("POST", "/v1/assignments/ranking", "assign", json={"unit": unit}).json()
        assert (told["arm"], told["enrolled"], told["reason"]) == ("control", False, reason)


def test_an_exposure_is_logged_once_and_only_of_what_is_decided_here(api: Any, config: ExperimentConfig) -> None:
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


ENDPOINTS = [
    ("GET", "/v1/experiments", "read"),
    ("GET", "/v1/experiments/ranking", "read"),
    ("GET", "/v1/experiments/ranking/versions", "read"),
    ("GET", "/v1/experiments/ranking/versions/1", "read"),
    ("GET", "/v1/layers", "read"),
    ("GET", "/v1/metrics", "read"),
    ("POST", "/v1/layers/ranking/create", "edit"),
    ("POST", "/v1/metrics/publish", "edit"),
    ("GET", "/v1/audit", "admin"),
    *(
        ("POST", f"/v1/experiments/ranking/{act}", "edit")
        for act in "publish new-phase start pause stop ramp hold decide submit revise archive schedule override".split()
    ),
    ("POST", "/v1/experiments/ranking/clear-override", "edit"),
    ("POST", "/v1/experiments/ranking/schedule/1/cancel", "edit"),
    ("POST", "/v1/units/token", "assign"),
    ("POST", "/v1/units/erase", "admin"),
    ("POST", "/v1/assignments", "assign"),
    ("POST", "/v1/assignments/ranking", "assign"),
    ("POST", "/v1/exposures", "assign"),
    ("POST", "/ofrep/v1/evaluate/flags", "assign"),
    ("POST", "/ofrep/v1/evaluate/flags/ranking", "assign"),
]


def test_every_endpoint_needs_its_right_and_no_other_will_do(api: Any, config: ExperimentConfig) -> None:
    """Each endpoint that there is but health, with each role and without a key."""
    live(api, config)
    documented = {
        (method.upper(), path.replace("{key}", "ranking").replace("{number}", "1"))
        for path, operations in api.app.openapi()["paths"].items()
        for method in operations
    }
    assert documented - {("GET", "/health"), ("GET", "/ready")} == {(method, path) for method, path, _ in ENDPOINTS}
    for method, path, right in ENDPOINTS:
        assert api(method, path).status_code == 401, path
        for role, rights in RIGHTS.items():
            status = api(method, path, role).status_code
            assert (status == 403) == (right not in rights), (path, role, status)
            assert status != 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer sl_000000000000_" + "A" * 43},
        {"X-API-Key": "nonsense"},
        {"X-API-Key": "sl_\xe9"},
    ],
)
def test_without_a_good_key_nothing_is_told(api: Any, headers: dict[str, str]) -> None:
    answer = api("GET", "/v1/experiments", headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()])
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="sagelift"')
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_key_may_come_in_either_header_and_not_once_it_is_revoked(api: Any) -> None:
    key = api.keys["read"]
    for headers in ({"X-API-Key": key}, {"Authorization": f"bearer {key}"}):
        assert api("GET", "/v1/experiments", headers=headers).status_code == 200
    api.api_keys.revoke(key.split("_")[1], actor="ada")
    api.ring.refresh()
    assert api("GET", "/v1/experiments", "read").status_code == 401


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
        told = answer.json()
        assert said in told["detail"], (path, told)
        assert told["status"] == status
        assert told["type"].startswith("/problems/")
        assert told["rule"]
        assert told["remedy"]
    not_json = api("POST", publish, "edit", content=b"\xff{")
    assert (not_json.status_code, not_json.json()["title"]) == (400, "Not JSON")
    nothing = api("POST", "/v1/experiments/ranking/stop", "edit")
    assert (nothing.status_code, "it is empty; send what /openapi.json" in nothing.json()["detail"]) == (400, True)
    assert [v.version for v in api.store.versions("ranking")] == [1]


def test_a_config_that_is_refused_leaves_no_half_published_experiment(api: Any, config: ExperimentConfig) -> None:
    live(api, config)
    taken = published(config, key="again")  # with the salt of `ranking`
    assert api("POST", "/v1/experiments/again/publish", "edit", json=taken).status_code == 409
    assert api("GET", "/v1/experiments/again", "read").status_code == 404


def test_a_fault_of_the_server_tells_nothing_of_its_inside(
    api: Any, config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("password is hunter2")

    monkeypatch.setattr(api.store, "experiments", fail)
    answer = api("GET", "/v1/experiments", "read")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert answer.json()["title"] == "Internal error"


def test_health_needs_no_key_and_ready_waits_for_the_first_configs(api: Any) -> None:
    assert api("GET", "/health").json() == {"status": "ok"}
    ready = api("GET", "/ready")
    assert (ready.status_code, ready.json()["ready"], ready.json()["stale"]) == (200, True, False)


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
    """As scalar, column and SQL are: the same experiments, units and attributes give the same arms and reasons."""

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


def test_the_openapi_document_in_docs_is_current(api: Any) -> None:
    """`sagelift experiment openapi > docs/reference/experiments-openapi.json` writes it."""
    written = json.loads((REPOSITORY / "docs" / "reference" / "experiments-openapi.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(api.app.openapi()))


def test_a_key_has_a_burst_and_then_its_rate() -> None:
    now = 0.0
    limiter = RateLimiter(rate=2.0, burst=3, monotonic=lambda: now)
    assert [limiter.wait("a") for _ in range(3)] == [0.0] * 3
    assert limiter.wait("a") == pytest.approx(0.5)
    assert limiter.wait("b") == 0.0
    now += 0.5
    assert [limiter.wait("a") > 0 for _ in range(2)] == [False, True]
    now += 1000.0
    assert [limiter.wait("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_threads_share_one_rate() -> None:
    limiter = RateLimiter(rate=0.001, burst=100)
    passed: list[bool] = []
    threads = [
        threading.Thread(target=lambda: passed.extend(limiter.wait("a") == 0 for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(passed), sum(passed)) == (200, 100)


@pytest.mark.parametrize("limited_api", [Limits(rate=0.5, burst=2)], indirect=True)
def test_who_asks_too_often_is_told_when_to_come_back(limited_api: Any) -> None:
    answers = [limited_api("GET", "/v1/experiments", "read") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "2"
    assert limited_api("GET", "/v1/experiments", "edit").status_code == 200


@pytest.mark.parametrize("limited_api", [Limits(body=100, batch=2)], indirect=True)
def test_a_request_has_a_largest_size_said_or_unsaid(limited_api: Any) -> None:
    async def chunks() -> Any:
        for _ in range(50):
            yield b'{"unit": '

    for content in (b" " * 101, chunks()):
        answer = limited_api("POST", "/v1/assignments/ranking", "assign", content=content)
        assert answer.status_code == 413
        assert "at most 100 bytes" in answer.json()["rule"]
    lied = limited_api("POST", "/v1/assignments/ranking", "assign", content=b"{}", headers={"Content-Length": "-5"})
    assert lied.status_code == 413
    many = {"unit": "u", "experiments": ["a", "b", "c"]}
    assert limited_api("POST", "/v1/assignments", "assign", json=many).json()["rule"] == "a request has at most 2 items"
