"""The commands of unit tokens and erasure, and the secret that they are made from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sagelift.errors import SettingsError
from sagelift.settings import load_settings
from tests.sagelift.commands.experiment.commands import run

KEY = "0f" * 32
WHO = ("--actor", "ada", "--reason", "request 4711")


@pytest.fixture(autouse=True)
def _token_key(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__TOKEN_KEY", KEY)


def test_tokens_are_printed_in_the_order_of_arguments_or_stdin() -> None:
    ann, bob, again = run("unit", "token", "ann", "bob", "ann").stdout.split()
    assert ann == again != bob
    assert len(ann) == 32
    assert run("unit", "token", "-", stdin="bob\r\nann\n\n").stdout.split() == [bob, ann]
    assert json.loads(run("unit", "token", "ann", "--json").stdout) == {"units": [ann]}


def test_erasure_is_in_the_audit_log_and_names_no_one() -> None:
    ann, bob = run("unit", "token", "ann", "bob").stdout.split()
    assert run("unit", "erase", "-", *WHO, stdin="ann\ncarl\n").stdout == "1 of 2 users erased\n"
    log = run("audit", "--subject", "unit_token", "--json").stdout
    assert [(row["actor"], row["action"], row["detail"]) for row in json.loads(log)] == [
        ("ada", "erase", {"found": result}) for result in (False, True)
    ]
    assert all(name not in log for name in ("ann", "carl", ann))
    new, same = run("unit", "token", "ann", "bob").stdout.split()
    assert new != ann
    assert same == bob


def test_one_user_that_is_refused_has_nobody_erased() -> None:
    ann = run("unit", "token", "ann").stdout
    for others, reason in ((["a\0"], "request 1"), (["bob"], "bob asked")):
        assert run("unit", "erase", "ann", *others, "--actor", "ada", "--reason", reason).exit_code == 1
    assert run("unit", "token", "ann").stdout == ann
    assert json.loads(run("audit", "--json").stdout) == []


def test_without_a_key_the_command_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__TOKEN_KEY", "")
    command = [sys.executable, "-m", "sagelift", "experiment", "unit", "token", "ann"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "SAGELIFT_EXPERIMENTS__TOKEN_KEY" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("wrong", ["hunter2", "0f" * 31, "0f" * 32 + "0", "xy" * 32, " " + "0f" * 32])
def test_a_wrong_key_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__TOKEN_KEY", wrong)
    with pytest.raises(
        SettingsError, match=r"experiments\.token_key: it must be an even number of hexadecimal digits"
    ) as caught:
        load_settings()
    assert wrong not in str(caught.value)


def test_the_key_is_never_shown_and_reaches_a_child_process() -> None:
    settings = load_settings()
    assert KEY not in repr(settings) + settings.model_dump_json()
    assert settings.environment()["SAGELIFT_EXPERIMENTS__TOKEN_KEY"] == KEY
