"""`sagelift features`: wrong options are refused before anything is opened; what `status` prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from feature_repo.store import ProductFeatureStore
from sagelift.commands.features import app
from tests.feature_repo.builders import make_embedding, make_product


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("materialize", "--since", "yesterday"), "'yesterday' is not a time; write 2026-03-01T12:00:00Z"),
        (("materialize", "--until", "2026-03-01"), "'2026-03-01' has no time zone; add one, such as Z for UTC"),
        (("status", "--max-age", "1 week"), "'1 week' is not a duration"),
        (("status", "--max-age", "h"), "'h' is not a duration"),
        (("status", "--max-empty", "title"), "'title' is not a limit; write a feature and a share"),
        (("status", "--max-empty", "title=2"), "'title=2' is not a limit"),
        (("status", "--canary", "m1"), "'m1' does not name two model versions; write OLD:NEW"),
        (("status", "--canary", ":m1"), "':m1' does not name two model versions"),
        (("status", "--min-overlap", "0.5"), "--min-overlap need --canary OLD:NEW"),
    ],
)
def test_wrong_options_are_named(
    options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SAGELIFT_STATE_DIR", f"{tmp_path}/state")
    monkeypatch.setenv("COLUMNS", "300")
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


@pytest.fixture
def two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with 30 products whose second model has nothing in common with the first."""
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path / "state"))
    ids = [f"p{n}" for n in range(30)]
    with ProductFeatureStore.open(tmp_path / "state") as store:
        store.write_features([make_product(id, event_time=datetime.now(UTC), images=0) for id in ids])
        for version, model in ((1, "m1"), (2, "m2")):
            store.ensure_model_version(model)
            store.write_embeddings(model, [make_embedding(id, version, model) for id in ids])
    return tmp_path


def status(*options: str) -> Any:
    return CliRunner().invoke(app, ["status", *options])


def test_status_compares_two_models_and_a_limit_that_is_passed_is_exit_code_1(two_models: Path) -> None:
    done = status("--canary", "m1:m2", "--json")
    assert done.exit_code == 0
    canary = json.loads(done.stdout)["canary"]
    assert (canary["old"], canary["new"], canary["products"]) == ("m1", "m2", 30)
    assert abs(canary["overlap"] - canary["overlap_by_chance"]) < 0.15
    limited = status("--canary", "m1:m2", "--min-overlap", "0.9", "--max-centroid-shift", "2")
    assert limited.exit_code == 1
    assert "m1 to m2: products keep" in limited.stderr
    assert "30 products keep" in limited.stdout
    text = status("--canary", "m1:m2", "--prometheus")
    assert 'sagelift_features_canary_products{old="m1",new="m2"} 30' in text.stdout


def test_the_set_may_be_given_and_the_page_is_written_with_every_exit_code(two_models: Path) -> None:
    ids, page = two_models / "ids.txt", two_models / "pages" / "features.html"
    ids.write_text("".join(f"p{n}\n" for n in range(15)) + "\nunknown\n")
    done = status("--canary", "m1:m2", "--canary-ids", str(ids), "--html", str(page), "--max-empty", "urls=0.5")
    assert done.exit_code == 1
    text = page.read_text()
    assert "1 limit is exceeded" in text
    assert "15 products have a vector in both, 1 of the set have none" in text
    ids.write_bytes(b"\xff")
    assert status("--canary", "m1:m2", "--canary-ids", str(ids)).exit_code == 2
    (two_models / "file").write_text("")
    refused = status("--html", str(two_models / "file" / "page.html"))
    assert refused.exit_code == 2
    assert "cannot be written" in refused.output
