"""The provider through OpenFeature's own client."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openfeature import api as openfeature
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from openfeature.track import TrackingEventDetails

from experiments.config import ExperimentConfig
from experiments.openfeature_provider import SageliftProvider
from experiments.store import ExperimentStore


@pytest.fixture
def client(api: Any, store: ExperimentStore, config: ExperimentConfig) -> Iterator[OpenFeatureClient]:
    for each in (config, msgspec.structs.replace(config, key="two", salt="two-1", targeting="country == 'DE'")):
        store.publish(each, actor="ada", create=True)
        store.start(each.key, actor="ada", reason="test")
    api.assigner.refresh()
    openfeature.set_provider_and_wait(SageliftProvider(api.assigner), domain="lazy")
    openfeature.set_provider_and_wait(SageliftProvider(api.assigner, expose_at_once=True), domain="eager")
    yield openfeature.get_client(domain="lazy")
    openfeature.shutdown()
    openfeature.clear_providers()


def test_a_flag_is_the_arm_that_the_assigner_gives(api: Any, client: OpenFeatureClient) -> None:
    for unit in ("u1", "u2", "u3", "u4"):
        details = client.get_string_details("ranking", "none", EvaluationContext(unit))
        assert details.value == details.variant == api.assigner.assign(unit, "ranking").arm
        assert details.reason == Reason.SPLIT
        assert details.flag_metadata == {"enrolled": True, "reason": "assigned", "configVersion": 1}
    assert api.logger.stats().logged == 0


def test_attributes_are_those_of_the_context(client: OpenFeatureClient) -> None:
    german = client.get_string_details("two", "none", EvaluationContext("u", {"country": "DE"}))
    french = client.get_string_details("two", "none", EvaluationContext("u", {"country": "FR"}))
    assert german.flag_metadata["enrolled"] is True
    assert (french.value, french.reason, french.flag_metadata["reason"]) == ("control", Reason.DEFAULT, "not_targeted")


@pytest.mark.parametrize(
    ("key", "context", "code"),
    [
        ("none", EvaluationContext("u"), ErrorCode.FLAG_NOT_FOUND),
        ("ranking", None, ErrorCode.TARGETING_KEY_MISSING),
        ("ranking", EvaluationContext(""), ErrorCode.TARGETING_KEY_MISSING),
        ("ranking", EvaluationContext("a\0b"), ErrorCode.INVALID_CONTEXT),
    ],
)
def test_what_cannot_be_decided_gives_the_default_and_says_why(
    client: OpenFeatureClient, key: str, context: EvaluationContext | None, code: ErrorCode
) -> None:
    details = client.get_string_details(key, "fallback", context)
    assert (details.value, details.reason, details.error_code) == ("fallback", Reason.ERROR, code)


def test_an_arm_must_be_text(client: OpenFeatureClient) -> None:
    context = EvaluationContext("u")
    for details in (
        client.get_boolean_details("ranking", True, context),
        client.get_integer_details("ranking", 7, context),
        client.get_float_details("ranking", 0.5, context),
        client.get_object_details("ranking", {"a": 1}, context),
    ):
        assert details.error_code == ErrorCode.TYPE_MISMATCH
        assert details.value in (True, 7, 0.5, {"a": 1})


def test_an_exposure_is_logged_where_it_is_tracked_or_at_once(api: Any, client: OpenFeatureClient) -> None:
    context = EvaluationContext("u")
    client.track("exposure", context, TrackingEventDetails(attributes={"experiment": "ranking"}))
    client.track("purchase", EvaluationContext("v"), TrackingEventDetails(attributes={"experiment": "ranking"}))
    openfeature.get_client(domain="eager").get_string_value("ranking", "none", EvaluationContext("w"))
    api.logger.close()
    assert {(row.unit_id, row.experiment) for row in api.sent} == {("u", "ranking"), ("w", "ranking")}
