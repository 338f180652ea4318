"""A config that breaks a rule is refused with the value, the rule and the remedy: every config object is valid."""

import hashlib
import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given

from experiments.config import (
    AnalysisPlan,
    Arm,
    ExperimentConfig,
    Holdout,
    LayerRange,
    MetricRole,
    Override,
    Prerequisite,
    RampStep,
    check_override,
)
from experiments.config_parsing import from_json, from_yaml
from experiments.errors import ConfigError, ExperimentsError
from tests.experiments.builders import NOON, RANKING_FIELDS, RANKING_YAML, configs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": (Arm("control", 5_000), Arm("treatment", 4_000))}, "sum to 9000; they must sum to exactly 10000"),
        ({"arms": (Arm("control", 5_000), Arm("control", 5_000))}, "arm 'control' is given twice"),
        ({"arms": (Arm("control", 10_000), Arm("b", 0))}, "arm 'b' has weight 0"),
        ({"arms": (Arm("control", 10_001), Arm("b", -1))}, "arm 'b' has weight -1"),
        ({"arms": (Arm("control", 10_000),)}, "needs at least two"),
        ({"arms": ()}, "0 arm(s) given"),
        ({"arms": (Arm("control", 5_000), Arm("__multiple__", 5_000))}, "arm '__multiple__' must begin with"),
        ({"control": "base"}, "control 'base' is not one of the arms (control, treatment)"),
        ({"salt": ""}, "salt is empty"),
        ({"salt": "a\x1fb"}, "salt 'a\\x1fb' must be"),
        ({"salt": "layer:home"}, "these salts are for the platform's own draws"),
        ({"coverage": 10_001}, "coverage 10001 must be in 0..10000"),
        ({"coverage": -1}, "coverage -1"),
        ({"key": "Ranking"}, "key 'Ranking' must begin with"),
        ({"key": "ranking\n"}, "must begin with"),
        ({"layer": LayerRange("home", 5_000, 5_000)}, "layer range [5000, 5000)"),
        ({"layer": LayerRange("home", 0, 10_001)}, "layer range [0, 10001)"),
        ({"record": ("country", "e-mail")}, "recorded attribute 'e-mail' must begin with a letter"),
        ({"record": ("country", "country")}, "recorded attribute 'country' is named twice"),
        ({"record": tuple(f"a{n}" for n in range(21))}, "record names 21 attributes; it may have at most 20"),
        ({"schema": 2}, "schema 2 is not known here (this program reads 1); upgrade the program"),
        ({"holdouts": (Holdout("q", 0),)}, "holdout 'q' has size 0; it must be in 1..10000"),
        ({"holdouts": (Holdout("q", 1), Holdout("q", 2))}, "holdout 'q' is named twice"),
        ({"holdouts": (Holdout("Q", 1),)}, "holdout 'Q' must begin with"),
        ({"prerequisites": (Prerequisite("ranking", ("control",)),)}, "is its own prerequisite"),
        ({"prerequisites": (Prerequisite("other", ()),)}, "prerequisite 'other' names no arm"),
        ({"ramp": (RampStep(NOON, 1_999),)}, "2026-12-01T12:00:00Z lowers the coverage from 2000 to 1999"),
        ({"ramp": (RampStep(NOON, 10_001),)}, "has coverage 10001"),
        ({"ramp": (RampStep(NOON, 3_000), RampStep(NOON, 4_000))}, "does not come after the step before it"),
        ({"targeting": "country =="}, "targeting is not CEL"),
        ({"surfaces": ("user", "user")}, "surface 'user' is named twice"),
        ({"metrics": (MetricRole("gmv", "goal"), MetricRole("gmv", "guardrail"))}, "metric 'gmv' is named twice"),
        ({"metrics": (MetricRole("gmv", "goal", 0.1),)}, "metric 'gmv' is a goal and has a margin"),
        ({"metrics": (MetricRole("gmv", "guardrail", 2.0),)}, "metric 'gmv' has the margin 2; it must lie between"),
        ({"analysis": AnalysisPlan(window_days=0)}, "analysis.window_days is 0; it must be above 0"),
        ({"analysis": AnalysisPlan(pre_period_days=math.inf)}, "analysis.pre_period_days is inf; it must be above 0"),
        ({"analysis": AnalysisPlan(planned_units=0)}, "analysis.planned_units is 0; it must be at least 1"),
        ({"analysis": AnalysisPlan(planned_units=9, spending="all")}, "analysis.spending 'all' must be obrien-fleming"),
        ({"analysis": AnalysisPlan(spending="pocock")}, "analysis.spending needs analysis.planned_units"),
        ({"analysis": AnalysisPlan(planned_units=9, looks=(3,))}, "analysis.looks needs analysis.spending"),
        ({"analysis": AnalysisPlan(planned_units=9, spending="pocock", looks=(5, 9))}, "must rise and stay below"),
        ({"analysis": AnalysisPlan(segment="country")}, "analysis.segment 'country' is not a recorded attribute"),
        ({"analysis": AnalysisPlan(segment="customer.")}, "must look like country or customer.country"),
    ],
)
def test_a_broken_rule_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig(**{**RANKING_FIELDS, **change})
    assert message in str(caught.value)


def test_every_broken_rule_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)salt is empty.*coverage 20000"):
        ExperimentConfig(**{**RANKING_FIELDS, "salt": "", "coverage": 20_000})


def test_a_config_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, ExperimentsError)


def test_equal_configs_have_the_same_canonical_json() -> None:
    config = ExperimentConfig(**RANKING_FIELDS, description="größer")
    other = msgspec.convert(dict(reversed(msgspec.to_builtins(config).items())), ExperimentConfig)
    text = other.canonical_json()
    assert text == config.canonical_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert config.sha256() == hashlib.sha256(text).hexdigest()


@given(configs())
def test_a_config_survives_its_canonical_json(config: ExperimentConfig) -> None:
    assert from_json(config.canonical_json()) == config


def test_a_ramp_step_at_the_edge_of_time_is_named() -> None:
    first = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    with pytest.raises(ConfigError, match=r"ramp step 0001-01-01T00:00:00\+05:00 is outside the years 1 to 9999"):
        RampStep(first, 5_000)


def test_the_same_instant_is_the_same_config_in_any_time_zone() -> None:
    east = NOON.astimezone(timezone(timedelta(hours=9)))
    configs = [ExperimentConfig(**RANKING_FIELDS, ramp=(RampStep(at, 3_000),)) for at in (NOON, east)]
    assert configs[0].sha256() == configs[1].sha256()
    assert b'"at":"2026-12-01T12:00:00Z"' in configs[0].canonical_json()
    assert from_yaml(RANKING_YAML + "ramp: [{at: 2026-12-01 21:00:00+09:00, coverage: 3000}]").ramp == configs[0].ramp
    assert configs[0].ramp[0].at_us == 1_796_126_400_000_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (Override("u", "blue", 11), r"arm 'blue' is not one of the arms \(control, treatment\)"),
        (Override("", "control", 11), "the unit id is invalid"),
        (
            Override("u", "control", 10),
            r"expires_at 1970-01-01T00:00:00.000010Z is past \(it is 1970-01-01T00:00:00.000010Z\)",
        ),
    ],
)
def test_an_override_that_could_never_apply_is_refused(override: Override, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_override(ExperimentConfig(**RANKING_FIELDS), override, 10)
    check_override(ExperimentConfig(**RANKING_FIELDS), Override("u", "control", 11), 10)
