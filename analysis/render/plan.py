"""A plan as JSON, as Markdown and as a table for the terminal."""

from typing import TYPE_CHECKING

import msgspec

from analysis.plan import Looks, Plan, PlannedDuration
from analysis.render import wording

if TYPE_CHECKING:
    from rich.console import RenderableType


def to_json(plan: Plan) -> str:
    """Return the plan as JSON text."""
    return msgspec.json.format(msgspec.json.encode(plan)).decode()


def to_markdown(plan: Plan) -> str:
    """Return the plan as Markdown."""
    head, *rows = _rows(plan)
    lines = [head, ("---",) + ("---:",) * (len(head) - 1), *rows]
    text = f"{summary(plan)}\n\n{_markdown(lines)}\n"
    if _weeks(plan):
        head, *rows = _durations(plan)
        text += f"\n{DURATIONS}\n\n{_markdown([head, ('---',) + ('---:',) * (len(head) - 1), *rows])}\n"
    if plan.design is not None:
        head, *rows = _looks(plan, plan.design)
        text += f"\n{cost(plan.design)}\n\n{_markdown([head, ('---:',) * len(head), *rows])}\n"
    return text


def _markdown(lines: "list[tuple[str, ...]]") -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def to_terminal(plan: Plan) -> "RenderableType":
    """Return the plan in a form that `rich.console.Console.print` shows."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(summary(plan)), _table(_rows(plan))]
    if _weeks(plan):
        parts += [Text(DURATIONS), _table(_durations(plan))]
    if plan.design is not None:
        parts += [Text(cost(plan.design)), _table(_looks(plan, plan.design))]
    return Group(*parts)


def _table(lines: list[tuple[str, ...]]) -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head, *rows = lines
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(Text(name), justify="left" if name == "Metric" else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def summary(plan: Plan) -> str:
    """Return what the plan assumes, in two sentences."""
    analyses = (
        "a single analysis at the end"
        if plan.design is None
        else f"{len(plan.design.looks)} looks, if the experiment runs to the end"
    )
    return (
        f"From {plan.history:,} units of {plan.source}: two-sided test at {plan.alpha:g}, power {plan.power:.0%}, "
        f"{plan.share:.0%} of the units treated. Numbers of units are for both arms together, and for {analyses}."
    )


DURATIONS = "Smallest detectable lift by length of the experiment, with all units first seen in that time:"


def _weeks(plan: Plan) -> list[PlannedDuration]:
    return plan.metrics[0].durations


def _durations(plan: Plan) -> list[tuple[str, ...]]:
    return [
        ("Metric", *(f"{week.days} days ({week.units:,})" for week in _weeks(plan))),
        *(
            (metric.name, *(wording.DASH if d.smallest is None else wording.lift(d.smallest) for d in metric.durations))
            for metric in plan.metrics
        ),
    ]


def cost(design: Looks) -> str:
    """Return the rule of the looks and their cost, in two sentences."""
    return (
        f"A metric is decided at a look if its p-value is at most the level of the look ({design.spending} spending). "
        f"The looks cost {design.inflation - 1:.1%} more units, which the table above includes."
    )


def _looks(plan: Plan, design: Looks) -> list[tuple[str, ...]]:
    head = ("Look", "Share of units", f"of {plan.units:,}", "Level", "Standard errors", "Alpha spent")
    return [
        head,
        *(
            (
                str(number),
                f"{look.share:.0%}",
                f"{plan.units * look.share:,.0f}",
                wording.DASH if look.critical is None else f"{look.nominal:.2g}",
                wording.DASH if look.critical is None else f"{look.critical:.3f}",
                f"{look.spent:.2g}",
            )
            for number, look in enumerate(design.looks, 1)
        ),
    ]


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    lifts = [needed.lift for needed in plan.metrics[0].needed]
    needed = [f"Units for {wording.lift(lift)}" for lift in lifts]
    head = ("Metric", "Value", "Std. deviation", "CUPED", *needed, f"Detectable with {plan.units:,}")
    return [
        head,
        *(
            (
                metric.name,
                f"{metric.value:.4g}",
                f"{metric.deviation:.4g}",
                wording.DASH
                if metric.variance_reduction is None
                else f"{wording.MINUS}{metric.variance_reduction:.0%}",
                *(
                    wording.DASH if n.control is None or n.treatment is None else f"{n.control + n.treatment:,}"
                    for n in metric.needed
                ),
                wording.DASH if metric.smallest is None else wording.lift(metric.smallest),
            )
            for metric in plan.metrics
        ),
    ]
