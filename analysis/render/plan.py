"""A plan as JSON, as Markdown and as a table for the terminal."""

from typing import TYPE_CHECKING

import msgspec

from analysis.plan import Plan
from analysis.render import words

if TYPE_CHECKING:
    from rich.console import RenderableType


def to_json(plan: Plan) -> str:
    """The plan as JSON text."""
    return msgspec.json.format(msgspec.json.encode(plan)).decode()


def to_markdown(plan: Plan) -> str:
    head, *rows = _rows(plan)
    lines = [head, ("---",) + ("---:",) * (len(head) - 1), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
    return f"{summary(plan)}\n\n{table}\n"


def to_terminal(plan: Plan) -> "RenderableType":
    """Something that `rich.console.Console.print` shows."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head, *rows = _rows(plan)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(Text(name), justify="left" if name == "Metric" else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return Group(Text(summary(plan)), table)


def summary(plan: Plan) -> str:
    return (
        f"From {plan.history:,} units of {plan.source}: two-sided test at {plan.alpha:g}, power {plan.power:.0%}, "
        f"{plan.share:.0%} treated. Units are of both arms together, for one look at the end."
    )


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    lifts = [needed.lift for needed in plan.metrics[0].needed]
    needed = [f"units for {words.lift(lift)}" for lift in lifts]
    head = ("Metric", "Value", "Deviation", "CUPED", *needed, f"found with {plan.units:,}")
    return [
        head,
        *(
            (
                metric.name,
                f"{metric.value:.4g}",
                f"{metric.deviation:.4g}",
                words.DASH if metric.variance_reduction is None else f"{words.MINUS}{metric.variance_reduction:.0%}",
                *(f"{n.control + n.treatment:,}" for n in metric.needed),
                words.DASH if metric.smallest is None else words.lift(metric.smallest),
            )
            for metric in plan.metrics
        ),
    ]
