"""Arms, options and goals of a report are checked before anything is computed."""

import numpy as np
import pytest

from analysis.errors import ArgumentError, ArmError
from analysis.metrics import Count, Mean
from analysis.report import analyze
from analysis.request import with_goal
from analysis.sources import UserTable
from tests.analysis.reports import GMV, users


def test_arms_that_are_missing_or_the_same_are_refused() -> None:
    source = UserTable(users())
    with pytest.raises(ArmError, match=r"control 'x' is not an arm of the data\. Its arms: 'a', 'b'"):
        analyze(source, [GMV], "x", "b")
    with pytest.raises(ArmError, match="both 'a'"):
        analyze(source, [GMV], "a", "a")
    with pytest.raises(ArmError, match="treatment 'b' is not an arm"):
        analyze(UserTable(users().query("variant == 'a'")), [GMV], "a", "b")
    with pytest.raises(ArmError, match="does not name the treatment 'b'"):
        analyze(source, [GMV], "a", "b", {"a": 1.0})
    with pytest.raises(ArmError, match="must be above 0"):
        analyze(source, [GMV], "a", "b", {"a": 1.0, "b": 0.0})
    with pytest.raises(ArgumentError, match=r"alpha is 1\.5"):
        analyze(source, [GMV], "a", "b", alpha=1.5)


def test_a_split_of_nine_to_one_is_judged_by_the_plan_that_is_given() -> None:
    data = users(n=5000)
    data["variant"] = np.where(np.arange(5000) % 10 == 0, "b", "a")
    assert analyze(UserTable(data), [GMV], "a", "b").verdict.conclusion == "cannot trust"
    planned = analyze(UserTable(data), [GMV], "a", "b", {"a": 0.9, "b": 0.1})
    assert planned.check("sample_ratio").status == "ok"
    with pytest.raises(LookupError, match="no metric 'x'; it has gmv"):
        planned.metric("x")
    with pytest.raises(LookupError, match="no check 'x'; it has sample_ratio"):
        planned.check("x")


def test_the_first_metric_that_is_not_a_guardrail_becomes_the_goal() -> None:
    guard = Mean(name="gmv", column="gmv", role="guardrail", margin=0.2)
    clicks = Count(name="clicks", column="clicks")
    assert [(m.name, m.role, m.margin) for m in with_goal([guard, clicks])] == [
        ("gmv", "guardrail", 0.2),
        ("clicks", "goal", None),
    ]
    assert with_goal([guard]) == [guard]
    assert with_goal([]) == []
