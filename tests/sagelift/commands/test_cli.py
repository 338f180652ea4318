"""The command line: quick to start, one sentence for an expected failure, data on stdout, help for every option."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sagelift.commands.cli import app

REPOSITORY = Path(__file__).parents[3]
HEAVY = {"torch", "feast", "numpy", "scipy", "kafka", "duckdb", "sqlalchemy", "pandas", "pyarrow", "tritonclient"}
MANY_OPTIONS = 12
"""A command with more options groups them in panels."""


def sagelift(*args: str, state: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sagelift", *args],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "SAGELIFT_STATE_DIR": str(state), **env},
        cwd=state,
    )


@pytest.mark.parametrize(
    "statement", ["import sagelift", "import sagelift.commands.cli", "import streaming, inference, analysis"]
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str) -> None:
    code = f"{statement}; import sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("args", "listed"),
    [
        ((), ("catalog", "features", "stream", "dlq", "model", "experiment", "demo", "report")),
        (("model",), ("train", "config", "evaluate", "export", "release", "live", "list")),
    ],
)
def test_help_lists_every_command_and_imports_nothing_heavy(args: tuple[str, ...], listed: tuple[str, ...]) -> None:
    code = (
        f"import sys; sys.argv = ['sagelift', *{args!r}, '--help']\n"
        "from sagelift.commands.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for name in listed:
        assert f" {name} " in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("catalog", "check", "nothing.jsonl"), 3, "nothing.jsonl"),
        (("catalog", "refresh-images"), 2, "give product ids, or --all"),
        (("catalog", "refresh-images", "sku-1", "--all"), 2, "give product ids, or --all"),
        (("stream", "register"), 2, "SAGELIFT_SCHEMA_REGISTRY__URL"),
        (("catalog", "publish", "nothing.jsonl"), 3, "nothing.jsonl"),
        (("catalog", "check", "--format", "pdf", "nothing.jsonl"), 3, "pdf"),
        (("status",), 1, "No local stack is running"),
        (("model", "train"), 3, "no product"),
        (("model", "release"), 3, "no training run"),
        (("model", "release", "--resume", "7"), 3, "no release '7'"),
        (("model", "release", "--resume", "7", "--run", "x"), 2, "leave out --run"),
        (("model", "live", "7"), 3, "no release '7'"),
        (("assign", "user-1", "--experiment", "none"), 3, "'none'"),
        (("report", "none", "--control", "a", "--treatment", "b"), 3, "none"),
        (("experiment", "publish", "missing.yaml", "--actor", "me"), 3, "missing.yaml"),
        (("frobnicate",), 2, "frobnicate"),
        (("report",), 2, "EXPERIMENT"),
    ],
)
def test_an_expected_failure_is_one_sentence_and_an_exit_code(
    tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    done = sagelift(*args, state=tmp_path)
    assert done.returncode == code, done.stderr
    assert said.lower() in (done.stdout + done.stderr).lower()
    assert "Traceback" not in done.stderr


def test_an_unreachable_broker_is_named(tmp_path: Path) -> None:
    (tmp_path / "products.jsonl").write_text('{"id": "a", "title": "A", "price": 1}\n')
    done = sagelift(
        "catalog", "publish", "products.jsonl", state=tmp_path, SAGELIFT_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:9"
    )
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_experiment_goes_from_file_to_assignment(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(
        "key: checkout\nsalt: checkout-1\ncoverage: 10000\ncontrol: a\n"
        "arms:\n  - {key: a, weight: 5000}\n  - {key: b, weight: 5000}\n"
    )
    assert sagelift("experiment", "publish", "e.yaml", "--actor", "me", state=tmp_path).returncode == 0
    assert sagelift("assign", "u", "--experiment", "checkout", state=tmp_path).returncode == 3  # still a draft
    started = sagelift("experiment", "start", "checkout", "--actor", "me", "--reason", "go", state=tmp_path)
    assert started.returncode == 0, started.stderr
    done = sagelift("assign", "u", "--experiment", "checkout", "--explain", "--json", state=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["assignment"]["arm"] in ("a", "b")
    assert answer["assignment"]["enrolled"] is True
    assert answer["steps"]
    missing = sagelift("assign", "--experiment", "checkout", "--", "", state=tmp_path)
    assert missing.stdout == "a (not enrolled: unit_missing)\n"
    explained = sagelift("assign", "u", "--experiment", "checkout", "--explain", state=tmp_path)
    assert "+ split: " in explained.stdout


def test_a_database_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/no/such/folder/x.db"
    done = sagelift("experiment", "list", state=tmp_path, SAGELIFT_EXPERIMENTS__DATABASE_URL=url)
    assert done.returncode == 3
    assert "unable to open database file" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_documented_experiment_can_be_published(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "analysts" / "experiments.md").read_text()
    (tmp_path / "e.yaml").write_text(page.split("```yaml\n", 1)[1].split("```", 1)[0])
    assert sagelift("experiment", "layer", "create", "product-page", "--actor", "me", state=tmp_path).returncode == 0
    done = sagelift("experiment", "publish", "e.yaml", "--actor", "me", state=tmp_path)
    assert (done.returncode, done.stdout) == (0, "similar-products version 1\n"), done.stderr


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    yield " ".join(path), command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _is_sentence(text: str) -> bool:
    return bool(text) and (text[0].isupper() or text[0] in "`-") and text.rstrip().endswith(".")


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_every_option_has_help_in_sentences(path: str) -> None:
    command = COMMANDS[path]
    assert _is_sentence(command.help.partition("\n\n")[0]), command.help
    for parameter in command.params:
        if parameter.name != "help":
            assert _is_sentence(parameter.help or ""), (parameter.name, parameter.help)


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_with_many_options_groups_them(path: str) -> None:
    options = [parameter for parameter in COMMANDS[path].params if parameter.param_type_name == "option"]
    if len(options) > MANY_OPTIONS:
        assert len({option.rich_help_panel for option in options}) > 1
