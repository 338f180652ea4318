"""What an assignment is: a value with its reason. Nothing here raises."""

from enum import StrEnum

import msgspec

from experiments.attributes import Attribute


class Reason(StrEnum):
    """Why a unit got what it got (docs/reference/assignment-spec.md, section 11)."""

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
    """One unit's assignment in one experiment.

    `arm` is what to serve: the control arm for everyone who is not enrolled (but the forced one of an override), None
    only when the experiment is unknown. Only an `enrolled` decision may be exposed. A bucket is None when the rules
    ended before it was drawn. `attributes` are those that the config records, of a unit that is enrolled.
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
