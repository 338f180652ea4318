"""An assignment: the arm that one unit gets in one experiment, and the reason. Plain values; nothing here raises."""

from enum import StrEnum

import msgspec

from experiments.attributes import Attribute


class Reason(StrEnum):
    """Why a unit gets its arm (docs/reference/assignment-spec.md, section 11)."""

    ASSIGNED = "assigned"
    UNIT_MISSING = "unit_missing"
    UNIT_NOT_TEXT = "unit_not_text"
    UNIT_NOT_UNICODE = "unit_not_unicode"
    UNIT_HAS_NUL = "unit_has_nul"
    UNIT_TOO_LONG = "unit_too_long"
    OVERRIDE = "override"
    IN_HOLDOUT = "in_holdout"
    OUTSIDE_LAYER_RANGE = "outside_layer_range"
    PREREQUISITE_NOT_MET = "prerequisite_not_met"
    NOT_TARGETED = "not_targeted"
    ATTRIBUTE_MISSING = "attribute_missing"
    TARGETING_FAILED = "targeting_failed"
    OUTSIDE_COVERAGE = "outside_coverage"
    PAUSED = "paused"
    STOPPED = "stopped"
    UNKNOWN_EXPERIMENT = "unknown_experiment"


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """The result of evaluating one unit in one experiment.

    Attributes:
        experiment: Key of the experiment.
        unit: The unit id; None when it is not text.
        arm: The arm to serve: the control arm for every unit that is not enrolled (the forced arm for an override).
            None only when the experiment is unknown.
        enrolled: Whether the unit takes part. Only such an assignment may be logged as an exposure.
        reason: Why the unit gets this arm.
        config_version: The version that was evaluated; 0 when the experiment is unknown.
        gate_bucket: The gate's bucket, 0 to 9,999. None when an earlier rule ended the evaluation.
        split_bucket: The split's bucket, 0 to 9,999. None when the gate or an earlier rule ended the evaluation.
        attributes: The attributes that the config records, for an enrolled unit.
    """

    experiment: str
    unit: str | None
    arm: str | None
    enrolled: bool
    reason: Reason
    config_version: int
    gate_bucket: int | None = None
    split_bucket: int | None = None
    attributes: dict[str, Attribute] | None = None
