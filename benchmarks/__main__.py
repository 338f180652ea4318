"""Run one benchmark: `python -m benchmarks NAME [--json]`; `python -m benchmarks list` lists them.

The exit code is 1 if a goal is missed. A benchmark is a module `benchmarks/<name>.py` with a docstring whose first line
says what it measures and against what, and a function `rows(say) -> list[Row]`; `say` prints progress to stderr.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from pathlib import Path

import msgspec

from benchmarks.harness import Result, Row, result

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(p.stem for p in _FOLDER.glob("[a-z]*.py") if p.stem != "harness")


def main() -> int:
    """Run the benchmark of the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure speed and correctness against a floor or a peer."
    )
    parser.add_argument("name", choices=["list", *names()])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, help="number of rows of the history (materialize)")
    parser.add_argument("--updates", type=int, help="length of the stream (stream, faults)")
    parser.add_argument("--faults", type=lambda text: text.split(","), help="names of faults, comma-separated (faults)")
    chosen = parser.parse_args()
    if chosen.name == "list":
        for name in names():
            docstring = ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""
            print(f"{name:<14} {docstring.splitlines()[0] if docstring else ''}")
        return 0
    module = importlib.import_module(f"benchmarks.{chosen.name}")
    options = {k: v for k in ("updates", "rows", "faults") if (v := getattr(chosen, k)) is not None}
    measured = result(chosen.name, module.rows(lambda line: print(line, file=sys.stderr, flush=True), **options))
    if chosen.json:
        print(msgspec.json.encode(measured).decode())
    else:
        _print_table(measured)
    return 0 if measured.met else 1


def _print_table(measured: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{measured.benchmark} at {measured.commit} on {measured.machine['cpu']}")
    for column in ("figure", "value", "against", "ratio", "spread", "goal", ""):
        table.add_column(column)
    for row in measured.rows:
        table.add_row(*_cells(row))
    Console().print(table)


def _cells(row: Row) -> tuple[str, ...]:
    against = f"{row.against} {row.against_value:.4g}" if row.against_value is not None else ""
    spread = f"{row.spread[0]:.3g} to {row.spread[1]:.3g}" if row.spread else ""
    mark = {True: "met", False: "MISSED", None: ""}[row.met]
    ratio = f"{row.ratio:.3g}" if row.ratio is not None else ""
    return row.name, f"{row.value:.4g} {row.unit}", against, ratio, spread, row.goal or "", mark


sys.exit(main())
