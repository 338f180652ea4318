"""The card of a run says what it is, how it was trained and how good it is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from inference.training.result import TrainedModel
from sagelift.run_card import run_card
from tests.inference.builders import catalogue, engagements
from tests.inference.training.configs import FEW_STEPS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from inference.training.run import continue_run, prepare_run

    run = tmp_path_factory.mktemp("card") / "20260301T120000"
    prepare_run(run, catalogue(), engagements(), FEW_STEPS)
    continue_run(run)
    return run


def test_the_card_has_the_figures_of_the_run(run: Path) -> None:
    trained = TrainedModel.load(run)
    result = trained.result
    card = run_card(run, trained)
    assert card.startswith("# Run 20260301T120000\n")
    assert f"* Parameters: {result.parameters:,}; vocabulary: {result.vocabulary:,} tokens" in card
    assert f"after {FEW_STEPS.steps:,} steps" in card
    assert f"| **mean** | | **{result.itemsage.mean_recall:.3f}** | {result.sum.mean_recall:.3f} |" in card
    rows = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")]
    assert set(result.itemsage.recall) < set(rows)


def test_only_changed_options_are_listed(run: Path) -> None:
    trained = TrainedModel.load(run)
    (line,) = [line for line in run_card(run, trained).splitlines() if line.startswith("* Configuration")]
    assert "`steps = 3`" in line
    assert "`loss_chunk" not in line
    environment = msgspec.json.decode((run / "environment.json").read_bytes())
    assert all(f"{name} {value}" in run_card(run, trained) for name, value in environment.items() if value is not None)
