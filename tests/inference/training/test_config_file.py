"""Configuration files: TOML, YAML and JSON give the same configuration; errors name file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import InputError
from inference.training.config import TrainConfig
from inference.training.config_file import as_table, as_toml, fields, read_config


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "stepps = 4", "stepps is not a field of a training configuration; did you mean steps?"),
        ("a.yaml", "frobnicate: 4", "frobnicate is not a field of a training configuration; `sagelift model config`"),
        ("a.yaml", "1: 4", "1 is not a field"),
        ("a.toml", 'steps = "many"', "steps: Expected `int`, got `str`"),
        ("a.toml", "steps = true", "steps: Expected `int`, got `bool`"),
        ("a.yaml", "log_q: 1", "log_q: Expected `bool`, got `int`"),
        ("a.json", '{"prefixes": [32, "64"]}', "prefixes[1]: Expected `int`, got `str`"),
        ("a.toml", 'model = "gpt"', "model: Invalid enum value 'gpt'"),
        ("a.toml", "[tasks]\n'image/click' = 'x'", "tasks[...]: Expected `float`, got `str`"),
        ("a.toml", "steps = 0", "steps (0) must be at least 1"),
        ("a.toml", "[tasks]\n'smell/click' = 1", "task 'smell/click' must be a query kind"),
        ("a.toml", "steps = = 1", "is not valid TOML"),
        ("a.yaml", "steps: [1", "is not valid YAML"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", "\xff", "is not valid JSON"),
        ("a.yaml", "- steps", "must hold fields with values"),
        ("a.yaml", "", "must hold fields with values"),
        ("a.ini", "steps = 1", "a training configuration is TOML (.toml), YAML (.yaml, .yml) or JSON (.json)"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_the_field(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as refused:
        read_config(file)
    assert str(file) in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "learning_rate = 1e-3\nprefixes = [32]\nweight_decay = 0\n[tasks]\n'image/click' = 2"),
        ("a.yaml", "learning_rate: 1e-3\nprefixes: [32]\nweight_decay: 0\ntasks: {image/click: 2}"),
        (
            "a.json",
            '{"learning_rate": 1e-3, "prefixes": [32], "weight_decay": 0, "tasks": {"image/click": 2}}',
        ),
    ],
)
def test_each_language_gives_the_same_configuration(tmp_path: Path, name: str, text: str) -> None:
    """YAML too reads 1e-3 as a number."""
    (tmp_path / name).write_text(text)
    expected = TrainConfig(learning_rate=0.001, prefixes=(32,), weight_decay=0.0, tasks={"image/click": 2.0})
    assert read_config(tmp_path / name) == expected


def test_every_field_says_what_it_means() -> None:
    assert [field.name for field in fields()] == list(TrainConfig.__struct_fields__)
    assert all(field.meaning and field.values for field in fields())


def test_the_printed_file_is_the_default_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(as_toml())
    assert read_config(tmp_path / "a.toml") == TrainConfig()
    assert as_table().count("\n") == 2 + len(TrainConfig.__struct_fields__)
