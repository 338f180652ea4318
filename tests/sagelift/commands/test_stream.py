"""`sagelift stream`: the contracts for others, and the pace of `status`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sagelift.commands.cli import app
from sagelift.commands.stream import statuses
from sagelift.errors import SettingsError
from sagelift.settings import load_settings
from tests.streaming.schema_registry import Registry


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with Registry() as server:
        monkeypatch.setenv("SAGELIFT_SCHEMA_REGISTRY__URL", server.url)
        yield server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["stream", *arguments])


def test_the_contracts_are_listed_and_printed() -> None:
    assert "product-update      catalog.updates\n" in run("schema").output
    assert json.loads(run("schema", "event").output)["title"] == "Event"
    assert json.loads(run("schema", "event", "--format", "avro").output)["type"] == "record"


def test_a_contract_that_does_not_exist_is_answered_with_those_that_do() -> None:
    result = run("schema", "dead-letter", "--format", "avro")
    assert result.exit_code == 2
    assert "has no schema in avro" in result.output
    assert "product-update" in result.output


def test_all_schemas_are_registered(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELIFT_SCHEMA_REGISTRY__FORMAT", "avro")
    result = run("register")
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == len(registry.subjects) == 4
    assert "     1  catalog.updates-value\n" in result.output
    assert {schema.kind for schema in registry.schemas} == {"AVRO"}


def test_without_a_registry_there_is_nothing_to_register_with() -> None:
    with pytest.raises(SettingsError, match="SAGELIFT_SCHEMA_REGISTRY__URL"):
        CliRunner().invoke(app, ["stream", "register"], catch_exceptions=False)


@pytest.mark.parametrize("at_once", [True, False])
def test_the_status_pauses_between_two_readings_without_any_consumer(tmp_path: Path, at_once: bool) -> None:
    pauses: list[float] = []
    settings = load_settings(state_dir=tmp_path)
    readings = list(islice(statuses(settings, [], 2.0, at_once=at_once, sleep=pauses.append), 3))
    assert pauses == [2.0, 2.0]
    assert not any(reading.healthy for reading in readings)


@pytest.mark.parametrize(("at_once", "expected"), [(True, []), (False, [2.0])])
def test_a_single_status_of_a_consumer_waits_for_its_rates_but_a_live_one_does_not(
    tmp_path: Path, at_once: bool, expected: list[float]
) -> None:
    pauses: list[float] = []
    silent = ["http://127.0.0.1:9"]
    next(statuses(load_settings(state_dir=tmp_path), silent, 2.0, at_once=at_once, sleep=pauses.append))
    assert pauses == expected
