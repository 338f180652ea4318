"""The model card states the results, and what was not run."""

from pathlib import Path

from benchmarks.evidence.model_card import write_card
from benchmarks.evidence.tests.builders import result
from benchmarks.evidence.variants import CEILING, FULL, SUM, EvidenceConfig


def test_the_card_states_the_results_and_what_was_not_run(tmp_path: Path) -> None:
    recall = {FULL: 0.4, SUM: 0.1, CEILING: 0.6, "image_only": 0.41}
    results = [result(v, s, r + 0.001 * s) for v, r in recall.items() for s in (1, 2, 3)]
    write_card(results, EvidenceConfig(), tmp_path / "card.md", "python -m benchmarks.evidence --products 90")
    card = (tmp_path / "card.md").read_text()
    assert "`python -m benchmarks.evidence --products 90`" in card
    assert (
        "| Training beats the sum of the images | ItemSage − Sum, untrained | all tasks | +0.300 ± 0.000: **holds** |"
        in card
    )
    assert (
        "| Images and text beat images | ItemSage − images only | all tasks | -0.010 ± 0.000: **does not hold** |"
        in card
    )
    assert "| The transformer beats Sum-MLP | ItemSage − Sum-MLP | all tasks | not run |" in card
    assert "| **ItemSage** | 0.402 ± 0.002 |" in card
    assert "(card.svg)" in card
    assert (tmp_path / "card.svg").read_text().startswith("<?xml")
    assert not list(tmp_path.glob("*.partial"))
