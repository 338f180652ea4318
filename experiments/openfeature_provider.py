"""OpenFeature for Python: flags evaluated in memory by an `Assigner`, without a network.

    from openfeature import api
    api.set_provider(SageliftProvider(assigner))
    arm = api.get_client().get_string_value("home-ranking", "control", EvaluationContext("user-42"))

A flag is an experiment, its value and variant are the arm's key. Needs `openfeature-sdk`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType
from openfeature.flag_evaluation import Reason as Why
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails

from experiments.assigner import Assigner
from experiments.assignment import Reason

T = TypeVar("T")
EXPOSURE: Final = "exposure"
"""Name of the tracking event that logs that a flag's value was used."""

_UNIT_ERRORS: Final = {
    Reason.UNIT_MISSING: ErrorCode.TARGETING_KEY_MISSING,
    Reason.UNIT_NOT_TEXT: ErrorCode.INVALID_CONTEXT,
    Reason.UNIT_NOT_UNICODE: ErrorCode.INVALID_CONTEXT,
    Reason.UNIT_HAS_NUL: ErrorCode.INVALID_CONTEXT,
    Reason.UNIT_TOO_LONG: ErrorCode.INVALID_CONTEXT,
}
_WHY: Final = {
    Reason.ASSIGNED: Why.SPLIT,
    Reason.PAUSED: Why.SPLIT,
    Reason.OVERRIDE: Why.TARGETING_MATCH,
    Reason.STOPPED: Why.DISABLED,
}


class SageliftProvider(AbstractProvider):
    """Resolves string flags. Whoever makes the assigner starts and closes it.

    To look at a flag is not to use it: an exposure is logged by `client.track("exposure", context,
    TrackingEventDetails(attributes={"experiment": key}))` where the arm is used, or at every evaluation with
    `expose_at_once`, for code in which the two are the same.
    """

    def __init__(self, assigner: Assigner, *, expose_at_once: bool = False) -> None:
        super().__init__()
        self._assigner, self._expose_at_once = assigner, expose_at_once

    def get_metadata(self) -> Metadata:
        return Metadata("Sagelift")

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
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
            reason=_WHY.get(assignment.reason, Why.DEFAULT),
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
        """Logs the exposure of `attributes["experiment"]`; other events are not ours."""
        details = tracking_event_details.attributes if tracking_event_details is not None else {}
        if tracking_event_name == EXPOSURE and isinstance(experiment := details.get("experiment"), str):
            unit, attributes = _unit(evaluation_context)
            self._assigner.expose(self._assigner.assign(unit, experiment, attributes))

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return _not_text(flag_key, default_value)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return _not_text(flag_key, default_value)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return _not_text(flag_key, default_value)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return _not_text(flag_key, default_value)


def _unit(context: EvaluationContext | None) -> tuple[str | None, Mapping[str, Any]]:
    return (None, {}) if context is None else (context.targeting_key, context.attributes)


def _failed(default: T, code: ErrorCode, message: str) -> FlagResolutionDetails[T]:
    return FlagResolutionDetails(value=default, reason=Why.ERROR, error_code=code, error_message=message)


def _not_text(key: str, default: T) -> FlagResolutionDetails[T]:
    return _failed(default, ErrorCode.TYPE_MISMATCH, f"the value of {key!r} is an arm's key: ask for a string")
