"""A simulation as table and picture."""

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from analysis.metrics import Mean, Quantile
from analysis.render.simulation import summary, to_json, to_markdown, to_terminal, write_picture
from analysis.simulation import Simulation, simulate


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    rng = np.random.default_rng(0)
    units = {"x": rng.normal(10, 1, 200), "tied": np.ones(200)}
    metrics = [Mean(name="x|y", column="x"), Quantile(name="tied", column="tied")]
    return simulate(units, metrics, lifts=[0.05], runs=40, source="[b]users[/b]")


def test_every_face_shows_every_outcome(simulation: Simulation) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(to_terminal(simulation))
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    markdown = to_markdown(simulation)
    for face in (shown, markdown.replace("\\|", "|")):
        assert "x|y" in face
        assert "[b]users[/b]" in face
        assert "Most runs gave no lift for tied." in face
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(simulation.outcomes)
    assert msgspec.json.decode(to_json(simulation), type=Simulation) == simulation


def test_false_positives_at_another_rate_are_called_out(simulation: Simulation) -> None:
    wrong = [msgspec.structs.replace(o, rejected=0.4, p_rate=1e-9) if o.lift == 0 else o for o in simulation.outcomes]
    assert "do not trust its p" in summary(msgspec.structs.replace(simulation, outcomes=wrong))
    assert "do not trust its p" not in summary(simulation)


def test_the_picture_is_written_whole_in_the_format_of_its_name(simulation: Simulation, tmp_path: Path) -> None:
    assert b"<svg" in write_picture(simulation, tmp_path / "a.svg").read_bytes()
    assert write_picture(simulation, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match=r"must end with \.svg"):
        write_picture(simulation, tmp_path / "a.xyz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.svg"]
