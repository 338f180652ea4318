"""`sagelift dlq` before it asks a broker: wrong usage is told by its option, times are read, terminals are safe."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sagelift.commands.dlq import app, point_in_time, printable
from sagelift.errors import SageliftError

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ID = "catalog.updates.dlq/0:17"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("list --topic orders", "'orders' is none of catalog.updates, events"),
        ("list --since yesterday", "--since: 'yesterday' is no time: write 2026-05-04"),
        ("list --until 5y", "--until: '5y' is no time"),
        ("list --since 1h --until 2h", "--since 1h is not before --until 2h"),
        ("list --limit 0", "--limit"),
        ("show 17", "ID: '17' is no dead letter's id, which looks like catalog.updates.dlq/0:17"),
        ("show", "Missing argument 'ID'"),
        (f"show {ID} --raw --json", "--raw or --json"),
        (f"replay {ID} 18", "'18' is no dead letter's id"),
        ("replay", "say which: ids, filters"),
        (f"replay {ID} --stage image", "one of the three"),
        ("replay --all --key p", "one of the three"),
        ("replay --all --rate 0", "--rate: 0 must be above 0 messages a second"),
        ("replay --all --rate -3", "--rate: -3 must be above 0"),
        ("replay --all --rate nan", "--rate: nan must be above 0"),
        ("replay --all --rate fast", "Invalid value for '--rate'"),
        ("replay --all --limit 0", "--limit"),
        ("replay --all --max-attempts 0", "--max-attempts"),
    ],
)
def test_wrong_usage_is_told_by_its_option(arguments: str, said: str) -> None:
    done = CliRunner().invoke(app, arguments.split(), env={"TERM": "dumb", "COLUMNS": "300"})
    assert done.exit_code == 2, done.output
    assert said.lower() in " ".join(done.stderr.split()).lower()


@pytest.mark.parametrize("arguments", ["list", f"show {ID}", "replay --all", f"replay {ID} --dry-run"])
def test_without_a_broker_it_says_how_to_get_one(arguments: str, tmp_path: Path) -> None:
    environment = {"SAGELIFT_STATE_DIR": str(tmp_path), "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": ""}
    done = CliRunner().invoke(app, arguments.split(), env=environment)
    assert isinstance(done.exception, SageliftError)
    assert "no Kafka is known" in str(done.exception)


def test_the_commands_are_there_before_anything_heavy_is_imported() -> None:
    heavy = {"torch", "feast", "numpy", "scipy", "kafka", "duckdb", "sqlalchemy", "pandas", "pyarrow", "tritonclient"}
    code = f"import sagelift.commands.dlq, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (None, None),
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T10:30", datetime(2026, 5, 1, 10, 30, tzinfo=UTC)),
        ("2026-05-01T10:30Z", datetime(2026, 5, 1, 10, 30, tzinfo=UTC)),
        ("2026-05-01T10:30+02:00", datetime(2026, 5, 1, 10, 30, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_time_is_a_date_or_how_long_ago(text: str | None, at: datetime | None) -> None:
    assert point_in_time(text, NOW, "--since") == at


@pytest.mark.parametrize("text", ["", "h", "-2h", "1.5h", "2 h", "99999999999999d", "٣h", "2026-13-01", "12:30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time"):
        point_in_time(text, NOW, "--since")


def test_a_poisoned_text_does_nothing_to_a_terminal() -> None:
    assert printable("Größe 7 – ok") == "Größe 7 – ok"
    assert printable("\x1b]0;owned\x07 \r\u202etxt\x9b2J") == r"\x1b]0;owned\x07 \r\u202etxt\x9b2J"
