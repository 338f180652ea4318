"""`sagelift dlq` before it asks a broker: wrong usage names the option, and a missing broker the remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sagelift.commands.dlq import app
from sagelift.errors import SageliftError

ID = "catalog.updates.dlq/0:17"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("list --topic orders", "'orders' is none of catalog.updates, events"),
        ("list --since yesterday", "--since: 'yesterday' is not a time; write 2026-03-01T12:00:00Z, or how long ago"),
        ("list --until 5y", "--until: '5y' is not a time"),
        ("list --since 1h --until 2h", "--since 1h is not before --until 2h"),
        ("list --limit 0", "--limit"),
        ("show 17", "ID: '17' is not the id of a dead letter, which looks like catalog.updates.dlq/0:17"),
        ("show", "Missing argument 'ID'"),
        (f"show {ID} --raw --json", "--raw or --json"),
        (f"replay {ID} 18", "'18' is not the id of a dead letter"),
        ("replay", "say which letters: ids, filters"),
        (f"replay {ID} --stage image", "one of the three"),
        ("replay --all --key p", "one of the three"),
        ("replay --all --rate 0", "--rate: 0 must be above 0 messages per second"),
        ("replay --all --rate -3", "--rate: -3 must be above 0"),
        ("replay --all --rate nan", "--rate: nan must be above 0"),
        ("replay --all --rate fast", "Invalid value for '--rate'"),
        ("replay --all --limit 0", "--limit"),
        ("replay --all --max-attempts 0", "--max-attempts"),
    ],
)
def test_wrong_usage_names_the_option(arguments: str, said: str) -> None:
    done = CliRunner().invoke(app, arguments.split(), env={"TERM": "dumb", "COLUMNS": "300"})
    assert done.exit_code == 2, done.output
    assert said.lower() in " ".join(done.stderr.split()).lower()


@pytest.mark.parametrize("arguments", ["list", f"show {ID}", "replay --all", f"replay {ID} --dry-run"])
def test_without_a_broker_it_says_how_to_get_one(arguments: str, tmp_path: Path) -> None:
    environment = {"SAGELIFT_STATE_DIR": str(tmp_path), "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": ""}
    done = CliRunner().invoke(app, arguments.split(), env=environment)
    assert isinstance(done.exception, SageliftError)
    assert "no Kafka is configured" in str(done.exception)


def test_the_commands_exist_before_heavy_imports() -> None:
    heavy = {"torch", "feast", "numpy", "scipy", "kafka", "duckdb", "sqlalchemy", "pandas", "pyarrow", "tritonclient"}
    code = f"import sagelift.commands.dlq, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
