"""Draw Recall@10 by variant, with its intervals, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.evidence.directions import Evidence, known, new
from benchmarks.evidence.results import Trained
from benchmarks.evidence.variants import FULL, NAMES


def draw(results: Sequence[Trained], path: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    catalogues = list(dict.fromkeys(t.catalogue for t in results))
    figure = Figure(figsize=(4.2 * len(catalogues) + 1.6, 6.2), layout="constrained")
    axes = figure.subplots(1, len(catalogues), sharey=True, squeeze=False)[0]
    series = ((known(), "C0", "known products", 0.12), (new, "C1", "new products", -0.12))
    for axis, name in zip(axes, catalogues, strict=True):
        evidence = Evidence([t for t in results if t.catalogue == name])
        rows = np.arange(len(evidence.variants))[::-1]
        for measure, colour, label, shift in series:
            intervals = [evidence.of(v, measure) for v in evidence.variants]
            means, halves = [i.mean for i in intervals], [i.half for i in intervals]
            axis.errorbar(means, rows + shift, xerr=halves, fmt="o", ms=4, lw=1.2, color=colour, label=label)
            if FULL in evidence.variants:
                axis.axvline(evidence.of(FULL, measure).mean, color=colour, lw=0.7, ls=":")
        axis.set_yticks(rows, [NAMES[v].replace("**", "") for v in evidence.variants])
        axis.set(
            title=f"{name}: {evidence.any.products:,} products", xlabel="Recall@10, mean of 8 tasks", xlim=(0, None)
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", lw=0.3)
    axes[-1].legend(frameon=False, loc="lower right")
    figure.savefig(path, format="svg", metadata={"Date": None})
