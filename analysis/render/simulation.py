"""The result of a simulation: a table for the terminal and for Markdown, JSON, and a picture (SVG, PNG or PDF)."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from analysis.errors import ArgumentError
from analysis.render import wording
from analysis.render.files import write_atomically
from analysis.simulation import Simulation, TrialSummary

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEAD = ("Metric", "Planted lift", "Rejected", "below : above 0", "Covered", "Bias", "±")


def to_json(simulation: Simulation) -> str:
    """Return the simulation as JSON text."""
    return msgspec.json.format(msgspec.json.encode(simulation)).decode()


def to_markdown(simulation: Simulation) -> str:
    """Return the simulation as Markdown."""
    rows = [_cells(outcome) for outcome in simulation.outcomes]
    lines = [_HEAD, ("---",) + ("---:",) * (len(_HEAD) - 1), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
    return f"{summary(simulation)}\n\n{table}\n"


def to_terminal(simulation: Simulation) -> "RenderableType":
    """Return the simulation in a form that `rich.console.Console.print` shows."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _HEAD:
        table.add_column(name, justify="left" if name == "Metric" else "right", overflow="fold")
    for outcome in simulation.outcomes:
        table.add_row(*map(Text, _cells(outcome)), style="bold red" if outcome.doubtful else "")
    return Group(Text(summary(simulation)), table)


def summary(simulation: Simulation) -> str:
    """Return the setting of the runs, and whether the false-positive rate is as stated, in a few sentences."""
    s = simulation
    doubtful = [outcome.metric for outcome in s.outcomes if outcome.doubtful]
    findings = [
        f"The false-positive rate of {', '.join(doubtful)} is above {s.alpha:.0%}: do not trust its p-value."
        if doubtful
        else f"The false-positive rate is at most {s.alpha:.0%}, as far as {s.runs:,} runs can tell."
    ]
    undefined = [outcome.metric for outcome in s.outcomes if not outcome.lift and outcome.undefined > s.runs / 2]
    if undefined:
        findings.append(f"Most runs gave no lift for {', '.join(undefined)}.")
    shares = [name for name in s.p_values if not any(o.lift for o in s.outcomes if o.metric == name)]
    if shares and any(outcome.lift for outcome in s.outcomes):
        findings.append(
            f"No lift can be planted in {', '.join(shares)}: multiplying the values does not change a share."
        )
    return (
        f"{s.runs:,} simulated experiments with {s.units:,} units each of {s.source}, {s.share:.0%} of them treated. "
        f"{' '.join(findings)} Without a planted lift, the rejected share is the false-positive rate, else the power. "
        "In brackets: 95 % interval of each share over the runs. ±: half-width of the lift's intervals."
    )


def _cells(outcome: TrialSummary) -> tuple[str, ...]:
    return (
        outcome.metric,
        wording.lift(outcome.lift) if outcome.lift else "none",
        _counted(outcome.rejected, outcome.rejected_ci),
        wording.DASH
        if outcome.rejected is None
        else f"{_share(outcome.rejected_below)} : {_share(outcome.rejected_above)}",
        _counted(outcome.covered, outcome.covered_ci),
        wording.DASH
        if outcome.bias is None or outcome.error is None
        else f"{wording.lift(outcome.bias)} ± {2 * outcome.error:.2%}",
        _share(outcome.half_width),
    )


def _counted(share: float | None, interval: tuple[float, float] | None) -> str:
    """Return a share of the runs with its interval."""
    if share is None or interval is None:
        return wording.DASH
    return f"{share:.1%} ({interval[0] * 100:.1f} to {interval[1] * 100:.1f})"


def _share(value: float | None) -> str:
    return wording.DASH if value is None else f"{value:.1%}"


def picture_format(path: Path) -> str:
    """Return the format of a picture from the ending of its path.

    Raises:
        ArgumentError: The ending is not .svg, .png or .pdf.
    """
    ending = path.suffix.lower() or ".svg"
    if ending not in (".svg", ".png", ".pdf"):
        raise ArgumentError(f"The picture {str(path)!r} ends with {path.suffix}, and must end with .svg, .png or .pdf.")
    return ending[1:]


def write_picture(simulation: Simulation, path: Path) -> Path:
    """Write a picture atomically and return its path.

    Left: the distribution of the p-values without an effect, which should follow the diagonal. Right: power and
    coverage by planted lift, each with its Monte-Carlo interval.

    Args:
        simulation: The simulation.
        path: The file; its ending is the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.75", linewidth=1)
    for name, curve in simulation.p_values.items():
        if curve:
            left.plot(curve, [i / (len(curve) - 1) for i in range(len(curve))], label=name)
    left.set(title="p-values without an effect", xlabel="p", ylabel="share of runs below", xlim=(0, 1), ylim=(0, 1))
    left.axvline(simulation.alpha, color="0.75", linewidth=1, linestyle=":")
    for name in simulation.p_values:
        rows = [outcome for outcome in simulation.outcomes if outcome.metric == name]
        tested = [r for r in rows if r.rejected is not None]
        (line,) = right.plot([r.lift for r in tested], [r.rejected for r in tested], marker="o", label=name)
        covered = [r for r in rows if r.covered is not None]
        lifts, shares = [r.lift for r in covered], [r.covered for r in covered]
        right.plot(lifts, shares, marker=".", linestyle="--", color=line.get_color())
        # Monte-Carlo intervals.
        for row in rows:
            for interval in (row.rejected_ci, row.covered_ci):
                if interval is not None:
                    right.plot([row.lift] * 2, interval, color=line.get_color(), linewidth=1)
    right.axhline(1 - simulation.alpha, color="0.75", linewidth=1, linestyle=":")
    right.axhline(simulation.alpha, color="0.75", linewidth=1, linestyle=":")
    right.set(
        title="rejected (solid) and covered (dashed)", xlabel="planted lift", ylabel="share of runs", ylim=(0, 1.02)
    )
    right.xaxis.set_major_formatter("{x:.0%}")
    left.legend(frameon=False, fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format=picture_format(path), dpi=150))
