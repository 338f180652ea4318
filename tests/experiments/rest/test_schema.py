"""Every answer to generated requests matches the OpenAPI document, and none is a server error."""

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from experiments.config import ExperimentConfig

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


@pytest.mark.filterwarnings("ignore")  # of the tool's own HTTP client
@pytest.mark.parametrize("role", ["admin"])
def test_no_request_makes_a_server_error(api: Any, config: ExperimentConfig, role: str) -> None:
    """Every operation is called with an admin key, also for an existing experiment."""
    api.store.publish(config, actor="ada", create=True)
    api.store.start(config.key, actor="ada", reason="test")
    api.assigner.refresh()
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.app)
    headers = {"Authorization": f"Bearer {api.keys[role]}"}
    seen: set[str] = set()

    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=8,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        def call(case: schemathesis.Case) -> None:
            if "key" in case.path_parameters and len(str(case.body)) % 2:
                case.path_parameters["key"] = config.key
            response = case.call(headers=headers)
            case.validate_response(response, checks=CHECKS)
            seen.add(f"{case.method} {case.path} {response.status_code}")

        call()
    operations = {f"{method.upper()} {path}" for path, ms in api.app.openapi()["paths"].items() for method in ms}
    assert {each.rsplit(" ", 1)[0] for each in seen} == operations
    assert any(each.endswith(" 200") for each in seen)
