"""Metrics are reviewed as files and frozen as versions; an experiment names published ones."""

from typing import Any

import msgspec
import pytest

from experiments.config import ExperimentConfig, MetricRole
from experiments.errors import ConfigError
from experiments.metrics import definitions, from_yaml
from experiments.store import ExperimentStore

YAML = """\
metrics:
  - {name: gmv_per_user, owner: pricing, tier: 1, kind: mean, column: gmv_net, cap: {upper_quantile: 0.99}}
  - {name: ctr, owner: ranking, tier: 2, kind: ratio, numerator: clicks, denominator: impressions}
"""
GMV = {"name": "gmv", "owner": "pricing", "tier": 1, "kind": "mean", "column": "gmv_net"}


def test_a_file_declares_who_owns_a_metric_and_how_much_it_counts() -> None:
    gmv, ctr = from_yaml(YAML)
    assert (gmv.key, gmv.owner, gmv.tier, gmv.definition["cap"]) == (
        "gmv_per_user",
        "pricing",
        1,
        {"upper_quantile": 0.99},
    )
    assert (ctr.key, ctr.owner, ctr.tier) == ("ctr", "ranking", 2)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{**GMV, "name": "GMV per user"}], r"metric 1 \('GMV per user'\): its name must begin with a-z"),
        ([{**GMV, "name": None}], "its name must begin"),
        ([{**GMV, "owner": " "}], "its owner is ' '; give a plain text that says whom to ask"),
        ([{**GMV, "owner": "a\0"}], "its owner is 'a\\\\x00'"),
        ([{**GMV, "tier": 4}], "its tier is 4; give 1"),
        ([{**GMV, "tier": True}], "its tier is True"),
        ([{**GMV, "tier": "1"}], "its tier is '1'"),
        ([GMV, GMV], r"metric 2 \('gmv'\): its name is given twice"),
        (["gmv"], "metric 1 is 'gmv'; it must be a mapping"),
        ([{**GMV, "column": {1, 2}, "tier": 0}], "its tier is 0"),
        ([{**GMV, "column": object()}], "has a value that JSON cannot"),
    ],
)
def test_a_metric_without_an_owner_is_refused(entries: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        definitions(entries)


@pytest.mark.parametrize(
    "text", ["", "metrics: []", "- a", "metrics: {a: 1}", "metrics: [", "metrics: !!python/name:os.system x"]
)
def test_a_file_without_metrics_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"m\.yaml: "):
        from_yaml(text, name="m.yaml")


def test_a_metric_that_changes_is_a_new_version_and_one_that_does_not_is_none(store: ExperimentStore) -> None:
    assert store.publish_metrics(from_yaml(YAML), actor="ada") == {"gmv_per_user": 1, "ctr": 1}
    changed = YAML.replace("gmv_net", "gmv_gross")
    assert store.publish_metrics(from_yaml(changed), actor="bob", reason="#7") == {"gmv_per_user": 2, "ctr": 1}
    ctr, gmv = store.metrics()
    assert (gmv.version, gmv.definition["column"], gmv.created_by) == (2, "gmv_gross", "bob")
    assert ctr.version == 1
    assert [(e.actor, e.detail["version"]) for e in store.audit("gmv_per_user")] == [("bob", 2), ("ada", 1)]
    assert gmv.sha256 == from_yaml(changed)[0].sha256()


def test_metrics_are_published_all_or_none(store: ExperimentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = from_yaml(YAML)
    unsound = msgspec.structs.replace(second, owner="")  # made past the checks: the database refuses it
    with pytest.raises(Exception, match="CHECK"):
        store.publish_metrics([first, unsound], actor="ada")
    assert store.metrics() == []


def test_once_metrics_are_published_an_experiment_names_these(store: ExperimentStore, config: ExperimentConfig) -> None:
    free = msgspec.structs.replace(config, metrics=(MetricRole("clicks", "goal"),))
    assert store.publish(free, actor="ada", create=True) == 1
    store.publish_metrics(from_yaml(YAML), actor="ada")
    wrong = msgspec.structs.replace(config, metrics=(MetricRole("gmv_per_users", "goal"),))
    with pytest.raises(ConfigError, match=r"'gmv_per_users' is not published \(did you mean 'gmv_per_user'\?\)"):
        store.publish(wrong, actor="ada")
    right = msgspec.structs.replace(config, metrics=(MetricRole("ctr", "guardrail"),))
    assert store.publish(right, actor="ada") == 2
