"""Progress without a terminal: a title, a line now and then, the duration."""

from __future__ import annotations

import pytest

from sagelift.progress import LINE_EVERY_S, Stages


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_prints_its_title_a_line_now_and_then_and_its_duration(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    stages = Stages(clock)
    with stages.stage("embed", "Embedding") as stage:
        stage.update(1, 10)  # too soon for a line
        clock.now += LINE_EVERY_S
        stage.update(2_000, 10_000, "shoes")
        stage.update(3_000, 10_000)
        clock.now += LINE_EVERY_S
        stage.update(4)
        stage.say("a row was refused")
    assert stages.seconds == {"embed": 2 * LINE_EVERY_S}
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Embedding ...",
        "  Embedding: shoes 2,000 of 10,000",
        "  Embedding 4",
        "  a row was refused",
        "✓ Embedding (10.0 s)",
    ]


def test_a_stage_that_fails_has_no_duration(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages()
    with pytest.raises(KeyError), stages.stage("embed", "Embedding"):
        raise KeyError
    assert stages.seconds == {}
    assert "✓" not in capsys.readouterr().err
