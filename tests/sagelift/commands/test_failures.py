"""Failures: an expected one is a sentence and an exit code, a defect is neither."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from analysis.errors import AnalysisError, ArgumentError, MetricError, MissingColumnError
from experiments.errors import ExperimentsError
from feature_repo.errors import FeatureRepoError
from inference.errors import InferenceError
from sagelift.commands.failures import explain
from sagelift.errors import DemoError, SettingsError
from sagelift.stack.errors import StackError
from streaming.errors import StreamingError


def test_wrong_settings_are_exit_code_2() -> None:
    assert explain(SettingsError("kafka.port is 0")) == ("kafka.port is 0", 2)


def test_wrong_options_of_the_analysis_are_exit_code_2() -> None:
    assert explain(ArgumentError("seed is -1")) == ("seed is -1", 2)
    assert explain(MetricError("no metric")) == ("no metric", 2)
    assert explain(MissingColumnError("gmw", ["gmv"], "users")) == (
        "users has no column 'gmw'. Did you mean 'gmv'?",
        2,
    )


@pytest.mark.parametrize(
    "kind",
    [DemoError, AnalysisError, ExperimentsError, FeatureRepoError, InferenceError, StackError, StreamingError],
)
def test_an_error_of_any_package_is_its_message_and_exit_code_3(kind: type[Exception]) -> None:
    assert explain(kind("it failed")) == ("it failed", 3)


def test_a_system_error_names_its_file() -> None:
    assert explain(FileNotFoundError(2, "No such file or directory", "a.yaml")) == (
        "a.yaml: No such file or directory",
        3,
    )
    assert explain(OSError("disk full")) == ("disk full", 3)


def test_an_error_of_a_database_is_its_first_line() -> None:
    error = OperationalError("select 1", {}, sqlite3.OperationalError("unable to open database file\nmore"))
    failure = explain(error)
    assert failure is not None
    sentence, code = failure
    assert sentence.startswith("the database cannot be used: unable to open database file; check the settings")
    assert "select" not in sentence
    assert code == 3


def test_a_defect_has_no_explanation() -> None:
    assert explain(KeyError("x")) is None
