"""What a run reports besides its model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inference.training.report import draw_losses, environment


def test_the_environment_is_plain_data_and_names_versions_and_threads() -> None:
    described = msgspec.json.decode(msgspec.json.encode(environment()))
    assert described["python"].startswith("3.")
    assert described["threads"] >= 1
    assert {"torch", "numpy", "commit", "machine", "cpu", "gpu"} <= described.keys()


def test_the_losses_of_one_step_and_of_many_are_drawn(tmp_path: Path) -> None:
    for losses in ([3.0], [3.0 / n for n in range(1, 101)]):
        draw_losses(losses, tmp_path / "loss.svg")
        assert "<svg" in (tmp_path / "loss.svg").read_text()
