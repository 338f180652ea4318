"""Experiments as files: the JSON Schema agrees with the rules, and conflicts between files are found."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from experiments import config_files
from experiments.config_parsing import from_yaml
from experiments.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "key": "ranking",
    "salt": "ranking-1",
    "coverage": 2_000,
    "control": "control",
    "arms": [{"key": "control", "weight": 5_000}, {"key": "treatment", "weight": 5_000}],
}


def write(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"key": name, "salt": f"{name}-1"} | changes), encoding="utf-8")
    return path


def test_the_json_schema_in_docs_is_current() -> None:
    """`sagelift experiment schema > docs/reference/experiment.schema.json` writes it."""
    written = json.loads((REPOSITORY / "docs" / "reference" / "experiment.schema.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(config_files.json_schema()))


def test_the_schema_accepts_the_examples_of_the_documentation() -> None:
    text = (REPOSITORY / "docs" / "analysts" / "experiments.md").read_text("utf-8")
    shown = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("key:")]
    validator = jsonschema_rs.validator_for(config_files.json_schema())
    assert shown
    for block in shown:
        from_yaml(block)
        validator.validate(json.loads(json.dumps(yaml.safe_load(block), default=str)))


def test_a_config_written_as_yaml_is_read_as_the_same_config() -> None:
    text = (REPOSITORY / "docs" / "analysts" / "experiments.md").read_text("utf-8")
    (block,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("key:"))
    for shown in (block, yaml.safe_dump(GOOD | {"description": "größer: ja"})):
        config = from_yaml(shown)
        written = config_files.to_yaml(config)
        assert from_yaml(written) == config
    assert "prerequisites" not in written, "fields that are empty are left out"


@pytest.mark.parametrize(
    "change",
    [
        {"key": "Ranking"},
        {"coverage": 10_001},
        {"coverage": "all"},
        {"salt": "two words"},
        {"colour": "red"},
        {"arms": GOOD["arms"][:1]},
        {"arms": [{"key": "control", "weight": 0}, {"key": "treatment", "weight": 10_000}]},
        {"layer": {"key": "home", "start": -1, "end": 5}},
        {"hash_version": "md5"},
        {"schema": 2},
    ],
)
def test_configs_that_the_schema_refuses_break_the_rules_too(change: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(config_files.json_schema())
    assert validator.is_valid(GOOD)
    assert not validator.is_valid(GOOD | change)
    with pytest.raises(ConfigError):
        from_yaml(yaml.safe_dump(GOOD | change))


def test_a_whole_folder_is_read_and_its_problems_are_listed_by_file(tmp_path: Path) -> None:
    write(tmp_path, "one")
    write(tmp_path, "two", salt="one-1")
    write(tmp_path, "three", layer={"key": "home", "start": 0, "end": 5_000})
    write(tmp_path, "four", layer={"key": "home", "start": 4_999, "end": 9_000})
    write(tmp_path, "five", prerequisites=[{"experiment": "six", "arms": ["control"]}])
    write(tmp_path, "six", prerequisites=[{"experiment": "five", "arms": ["control"]}])
    write(tmp_path, "seven", coverage=-1)
    (tmp_path / "eight.yml").write_text("key: [", encoding="utf-8")
    (tmp_path / "README.md").write_text("not an experiment", encoding="utf-8")
    configs, faults = config_files.read(config_files.experiment_files([tmp_path]))
    assert {config.key for config in configs.values()} == {"one", "two", "three", "four", "five", "six"}
    result = {(Path(fault.file).stem, fault.message) for fault in faults}
    messages = {name: [message for stem, message in result if stem == name] for name, _ in result}
    assert set(messages) == {"two", "three", "four", "five", "six", "seven", "eight"}
    assert "salt 'one-1' is also that of" in messages["two"][0]
    assert "'four' has [4999, 9000)" in messages["three"][0]
    assert "five -> six -> five" in messages["five"][0]
    assert "coverage -1" in messages["seven"][0]
    assert "not YAML" in messages["eight"][0]


def test_a_folder_without_experiments_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no experiment"):
        config_files.experiment_files([tmp_path])
