"""`sagelift features materialize`: what it prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from feature_repo.locks import run_lock
from feature_repo.store import ProductFeatureStore
from sagelift.commands.features import app
from tests.feature_repo.builders import make_product
from tests.feature_repo.jobs.builders import OFFERS, offers


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder whose history has three products, one of which is newer online."""
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path))
    with ProductFeatureStore.open(tmp_path) as store:
        store.write_features([make_product("a", 5)])
        offers(store, {"a": 1, "b": 1, "c": 1})
    return tmp_path


def materialize(*options: str) -> Any:
    return CliRunner().invoke(app, ["materialize", "--view", OFFERS, *options])


def test_a_dry_run_says_what_would_be_written_and_a_run_writes_it(state: Path) -> None:
    dry = materialize("--dry-run")
    assert (dry.exit_code, "dry_run  3 products in" in dry.stdout, "2 to write, 1 kept" in dry.stdout) == (
        0,
        True,
        True,
    )
    run = materialize()
    assert run.exit_code == 0
    assert "2 written, 1 kept" in run.stdout
    assert "3 equal, 0 fresher online" in run.stdout
    with ProductFeatureStore.open(state) as store:
        assert {id: row.version for id, row in store.read_offers("abc").items()} == {"a": 5, "b": 1, "c": 1}


def test_json_is_the_summary(state: Path) -> None:
    (view,) = json.loads(materialize("--json").stdout)["views"]
    assert (view["view"], view["outcome"], view["written"]) == (OFFERS, "done", 2)


def test_a_view_that_another_run_works_on_is_exit_code_4(state: Path) -> None:
    with ProductFeatureStore.open(state) as store:
        home = store.home
    with run_lock(home / "materialize" / OFFERS / "lock", "another run"):
        done = materialize()
    assert done.exit_code == 4
    assert f"{OFFERS:<32} locked" in done.stdout
    assert "sagelift: " in done.stderr
