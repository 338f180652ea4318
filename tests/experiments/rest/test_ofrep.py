"""OpenFeature's remote protocol: the answers, the error codes and the ETag that its specification names."""

from typing import Any

import msgspec
import pytest

from experiments.config import ExperimentConfig, Override

PATH = "/ofrep/v1/evaluate/flags"


@pytest.fixture
def live(api: Any, config: ExperimentConfig) -> Any:
    other = msgspec.structs.replace(config, key="two", salt="two-1", targeting="country == 'DE'")
    for each in (config, other):
        api.store.publish(each, actor="ada", create=True)
        api.store.start(each.key, actor="ada", reason="test")
    api.assigner.refresh()
    return api


def context(unit: Any, **attributes: Any) -> dict[str, Any]:
    return {"context": {"targetingKey": unit, **attributes}}


def test_one_flag_is_the_arm_that_the_assigner_gives(live: Any) -> None:
    for unit in ("u1", "u2", "u3"):
        answer = live("POST", f"{PATH}/ranking", "assign", json=context(unit))
        arm = live.assigner.assign(unit, "ranking").arm
        assert answer.json() == {
            "key": "ranking",
            "reason": "SPLIT",
            "variant": arm,
            "value": arm,
            "metadata": {"enrolled": True, "reason": "assigned", "configVersion": 1},
        }


def test_attributes_of_the_context_are_targeted_and_the_reason_is_openfeatures(live: Any) -> None:
    reasons = {}
    for country in ("DE", "FR"):
        flag = live("POST", f"{PATH}/two", "assign", json=context("u", country=country)).json()
        reasons[country] = (flag["reason"], flag["metadata"]["reason"])
    assert reasons == {"DE": ("SPLIT", "assigned"), "FR": ("DEFAULT", "not_targeted")}
    live.store.force_arm("ranking", Override("t", "treatment", 2**62), actor="ada", reason="test")
    live.store.stop("two", actor="ada", reason="test")
    live.assigner.refresh()
    flags = {f["key"]: f for f in live("POST", PATH, "assign", json=context("t")).json()["flags"]}
    assert (flags["ranking"]["reason"], flags["ranking"]["value"]) == ("TARGETING_MATCH", "treatment")
    assert (flags["two"]["reason"], flags["two"]["value"]) == ("DISABLED", "control")


def test_all_flags_are_those_of_the_single_answers(live: Any) -> None:
    sent = context("u", country="DE")
    answer = live("POST", PATH, "assign", json=sent)
    assert answer.json() == {
        "flags": [live("POST", f"{PATH}/{key}", "assign", json=sent).json() for key in ("ranking", "two")]
    }


def test_nothing_is_sent_again_until_something_changed(live: Any) -> None:
    """The ETag depends on the context and on the versions of the configs."""
    first = live("POST", PATH, "assign", json=context("u"))
    etag = first.headers["etag"]
    for header in (etag, f'W/{etag}, "other"', "*"):
        again = live("POST", PATH, "assign", json=context("u"), headers={"If-None-Match": header})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    unchanged = [
        live("POST", PATH, "assign", json=context("u"), headers={"If-None-Match": '"other"'}),
        live("POST", PATH, "assign", json=context("v", country="DE"), headers={"If-None-Match": etag}),
    ]
    assert [answer.status_code for answer in unchanged] == [200, 200]
    live.store.pause("ranking", actor="ada", reason="test")
    live.assigner.refresh()
    changed = live("POST", PATH, "assign", json=context("u"), headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "PARSE_ERROR"),
        (b"\xff", "PARSE_ERROR"),
        (b"", "PARSE_ERROR"),
        (b"{}", "INVALID_CONTEXT"),
        (b'{"context": 7}', "INVALID_CONTEXT"),
        (b'{"context": {}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": null}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": ""}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": 7}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "a\\u0000b"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "' + b"a" * 2_000 + b'"}}', "INVALID_CONTEXT"),
    ],
)
def test_a_context_that_cannot_be_used_has_the_protocols_code(live: Any, content: bytes, code: str) -> None:
    single, bulk = (live("POST", path, "assign", content=content) for path in (f"{PATH}/ranking", PATH))
    assert (single.status_code, single.json()["errorCode"], single.json()["key"]) == (400, code, "ranking")
    assert (bulk.status_code, bulk.json()["errorCode"]) == (400, code)
    assert "key" not in bulk.json()
    assert single.json()["errorDetails"]


def test_an_unknown_flag_is_not_found(live: Any) -> None:
    answer = live("POST", f"{PATH}/none", "assign", json=context("u"))
    assert (answer.status_code, answer.json()["errorCode"], answer.json()["key"]) == (404, "FLAG_NOT_FOUND", "none")


def test_no_experiment_is_an_empty_answer_and_not_an_error(api: Any) -> None:
    assert api("POST", PATH, "assign", json=context("u")).json() == {"flags": []}
