"""`docs/research/model-card.md`: what the evidence says, written from `results.jsonl` and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.evidence.evidence import CEILING, FULL, NEW_SHARE, SUM, VARIANTS, EvidenceConfig, Trained
from inference.training.engagements import TASKS
from inference.training.evaluation import Evaluation

NAMES = {
    CEILING: "ceiling: the hidden truth",
    SUM: "Sum, untrained",
    FULL: "**ItemSage**",
    "sum_mlp": "Sum-MLP",
    "mlp_concat_mlp": "MLP-Concat-MLP",
    "image_only": "images only",
    "text_only": "text only",
    "2_layers": "2 layers",
    "3_layers": "3 layers",
    "4_layers": "4 layers",
    "l_pos_only": "L_pos only",
    "l_neg_only": "L_neg only",
    "shared_denominator": "one shared denominator",
    "no_logq": "no logQ",
    "l_pos_no_logq": "L_pos only, no logQ",
    "image_surface_only": "image surface only",
    "search_surface_only": "search surface only",
    "clicks_and_saves_only": "clicks and saves only",
    "conversions_only": "conversions only",
}

Measure = Callable[[Trained], float]
Verdict = Literal["holds", "does not hold", "undecided"]


def _known(*parts: str) -> Measure:
    """Mean Recall@10 on known products over the tasks that have any of these parts; over all without any."""
    tasks = [t for t in TASKS if not parts or set(parts) & set(t.split("/"))]
    return lambda trained: _mean_of(trained.known_products, tasks)


def _known_task(task: str) -> Measure:
    return lambda trained: _mean_of(trained.known_products, [task])


def _new(trained: Trained) -> float:
    return trained.new_products.mean_recall


def _mean_of(evaluation: Evaluation, tasks: Sequence[str]) -> float:
    found = [evaluation.recall[task] for task in tasks if task in evaluation.recall]
    return float(np.mean(found)) if found else math.nan


class Direction(NamedTuple):
    """A claim of the paper: `better` minus `worse` is positive, or (`tie`) not above zero."""

    claim: str
    better: str
    worse: str
    measure: Measure = _known()
    on: str = "all tasks"
    tie: bool = False


_SEARCH, _IMAGE = "search", "image"
_CONVERSIONS, _CLICKS = ("add_to_cart", "checkout"), ("click", "save")

DIRECTIONS = (
    Direction("Training beats the sum of the images", FULL, SUM),
    Direction("... also for products that it never saw", FULL, SUM, _new, "new products"),
    Direction("The transformer beats Sum-MLP", FULL, "sum_mlp"),
    Direction("... above all in search", FULL, "sum_mlp", _known(_SEARCH), "search"),
    Direction("The transformer beats MLP-Concat-MLP", FULL, "mlp_concat_mlp"),
    Direction("Images and text beat images", FULL, "image_only"),
    Direction("... also for new products", FULL, "image_only", _new, "new products"),
    Direction("Images and text beat text", FULL, "text_only"),
    Direction("... also for new products", FULL, "text_only", _new, "new products"),
    Direction("A second layer brings nothing", "2_layers", FULL, tie=True),
    Direction("Nor a third", "3_layers", FULL, tie=True),
    Direction("Nor a fourth", "4_layers", FULL, tie=True),
    Direction("L_pos and L_neg beat L_pos", FULL, "l_pos_only"),
    Direction("L_pos and L_neg beat L_neg", FULL, "l_neg_only"),
    Direction("Two denominators beat a shared one", FULL, "shared_denominator"),
    Direction("logQ helps the full loss", FULL, "no_logq"),
    Direction("logQ rescues in-batch negatives", "l_pos_only", "l_pos_no_logq"),
    Direction(
        "Training on search too costs the image surface nothing",
        "image_surface_only",
        FULL,
        _known(_IMAGE),
        "image",
        True,
    ),
    Direction(
        "Training on images too costs search nothing", "search_surface_only", FULL, _known(_SEARCH), "search", True
    ),
    Direction(
        "Clicks and saves lift the sparse conversions", FULL, "conversions_only", _known(*_CONVERSIONS), "conversions"
    ),
    Direction(
        "... and conversions cost clicks nothing",
        "clicks_and_saves_only",
        FULL,
        _known(*_CLICKS),
        "clicks, saves",
        True,
    ),
)


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval by Student's t."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def interval(values: Sequence[float]) -> Interval:
    """The mean over at least two seeds, and the half width of its 95 % t interval."""
    from scipy.stats import t

    spread = float(np.std(values, ddof=1))
    return Interval(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values)))


def verdict(difference: Interval, tie: bool) -> Verdict:
    """Whether a direction shows. An interval that holds 0 decides nothing; a gain that was denied (`tie`) is there when
    its interval lies above 0, and is not there when it ends below 0.02.
    """
    low, high = difference.mean - difference.half, difference.mean + difference.half
    if tie:
        return "does not hold" if low > 0 else "holds" if high < 0.02 else "undecided"
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


def write_card(results: Sequence[Trained], config: EvidenceConfig, path: Path, command: str) -> None:
    """The card and, beside it, its picture (`.svg`); each aside first, then renamed.

    Args:
        command: what makes this card again, for its readers.
    """
    picture = path.with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, write in (
        (picture, lambda aside: _draw(results, aside)),
        (path, lambda aside: aside.write_text(_card(results, config, picture.name, command), encoding="utf-8")),
    ):
        aside = target.with_name(target.name + ".partial")
        write(aside)
        aside.replace(target)


def _card(results: Sequence[Trained], config: EvidenceConfig, picture: str, command: str) -> str:
    catalogues = list(dict.fromkeys(t.catalogue for t in results))
    of = {name: _Evidence([t for t in results if t.catalogue == name]) for name in catalogues}
    lines = [
        *_INTRODUCTION.format(
            picture=picture,
            command=command,
            seeds=", ".join(map(str, config.seeds)),
            steps=config.steps,
            visits=config.visits_per_product,
            new=f"{NEW_SHARE:.0%}".replace("%", " %"),
        ).splitlines(),
        "",
        "| catalogue | products | distinct pairs of a log | distinct queries |",
        "|---|---|---|---|",
        *(f"| {name} | {e.any.products:,} | {e.any.pairs:,} | {e.any.queries:,} |" for name, e in of.items()),
        "",
        "## Which of the paper's directions show",
        "",
        "The difference of Recall@10 in pairs of equal seeds, with its 95 % interval. An interval that holds zero",
        "decides nothing; where the paper denies a gain, the direction holds if the gain is below 0.02.",
        "",
        "| direction | difference | judged on | " + " | ".join(catalogues) + " |",
        "|---|---|---|" + "---|" * len(catalogues),
    ]
    for d in DIRECTIONS:
        cells = [_cell(of[name], d) for name in catalogues]
        names = f"{NAMES[d.better]} − {NAMES[d.worse]}".replace("**", "")
        lines.append(f"| {d.claim} | {names} | {d.on} | " + " | ".join(cells) + " |")
    for name in catalogues:
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", *_table(of[name]), "", *_per_task(of[name])]
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Model card: ItemSage

Written by `{command}`.

**What it is.** One 256-d unit vector per product, from up to 20 images (frozen 256-d vectors) and 12 text fields,
after ItemSage (Baltescu et al., KDD 2022). The dot product with a query (an image's vector, a search, a product of a
user's history) ranks products. [The model](model.md) says how it is trained and released.

**What it is for.** Recommending products of the catalogue that it was trained on, and placing new ones among them
until the next training. It knows nothing of a user but the query; it is no judge of prices or of availability.

**What it is not good at.** A product without image and without text has no place. A new product ranks well among
other new ones, but behind known ones that shoppers like: these tables rank it among the new ones. What the log
favours, the model favours.

## How this was measured

No public log has clicks, saves, carts and orders on products with images and texts. The log here is simulated
(`benchmarks/evidence/engagement_log.py` says how, formula by formula): shoppers with hidden tastes engage with
products of the
whole catalogue, so that no earlier recommender has left its taste in the log. The look that shoppers love is that of
a 4 x 4 thumbnail, not that of the model's image vectors. **Absolute figures are this simulation's, not a shop's**;
what can be compared are the rows.

Seeds {seeds}: each draws a log ({visits} visits a product) and trains every variant ({steps} steps) on the same log,
with the same vocabularies and the same frozen search encoder. {new} of the products are *new*: in no training, not
even as negatives or in the vocabularies. *Known*: pairs (query, product) held out by hash, the whole catalogue
competing. *New*: all pairs of new products, these competing among each other. Recall@10 counts a pair if fewer than
ten products score at least as high; it is the mean over the eight tasks. Coverage is the share of the catalogue in
anyone's ten. ± is the 95 % interval over the seeds (Student's t; three seeds make it wide).

![Recall@10 by variant]({picture})"""


class _Evidence:
    """All results of one catalogue, by variant and seed."""

    def __init__(self, results: Sequence[Trained]) -> None:
        self.any = results[0]
        self._by = {(t.variant, t.seed): t for t in results}
        self.seeds = sorted({t.seed for t in results})
        self.variants = [v for v in (CEILING, SUM, *VARIANTS) if all((v, s) in self._by for s in self.seeds)]

    def of(self, variant: str, measure: Measure) -> Interval:
        return interval([measure(self._by[variant, seed]) for seed in self.seeds])

    def difference(self, better: str, worse: str, measure: Measure) -> Interval:
        return interval([measure(self._by[better, s]) - measure(self._by[worse, s]) for s in self.seeds])


def _cell(evidence: _Evidence, direction: Direction) -> str:
    if not {direction.better, direction.worse} <= set(evidence.variants):
        return "not run"
    found = evidence.difference(direction.better, direction.worse, direction.measure)
    return f"{found.mean:+.3f} ± {found.half:.3f}: **{verdict(found, direction.tie)}**"


def _table(evidence: _Evidence) -> list[str]:
    measures: tuple[tuple[str, Measure], ...] = (
        ("known products", _known()),
        ("of these image", _known(_IMAGE)),
        ("search", _known(_SEARCH)),
        ("clicks, saves", _known(*_CLICKS)),
        ("conversions", _known(*_CONVERSIONS)),
        ("new products", _new),
        ("coverage", lambda t: t.known_products.coverage),
    )
    lines = ["| variant | " + " | ".join(n for n, _ in measures) + " |", "|---|" + "---|" * len(measures)]
    for variant in evidence.variants:
        cells = [str(evidence.of(variant, measures[0][1]))]
        cells += [f"{evidence.of(variant, m).mean:.3f}" for _, m in measures[1:5]]
        cells += [str(evidence.of(variant, _new)), f"{evidence.of(variant, measures[6][1]).mean:.2f}"]
        lines.append(f"| {NAMES[variant]} | " + " | ".join(cells) + " |")
    return lines


def _per_task(evidence: _Evidence) -> list[str]:
    shown = [v for v in (FULL, SUM, "image_only", "text_only") if v in evidence.variants]
    lines = [
        "Recall@10 per task, known products:",
        "",
        "| task | pairs held out | " + " | ".join(NAMES[v] for v in shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for task in TASKS:
        cells = [str(evidence.of(v, _known_task(task))) for v in shown]
        lines.append(f"| {task} | {evidence.any.known_products.pairs.get(task, 0):,} | " + " | ".join(cells) + " |")
    return lines


def _draw(results: Sequence[Trained], path: Path) -> None:
    from matplotlib.figure import Figure

    catalogues = list(dict.fromkeys(t.catalogue for t in results))
    figure = Figure(figsize=(4.2 * len(catalogues) + 1.6, 6.2), layout="constrained")
    axes = figure.subplots(1, len(catalogues), sharey=True, squeeze=False)[0]
    series = ((_known(), "C0", "known products", 0.12), (_new, "C1", "new products", -0.12))
    for axis, name in zip(axes, catalogues, strict=True):
        evidence = _Evidence([t for t in results if t.catalogue == name])
        rows = np.arange(len(evidence.variants))[::-1]
        for measure, colour, label, shift in series:
            found = [evidence.of(v, measure) for v in evidence.variants]
            means, halves = [f.mean for f in found], [f.half for f in found]
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
