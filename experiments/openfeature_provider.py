"""OpenFeature for Python: an `Assigner` evaluates flags in memory, without a network call.

    from openfeature import api
    api.set_provider(SageliftProvider(assigner))
    arm = api.get_client().get_string_value("home-ranking", "control", EvaluationContext("user-42"))

A flag is an experiment; its value and its variant are the arm's key. This module needs `openfeature-sdk`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType
from openfeature.flag_evaluation import Reason as OpenFeatureReason
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails

from experiments.assigner import Assigner
from experiments.assignment import Reason

T = TypeVar("T")
EXPOSURE: Final = "exposure"
"""Name of the tracking event that logs an exposure."""

_UNIT_ERRORS: Final = {
    Reason.UNIT_MISSING: ErrorCode.TARGETING_KEY_MISSING,
    Reason.UNIT_NOT_TEXT: ErrorCode.INVALID_CONTEXT,
    Reason.UNIT_NOT_UNICODE: ErrorCode.INVALID_CONTEXT,
    Reason.UNIT_HAS_NUL: ErrorCode.INVALID_CONTEXT,
    Reason.UNIT_TOO_LONG: ErrorCode.INVALID_CONTEXT,
}
_REASONS: Final = {
    Reason.ASSIGNED: OpenFeatureReason.SPLIT,
    Reason.PAUSED: OpenFeatureReason.SPLIT,
    Reason.OVERRIDE: OpenFeatureReason.TARGETING_MATCH,
    Reason.STOPPED: OpenFeatureReason.DISABLED,
}


class SageliftProvider(AbstractProvider):
    """Resolves string flags.

    The evaluation of a flag is not an exposure. Log the exposure where the arm is used, with `client.track("exposure",
    context, TrackingEventDetails(attributes={"experiment": key}))`. Set `expose_at_once` when the code always uses the
    value that it evaluates.

    Args:
        assigner: Evaluates the experiments. The caller starts and closes it.
        expose_at_once: Whether every evaluation logs an exposure.
    """

    def __init__(self, assigner: Assigner, *, expose_at_once: bool = False) -> None:
        super().__init__()
        self._assigner, self._expose_at_once = assigner, expose_at_once

    def get_metadata(self) -> Metadata:
        """Return the name of the provider."""
        return Metadata("Sagelift")

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Return the arm of the unit that is the targeting key."""
        unit, attributes = _unit(evaluation_context)
        assignment = self._assigner.assign(unit, flag_key, attributes)
        if assignment.reason is Reason.UNKNOWN_EXPERIMENT or assignment.arm is None:
            return _failed(default_value, ErrorCode.FLAG_NOT_FOUND, f"no experiment {flag_key!r} is served")
        if (code := _UNIT_ERRORS.get(assignment.reason)) is not None:
            return _failed(default_value, code, f"targeting key: {assignment.reason.value}")
        if self._expose_at_once:
            self._assigner.expose(assignment)
        return FlagResolutionDetails(
            value=assignment.arm,
            variant=assignment.arm,
            reason=_REASONS.get(assignment.reason, OpenFeatureReason.DEFAULT),
            flag_metadata={
                "enrolled": assignment.enrolled,
                "reason": assignment.reason.value,
                "configVersion": assignment.config_version,
            },
        )

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Log the exposure of `attributes["experiment"]`. Other events are ignored."""
        details = tracking_event_details.attributes if tracking_event_details is not None else {}
        if tracking_event_name == EXPOSURE and isinstance(experiment := details.get("experiment"), str):
            unit, attributes = _unit(evaluation_context)
            self._assigner.expose(self._assigner.assign(unit, experiment, attributes))

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Return an error: values are text."""
        return _not_text(flag_key, default_value)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Return an error: values are text."""
        return _not_text(flag_key, default_value)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Return an error: values are text."""
        return _not_text(flag_key, default_value)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """Return an error: values are text."""
        return _not_text(flag_key, default_value)


def _unit(context: EvaluationContext | None) -> tuple[str | None, Mapping[str, Any]]:
    return (None, {}) if context is None else (context.targeting_key, context.attributes)


def _failed(default: T, code: ErrorCode, message: str) -> FlagResolutionDetails[T]:
    return FlagResolutionDetails(value=default, reason=OpenFeatureReason.ERROR, error_code=code, error_message=message)


def _not_text(key: str, default: T) -> FlagResolutionDetails[T]:
    return _failed(default, ErrorCode.TYPE_MISMATCH, f"the value of {key!r} is the key of an arm; ask for a string")
