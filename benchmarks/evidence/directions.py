"""The paper's claims as directions between two variants, and whether the results support them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.evidence.results import Trained
from benchmarks.evidence.variants import CEILING, FULL, SUM, VARIANTS
from inference.training.engagements import TASKS
from inference.training.evaluation import Evaluation

Measure = Callable[[Trained], float]
"""Reads one figure of a result."""
Finding = Literal["holds", "does not hold", "undecided"]
"""Whether the results support a direction."""

SEARCH, IMAGE = "search", "image"
CONVERSIONS, CLICKS = ("add_to_cart", "checkout"), ("click", "save")
TIE_LIMIT = 0.02
"""Below this gain of Recall@10 a denied gain counts as absent."""


def known(*parts: str) -> Measure:
    """Return the mean Recall@10 on known products over the tasks with any of these parts; without parts, over all."""
    tasks = [t for t in TASKS if not parts or set(parts) & set(t.split("/"))]
    return lambda trained: _mean_of(trained.known_products, tasks)


def known_task(task: str) -> Measure:
    """Return the Recall@10 of one task on known products."""
    return lambda trained: _mean_of(trained.known_products, [task])


def new(trained: Trained) -> float:
    """Return the mean Recall@10 on new products."""
    return trained.new_products.mean_recall


def _mean_of(evaluation: Evaluation, tasks: Sequence[str]) -> float:
    found = [evaluation.recall[task] for task in tasks if task in evaluation.recall]
    return float(np.mean(found)) if found else math.nan


class Direction(NamedTuple):
    """A claim of the paper.

    Attributes:
        claim: The claim in words.
        better: Variant that should be better.
        worse: Variant that should be worse.
        measure: The compared figure.
        on: The compared figure in words.
        tie: Whether the paper denies a gain: `better` should not be better.
    """

    claim: str
    better: str
    worse: str
    measure: Measure = known()
    on: str = "all tasks"
    tie: bool = False


DIRECTIONS = (
    Direction("Training beats the sum of the images", FULL, SUM),
    Direction("... also for products that it never saw", FULL, SUM, new, "new products"),
    Direction("The transformer beats Sum-MLP", FULL, "sum_mlp"),
    Direction("... above all in search", FULL, "sum_mlp", known(SEARCH), "search"),
    Direction("The transformer beats MLP-Concat-MLP", FULL, "mlp_concat_mlp"),
    Direction("Images and text beat images", FULL, "image_only"),
    Direction("... also for new products", FULL, "image_only", new, "new products"),
    Direction("Images and text beat text", FULL, "text_only"),
    Direction("... also for new products", FULL, "text_only", new, "new products"),
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
        known(IMAGE),
        "image",
        True,
    ),
    Direction(
        "Training on images too costs search nothing", "search_surface_only", FULL, known(SEARCH), "search", True
    ),
    Direction(
        "Clicks and saves lift the sparse conversions", FULL, "conversions_only", known(*CONVERSIONS), "conversions"
    ),
    Direction(
        "... and conversions cost clicks nothing",
        "clicks_and_saves_only",
        FULL,
        known(*CLICKS),
        "clicks, saves",
        True,
    ),
)


class Interval(NamedTuple):
    """A mean over seeds, and the half width of its 95 % interval by Student's t."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean over at least two seeds, and the half width of its 95 % t interval."""
    from scipy.stats import t

    spread = float(np.std(values, ddof=1))
    return Interval(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values)))


def finding(difference: Interval, tie: bool) -> Finding:
    """Return whether the results support a direction.

    An interval that contains 0 decides nothing. If the paper denies a gain (`tie`), the gain exists if the interval
    lies above 0, and does not exist if it ends below `TIE_LIMIT`.
    """
    low, high = difference.mean - difference.half, difference.mean + difference.half
    if tie:
        return "does not hold" if low > 0 else "holds" if high < TIE_LIMIT else "undecided"
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


class Evidence:
    """All results of one catalogue.

    Args:
        results: Results of the catalogue.

    Attributes:
        any: One of the results.
        seeds: Sorted seeds.
        variants: Variants with a result for each seed.
    """

    def __init__(self, results: Sequence[Trained]) -> None:
        self.any = results[0]
        self._by = {(t.variant, t.seed): t for t in results}
        self.seeds = sorted({t.seed for t in results})
        self.variants = [v for v in (CEILING, SUM, *VARIANTS) if all((v, s) in self._by for s in self.seeds)]

    def of(self, variant: str, measure: Measure) -> Interval:
        """Return the mean of a figure over the seeds."""
        return interval([measure(self._by[variant, seed]) for seed in self.seeds])

    def difference(self, better: str, worse: str, measure: Measure) -> Interval:
        """Return the mean difference of a figure in pairs of equal seeds."""
        return interval([measure(self._by[better, s]) - measure(self._by[worse, s]) for s in self.seeds])
