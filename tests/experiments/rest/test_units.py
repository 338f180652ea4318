"""Unit tokens over REST: users become tokens, and an erased user gets another one."""

from typing import Any

from experiments.config import ExperimentConfig
from experiments.rest.app import create_app
from tests.experiments.rest.builders import REASON, live


def test_units_are_tokens_and_an_erased_user_gets_another_token(api: Any, config: ExperimentConfig) -> None:
    """A token can be assigned; no answer and no row of the audit log names the user or the token."""
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
        ("admin", "erase", "request 4711", {"found": result}) for result in (False, True)
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
