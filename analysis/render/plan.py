"""A plan as JSON, as Markdown and as a table for the terminal."""

from typing import TYPE_CHECKING

import msgspec

from analysis.plan import Looks, Plan, PlannedDuration
from analysis.render import wording

if TYPE_CHECKING:
    from rich.console import RenderableType


def to_json(plan: Plan) -> str:
    """The plan as JSON text."""
    return msgspec.json.format(msgspec.json.encode(plan)).decode()


def to_markdown(plan: Plan) -> str:
    head, *rows = _rows(plan)
    lines = [head, ("---",) + ("---:",) * (len(head) - 1), *rows]
    text = f"{summary(plan)}\n\n{_markdown(lines)}\n"
    if _weeks(plan):
        head, *rows = _durations(plan)
        text += f"\n{LASTING}\n\n{_markdown([head, ('---',) + ('---:',) * (len(head) - 1), *rows])}\n"
    if plan.design is not None:
        head, *rows = _looks(plan, plan.design)
        text += f"\n{cost(plan.design)}\n\n{_markdown([head, ('---:',) * len(head), *rows])}\n"
    return text


def _markdown(lines: "list[tuple[str, ...]]") -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def to_terminal(plan: Plan) -> "RenderableType":
    """Something that `rich.console.Console.print` shows."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(summary(plan)), _table(_rows(plan))]
    if _weeks(plan):
        parts += [Text(LASTING), _table(_durations(plan))]
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
    return (
        f"From {plan.history:,} units of {plan.source}: two-sided test at {plan.alpha:g}, power {plan.power:.0%}, "
        f"{plan.share:.0%} treated. Units are of both arms together, for "
        + ("one look at the end." if plan.design is None else f"{len(plan.design.looks)} looks, if it runs to the end.")
    )


LASTING = "The smallest lift that an experiment finds that takes all who come for the first time in so many days:"


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
    return (
        f"At each look, {design.spending} spending decides where p is at most its level. Looking costs "
        f"{design.inflation - 1:.1%} more units, which are counted above."
    )


def _looks(plan: Plan, design: Looks) -> list[tuple[str, ...]]:
    head = ("Look", "share of the units", f"of {plan.units:,}", "p at most", "standard errors", "alpha spent")
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
    needed = [f"units for {wording.lift(lift)}" for lift in lifts]
    head = ("Metric", "Value", "Deviation", "CUPED", *needed, f"found with {plan.units:,}")
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
