"""Which edits of a live config are safe, and that ramps only add units."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import edits
from experiments.config import (
    Arm,
    ExperimentConfig,
    Holdout,
    LayerRange,
    MetricRole,
    Prerequisite,
    PublishedExperiment,
)
from experiments.errors import ConfigError
from experiments.evaluator import prepare
from tests.experiments.builders import NOW, changed
from tests.experiments.builders import ramp_step as step

RICH = {
    "coverage": 2_000,
    "targeting": "country == 'DE' && age > 17",
    "holdouts": (Holdout("all", 500),),
    "prerequisites": (Prerequisite("base", ("on",)),),
    "ramp": (step(-1, 3_000), step(1, 4_000)),
}


@pytest.mark.parametrize(
    ("change", "unsafe"),
    [
        ({"description": "again"}, None),
        ({"metrics": (MetricRole("gmv", "guardrail"),)}, None),
        ({"surfaces": ("search",)}, None),
        ({"ramp": (step(-1, 3_000), step(2, 9_000))}, None),
        ({"ramp": (step(-1, 3_000),)}, None),
        ({"coverage": 3_000, "ramp": ()}, None),
        ({"coverage": 2_000, "ramp": ()}, "coverage lowered from 3000 to 2000"),
        ({"ramp": (step(1, 3_000),)}, "coverage lowered from 3000 to 2000"),
        ({"targeting": ""}, None),
        ({"targeting": "age > 17"}, None),
        ({"targeting": "age > 17 && country == 'DE'"}, None),
        ({"targeting": "age > 18"}, "targeting has a condition that it did not have"),
        ({"targeting": "country == 'DE' && age > 17 && paid"}, "targeting has a condition"),
        ({"targeting": "country == 'DE' || age > 17"}, "targeting has a condition"),
        ({"holdouts": ()}, None),
        ({"holdouts": (Holdout("all", 400),)}, None),
        ({"holdouts": (Holdout("all", 600),)}, "holdout all is new or larger"),
        ({"holdouts": (Holdout("all", 500), Holdout("more", 1))}, "holdout more is new or larger"),
        ({"prerequisites": ()}, None),
        ({"prerequisites": (Prerequisite("base", ("on", "off")),)}, None),
        ({"prerequisites": (Prerequisite("base", ("off",)),)}, "prerequisite base is new or names fewer arms"),
        ({"prerequisites": (*RICH["prerequisites"], Prerequisite("c", ("d",)))}, "prerequisite c is new"),  # type: ignore[misc]
        ({"arms": (Arm("control", 6_000), Arm("treatment", 4_000))}, "arms changed"),
        ({"salt": "other"}, "salt changed"),
        ({"hash_version": "gb2"}, "hash_version changed"),
        ({"unit_kind": "session"}, "unit_kind changed"),
        ({"layer": LayerRange("home", 0, 5)}, "layer changed"),
    ],
)
def test_an_edit_is_safe_when_it_moves_and_removes_no_unit(
    config: ExperimentConfig, change: dict[str, Any], unsafe: str | None
) -> None:
    old = changed(config, **RICH)
    new = changed(old, **change)
    reasons = [each.unsafe for each in edits.changes(old, new, NOW)]
    assert {each.field for each in edits.changes(old, new, NOW)} == {*change} - (
        {"coverage"} if change.get("coverage") == 2_000 else set()
    )
    if unsafe is None:
        assert not any(reasons)
        edits.check_edit(old, new, NOW)
    else:
        with pytest.raises(ConfigError, match=unsafe):
            edits.check_edit(old, new, NOW)


def test_every_field_of_a_config_is_judged(config: ExperimentConfig) -> None:
    """A new field is unsafe until someone judges it; this test lists the judged ones."""
    assert set(edits.ALWAYS_SAFE) == {"schema", "description", "surfaces", "metrics", "record", "analysis"}
    assert set(edits.ALWAYS_SAFE) <= set(ExperimentConfig.__struct_fields__)


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ("", ()),
        ("a", ("a",)),
        ("a && b&&c", ("a", "b", "c")),
        ("(a && b) && c", ("(a && b)", "c")),
        ('a == \' && \' && b == "x\\" && "', ("a == ' && '", 'b == "x\\" && "')),
        ("a && b || c", ("a && b || c",)),
        ("a && b ? c : d", ("a && b ? c : d",)),
        ("[a && b].size() > 0 && c", ("[a && b].size() > 0", "c")),
    ],
)
def test_a_condition_is_split_at_its_outermost_ands(condition: str, parts: tuple[str, ...]) -> None:
    assert edits.conjuncts(condition) == parts


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, 9_000),
    raises=st.lists(st.integers(1, 3_000), min_size=1, max_size=4),
    weight=st.integers(1, 9_999),
)
def test_ramps_only_add_units(start: int, raises: list[int], weight: int) -> None:
    """An enrolled unit stays enrolled in the same arm at every later coverage."""
    config = ExperimentConfig(
        key="ramped",
        salt="ramped-1",
        coverage=start,
        arms=(Arm("control", weight), Arm("treatment", 10_000 - weight)),
        control="control",
    )
    units = [f"u{i}" for i in range(150)]
    before: dict[str, str] = {}
    coverage = start
    for more in [0, *raises]:
        following = min(10_000, coverage + more)
        new = changed(config, coverage=following)
        edits.check_edit(config, new, NOW)
        assign = prepare(PublishedExperiment(new, 1)).assign
        after = {d.unit: d.arm for d in map(assign, units) if d.enrolled}
        assert before.items() <= after.items()
        config, coverage, before = new, following, after  # type: ignore[assignment]
