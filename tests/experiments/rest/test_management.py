"""The life cycle, the schedule, forced arms, layers and metrics over REST."""

from typing import Any

import msgspec

from experiments.config import ExperimentConfig, LayerRange
from experiments.times import from_epoch_us
from tests.experiments.builders import HOUR, NOW
from tests.experiments.rest.builders import REASON, live, published


def test_every_step_of_the_life_cycle_works_over_rest(api: Any, config: ExperimentConfig) -> None:
    """The actions have the names of the store's methods; each takes effect in this process at once and is audited."""
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
    body = api("GET", "/v1/experiments/ranking", "read").json()
    assert body["summary"] | {"since": 0} == {
        "key": "ranking", "state": "archived", "version": 3, "phase": 2, "since": 0,
    }  # fmt: skip
    assert len(body["history"]) == 10
    assert api("GET", "/v1/experiments", "read").json()["experiments"] == [body["summary"]]
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
    body = api("POST", "/v1/assignments/ranking", "assign", json={"unit": "tester"}).json()
    assert (body["arm"], body["enrolled"], body["reason"]) == ("treatment", False, "override")
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


def test_a_config_that_is_refused_leaves_no_half_published_experiment(api: Any, config: ExperimentConfig) -> None:
    live(api, config)
    taken = published(config, key="again")  # with the salt of `ranking`
    assert api("POST", "/v1/experiments/again/publish", "edit", json=taken).status_code == 409
    assert api("GET", "/v1/experiments/again", "read").status_code == 404
