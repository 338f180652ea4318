"""The command line: quick to start, one sentence for an expected failure, data on stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
HEAVY = {"torch", "feast", "numpy", "scipy", "kafka", "duckdb", "sqlalchemy", "pandas", "pyarrow", "tritonclient"}


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
        (("catalog", "refresh-images"), 2, "product ids, or --all"),
        (("catalog", "refresh-images", "sku-1", "--all"), 2, "product ids, or --all"),
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


def test_publishing_without_a_broker_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "products.jsonl").write_text('{"id": "a", "title": "A", "price": 1}\n')
    done = sagelift("catalog", "publish", "products.jsonl", state=tmp_path)
    assert done.returncode == 3
    assert "sagelift up" in done.stderr
    assert "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS" in done.stderr


def test_an_unreachable_broker_is_named(tmp_path: Path) -> None:
    (tmp_path / "products.jsonl").write_text('{"id": "a", "title": "A", "price": 1}\n')
    done = sagelift(
        "catalog", "publish", "products.jsonl", state=tmp_path, SAGELIFT_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:9"
    )
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_lists_refused_rows_and_exits_1(tmp_path: Path) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text('{"id": "a", "title": "A", "price": 1}\n{"id": "b", "title": "B", "price": -1}\n')
    done = sagelift("catalog", "check", str(feed), "--json", state=tmp_path)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["good"] == 1
    assert [(r["row"], r["id"]) for r in answer["refused"]] == [(2, "b")]


def test_the_page_of_settings_is_current(tmp_path: Path) -> None:
    done = sagelift("settings", "--markdown", state=tmp_path)
    assert done.stdout == (REPOSITORY / "docs" / "reference" / "settings.md").read_text()


def test_a_sample_catalogue_is_a_valid_feed(tmp_path: Path) -> None:
    assert sagelift("catalog", "sample", "shop", "--products", "5", state=tmp_path).returncode == 0
    done = sagelift("catalog", "check", "shop", state=tmp_path)
    assert (done.returncode, done.stdout) == (0, "5 good, 0 refused\n")


def test_an_experiment_goes_from_file_to_assignment(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(
        "key: checkout\nsalt: checkout-1\ncoverage: 10000\ncontrol: a\n"
        "arms:\n  - {key: a, weight: 5000}\n  - {key: b, weight: 5000}\n"
    )
    assert sagelift("experiment", "publish", "e.yaml", "--actor", "me", state=tmp_path).returncode == 0
    assert sagelift("assign", "u", "--experiment", "checkout", state=tmp_path).returncode == 3  # still a draft
    started = sagelift("experiment", "set", "checkout", "running", "--actor", "me", "--reason", "go", state=tmp_path)
    assert started.returncode == 0, started.stderr
    done = sagelift("assign", "u", "--experiment", "checkout", "--explain", "--json", state=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["decision"]["arm"] in ("a", "b")
    assert answer["decision"]["enrolled"] is True
    assert answer["steps"]
    missing = sagelift("assign", "--experiment", "checkout", "--", "", state=tmp_path)
    assert missing.stdout == "a (not enrolled: unit_missing)\n"
    told = sagelift("assign", "u", "--experiment", "checkout", "--explain", state=tmp_path)
    assert "+ split: " in told.stdout


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


def test_a_feed_in_a_folder_named_by_way_of_its_parent_keeps_its_images(tmp_path: Path) -> None:
    assert sagelift("catalog", "sample", "shop", "--products", "2", state=tmp_path).returncode == 0
    (tmp_path / "elsewhere").mkdir()
    done = sagelift("catalog", "check", "elsewhere/../shop", state=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 good, 0 refused\n"), done.stderr
