"""Configs from JSON and YAML: a bad text is refused with the place, the value and the rule."""

from pathlib import Path

import pytest

from experiments.config import (
    ExperimentConfig,
    LayerRange,
    MetricRole,
)
from experiments.config_parsing import from_json, from_yaml, load_yaml
from experiments.errors import ConfigError
from tests.experiments.builders import RANKING_FIELDS, RANKING_YAML


def test_a_file_makes_the_same_config_as_the_code(tmp_path: Path) -> None:
    path = tmp_path / "ranking.yaml"
    path.write_text(RANKING_YAML, "utf-8")
    assert load_yaml(path) == ExperimentConfig(
        **RANKING_FIELDS,
        layer=LayerRange("home", 0, 5_000),
        surfaces=("user", "image"),
        metrics=(MetricRole("gmv_per_user", "goal"),),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight: 5000}\ncontrol", "weight: 4000}\ncontrol", "sum to 9000"),
        ("control: control\n", "control: control\ncontrol: treatment\n", "'control' is given twice"),
        (
            "control: control\n",
            "control: [control, treatment]\n",
            "control is ['control', 'treatment']: expected `str`, got `array`",
        ),
        (
            "coverage: 2000",
            "coverage: 20.5",
            "coverage is 20.5: expected `int`, got `float`; shares are whole 1/10,000",
        ),
        (
            "coverage: 2000",
            "coverage: yes",
            "coverage is True: expected `int`, got `bool`; `sagelift experiment schema` prints",
        ),
        ("salt: ranking-1\n", "", "missing required field `salt`"),
        ("coverage: 2000", "coverage: 2000\ncolour: red", "unknown field `colour`"),
        ("role: goal", "role: northstar", "northstar"),
        ("coverage: 2000", "coverage: 2000\nramp: [{at: 2026-12-01T09:00:00, coverage: 3000}]", "has no time zone"),
        ("coverage: 2000", "coverage: 2000\nramp: [{at: soon, coverage: 3000}]", "ramp[0].at is 'soon': "),
        ("coverage: 2000", "coverage: 2000\nhash_version: md5", "hash_version is 'md5': invalid enum value"),
        ("key: ranking", "key: [", "not YAML"),
        ("key: ranking", "key: !!python/name:os.system x", "not YAML"),
        (RANKING_YAML, "", "it is empty; docs/analysts/experiments.md shows an experiment"),
    ],
)
def test_a_bad_file_is_refused_under_its_name(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in RANKING_YAML
    path = tmp_path / "ranking.yaml"
    path.write_text(RANKING_YAML.replace(old, new, 1), "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_an_alias_that_contains_itself_is_refused() -> None:
    with pytest.raises(ConfigError):
        from_yaml("key: &a [*a]\n")


def test_a_missing_or_binary_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "binary.yaml")


def test_a_newer_or_broken_stored_config_is_a_config_error() -> None:
    text = ExperimentConfig(**RANKING_FIELDS).canonical_json()
    with pytest.raises(ConfigError, match="schema 7 is not known here"):
        from_json(text.replace(b'"schema":1', b'"schema":7'))
    with pytest.raises(ConfigError, match="experiment config"):
        from_json(text[:-5])


def test_an_unknown_field_of_a_newer_schema_is_reported_as_a_newer_schema() -> None:
    with pytest.raises(ConfigError, match="schema 2 is not known here"):
        from_json(b'{"schema":2,"key":"ranking","stickiness":"device"}')
