"""Options declare metrics: what they measure, what they are adjusted by, and what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from analysis.columns import Cap
from analysis.metrics import Count, Declared, Mean, Proportion, Quantile, Ratio
from sagelift.commands.metric_options import MetricOptions, RoleOptions


def declared(options: MetricOptions, quantile: list[str] | None = None, **roles: Any) -> dict[str, Declared]:
    return {metric.name: metric for metric in options.declared(quantile, RoleOptions(**roles)).metrics}


def test_each_option_declares_its_kind_of_metric() -> None:
    options = MetricOptions(mean=["gmv"], count=["clicks"], ratio=["clicks/views"], proportion=["orders"])
    assert declared(options, ["gmv@0.9"], money=["gmv"]) == {
        "gmv": Mean(name="gmv", column="gmv", unit="money"),
        "clicks": Count(name="clicks", column="clicks"),
        "clicks/views": Ratio(name="clicks/views", numerator="clicks", denominator="views"),
        "orders > 0": Proportion(name="orders > 0", column="orders"),
        "gmv@0.9": Quantile(name="gmv@0.9", column="gmv", q=0.9, unit="money"),
    }


def test_a_cap_applies_to_its_metric_only() -> None:
    metrics = declared(MetricOptions(mean=["gmv"], count=["clicks"], cap=["gmv=p99"]))
    assert metrics["gmv"].cap == Cap(upper_quantile=0.99)  # type: ignore[union-attr]
    assert metrics["clicks"].cap is None  # type: ignore[union-attr]


def test_a_covariate_is_for_all_means_and_counts_or_for_one_metric() -> None:
    options = MetricOptions(mean=["gmv"], count=["clicks"], ratio=["a/b"], covariate=["gmv_pre", "a/b=a_pre"])
    metrics = declared(options)
    assert [metrics[name].covariates for name in ("gmv", "clicks", "a/b")] == [  # type: ignore[union-attr]
        ("gmv_pre",),
        ("gmv_pre",),
        ("a_pre",),
    ]


def test_a_guardrail_may_have_a_margin_and_a_metric_may_be_better_when_lower() -> None:
    metrics = declared(
        MetricOptions(mean=["latency"], count=["clicks", "errors"]),
        guardrail=["clicks=2%", "latency"],
        lower_is_better=["latency", "errors"],
    )
    assert [(m.role, m.margin, m.direction) for m in metrics.values()] == [
        ("guardrail", None, "decrease"),
        ("guardrail", 0.02, "increase"),
        (metrics["errors"].role, None, "decrease"),
    ]
    assert metrics["errors"].role != "guardrail"


def test_the_metrics_of_a_file_come_first(tmp_path: Path) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text("metrics:\n  - {name: from_file, kind: mean, column: gmv}\n")
    assert list(declared(MetricOptions(metrics=path, mean=["gmv"]))) == ["from_file", "gmv"]


@pytest.mark.parametrize(
    ("options", "roles", "message"),
    [
        ({"mean": ["gmv", "gmv"]}, {}, "'gmv' is given twice"),
        ({"ratio": ["clicks"]}, {}, "must look like clicks/impressions"),
        ({"ratio": ["a/b"], "cap": ["a/b=p99"]}, {}, "'a/b' is not a metric that this option applies to"),
        ({"mean": ["gmv"], "cap": ["clicks=p99"]}, {}, "those are: gmv"),
        ({"ratio": ["a/b"], "covariate": ["pre"]}, {}, "but the command has none"),
        ({"mean": ["gmv"], "covariate": ["clicks=pre"]}, {}, "'clicks' is not a metric"),
        ({"mean": ["gmv"]}, {"guardrail": ["clicks"]}, "'clicks' is not a metric"),
        ({"mean": ["gmv"]}, {"lower_is_better": ["clicks"]}, "'clicks' is not a metric"),
    ],
)
def test_an_option_that_names_no_fitting_metric_is_wrong_usage(
    options: dict[str, Any], roles: dict[str, Any], message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        declared(MetricOptions(**options), **roles)
