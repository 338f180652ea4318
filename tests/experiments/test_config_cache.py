"""The file of the last good configs is complete, private, and refused when it is damaged."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from experiments.config import ExperimentConfig, Override, PublishedExperiment
from experiments.config_cache import read_configs, save_configs
from experiments.errors import ConfigError
from tests.experiments.builders import configs, published


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(configs())
def test_configs_survive_the_file(tmp_path: Path, config: ExperimentConfig) -> None:
    kept = [PublishedExperiment(config, 3, "paused", (Override("u", config.control, 5),))]
    save_configs(tmp_path / "configs.json", kept, 17)
    assert read_configs(tmp_path / "configs.json") == (kept, 17)


def test_only_its_owner_reads_the_file_and_no_temporary_file_stays(tmp_path: Path, config: ExperimentConfig) -> None:
    path = tmp_path / "new" / "configs.json"
    for version in (1, 2):
        save_configs(path, [published(config, version)], 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert read_configs(path)[0][0].version == 2


def test_a_file_of_a_newer_schema_or_a_damaged_one_is_refused(tmp_path: Path, config: ExperimentConfig) -> None:
    path = tmp_path / "configs.json"
    save_configs(path, [published(config)], 1)
    text = path.read_text()
    for changed, message in (
        (text.replace('"schema":1', '"schema":2', 1), "has schema 2, and this program reads 1"),
        (text.replace("ranking-1", "ranking-2"), "is damaged"),
        (text[:-9], "is not a file of configs"),
        ("", "is not a file of configs"),
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ConfigError, match=message):
            read_configs(path)


def test_the_file_is_json_that_a_person_can_read(tmp_path: Path, config: ExperimentConfig) -> None:
    save_configs(tmp_path / "c.json", [published(config)], 5)
    assert json.loads((tmp_path / "c.json").read_text())["experiments"][0]["config"]["key"] == "ranking"
