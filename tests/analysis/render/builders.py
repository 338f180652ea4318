"""A report with hostile names, and the text of a report in the terminal."""

import io

import numpy as np
import pandas as pd
from rich.console import Console

from analysis.metrics import Mean
from analysis.render.terminal import to_terminal
from analysis.report import Report, analyze
from analysis.sources import UserTable


def evil_report() -> Report:
    """Return a report whose labels and names contain HTML and Markdown syntax."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"variant": rng.choice(["<b>a", "b|\"'"], 400), "x": rng.normal(5, 1, 400)})
    metric = Mean(name="x", label="<script>alert(1)</script>", column="x", description="a & b")
    return analyze(UserTable(data), [metric], "<b>a", "b|\"'", title="<img src=x>")


def plain(report: Report, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(to_terminal(report))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
