"""Every endpoint needs a valid key with its right."""

from typing import Any

import pytest

from experiments.config import ExperimentConfig
from experiments.roles import RIGHTS
from tests.experiments.rest.builders import live

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


def test_every_endpoint_needs_its_right_and_accepts_no_other(api: Any, config: ExperimentConfig) -> None:
    """Every documented endpoint except health, with each role and without a key."""
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
def test_a_request_without_a_valid_key_is_refused(api: Any, headers: dict[str, str]) -> None:
    answer = api("GET", "/v1/experiments", headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()])
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="sagelift"')
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_key_is_accepted_in_either_header_until_it_is_revoked(api: Any) -> None:
    key = api.keys["read"]
    for headers in ({"X-API-Key": key}, {"Authorization": f"bearer {key}"}):
        assert api("GET", "/v1/experiments", headers=headers).status_code == 200
    api.api_keys.revoke(key.split("_")[1], actor="ada")
    api.ring.refresh()
    assert api("GET", "/v1/experiments", "read").status_code == 401
