"""The rule from metrics to a verdict, and Holm's adjustment."""

import msgspec
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.checks import Check
from analysis.metrics import Direction, Role
from analysis.multiple_testing import holm
from analysis.verdict import Evidence, reach_verdict, vetoes

OK = Check(name="sample_ratio", status="ok", sentence="fine")
WARN = Check(name="heavy_tail", status="warn", sentence="careful")
FAIL = Check(name="sample_ratio", status="fail", sentence="The split is off.")


def evidence(
    difference: float | None, p: float | None, role: Role = "goal", direction: Direction = "increase", label: str = "m"
) -> Evidence:
    return Evidence(label=label, role=role, direction=direction, difference=difference, p=p, estimate="+1%")


@pytest.mark.parametrize(
    ("metrics", "conclusion"),
    [
        ([evidence(1, 0.01)], "ship"),
        ([evidence(1, 0.05)], "keep running"),
        ([evidence(-1, 0.01)], "do not ship"),
        ([evidence(-1, 0.01, direction="decrease")], "ship"),
        ([evidence(1, 0.01, direction="decrease")], "do not ship"),
        ([evidence(1, 0.01), evidence(-1, 0.01, "guardrail")], "do not ship"),
        ([evidence(1, 0.01), evidence(-1, 0.3, "guardrail")], "ship"),
        ([evidence(1, 0.01), evidence(-1, 0.01, label="other goal")], "do not ship"),
        ([evidence(1, 0.01), evidence(-1, 0.001, "secondary")], "ship"),
        ([evidence(1, 0.3), evidence(1, 0.001, "secondary")], "keep running"),
        ([evidence(None, None)], "keep running"),
    ],
)
def test_the_verdict_follows_goals_and_guardrails_only(metrics: list[Evidence], conclusion: str) -> None:
    verdict = reach_verdict(metrics, [OK])
    assert verdict.conclusion == conclusion
    assert verdict.reasons


def test_a_failed_check_overrules_the_best_result() -> None:
    verdict = reach_verdict([evidence(1, 1e-9)], [OK, WARN, FAIL])
    assert verdict.conclusion == "cannot trust"
    assert verdict.reasons == ["The split is off."]


def test_a_warning_is_named_and_does_not_reach_verdict() -> None:
    verdict = reach_verdict([evidence(1, 0.01)], [WARN])
    assert verdict.conclusion == "ship"
    assert verdict.reasons[-1] == "Read with care: heavy tail."


# Benjamini and Hochberg 1995, table 1.
BH_1995 = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
    *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0),
]


def test_holm_agrees_with_statsmodels_and_rejects_three_of_the_published_fifteen() -> None:
    ours = holm(BH_1995[::-1])[::-1]
    assert ours == pytest.approx(list(multipletests(BH_1995, method="holm")[1]), rel=1e-12)
    assert sum(p is not None and p < 0.05 for p in ours) == 3


def test_holm_leaves_out_what_could_not_be_tested() -> None:
    assert holm([0.02, None, 0.03]) == [0.04, None, 0.04]
    assert holm([]) == []


def test_a_guardrail_with_a_margin_has_to_be_shown_to_hold_before_shipping() -> None:
    better = evidence(1, 0.01)
    guard = Evidence(label="latency", role="guardrail", direction="decrease", difference=1.0, p=0.4, estimate="+1%",
                   margin=0.02, holds=False)  # fmt: skip
    waiting = reach_verdict([better, guard], [OK])
    assert waiting.conclusion == "keep running"
    assert any("latency (guardrail) is not yet shown to lose less than 2 %" in r for r in waiting.reasons)
    shown = reach_verdict([better, msgspec.structs.replace(guard, holds=True)], [OK])
    assert shown.conclusion == "ship"
    assert "Shown to hold: latency." in shown.reasons
    worse = reach_verdict([better, msgspec.structs.replace(guard, p=0.01)], [OK])
    assert worse.conclusion == "do not ship"


def test_an_undecided_goal_says_how_long_it_would_take() -> None:
    waiting = msgspec.structs.replace(evidence(1, 0.3), outlook="about 9 more days for ±2 %")
    verdict = reach_verdict([waiting], [OK])
    assert verdict.reasons == ["m is undecided: +1%; about 9 more days for ±2 %."]


@pytest.mark.parametrize(
    ("worse", "ruled_out", "veto"),
    [
        (True, None, True),
        (False, None, False),
        (True, False, True),
        (True, True, False),
        (False, False, False),
        (False, True, False),
    ],
)
def test_a_guardrail_vetoes_if_it_is_worse_and_its_margin_does_not_excuse_it(
    worse: bool, ruled_out: bool | None, veto: bool
) -> None:
    assert vetoes(worse=worse, ruled_out=ruled_out) is veto


def test_a_loss_that_is_shown_to_be_within_the_margin_does_not_veto() -> None:
    loss = msgspec.structs.replace(evidence(-1, 0.001, "guardrail", label="gmv"), margin=0.02, holds=True)
    verdict = reach_verdict([evidence(1, 0.01), loss], [OK])
    assert verdict.conclusion == "ship"
    assert "Shown to hold: gmv." in verdict.reasons


@pytest.mark.parametrize(
    ("guardrails", "conclusion"),
    [
        ([msgspec.structs.replace(evidence(-1, 0.3, "guardrail"), margin=0.02, holds=True)], "ship"),
        ([msgspec.structs.replace(evidence(-1, 0.3, "guardrail"), margin=0.02, holds=False)], "keep running"),
        ([evidence(-1, 0.3, "guardrail")], "keep running"),
        ([evidence(1, 0.001, "guardrail")], "keep running"),
        ([evidence(-1, 0.001, "guardrail")], "do not ship"),
    ],
)
def test_without_goals_the_verdict_is_about_the_guardrails_only(guardrails: list[Evidence], conclusion: str) -> None:
    verdict = reach_verdict(guardrails, [OK])
    assert verdict.conclusion == conclusion
    if conclusion != "do not ship":
        assert verdict.reasons[0] == "No metric is a goal, so the verdict is about the guardrails only."
