"""Write the model card (docs/research/model-card.md) from the results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.directions import (
    CLICKS,
    CONVERSIONS,
    DIRECTIONS,
    IMAGE,
    SEARCH,
    Direction,
    Evidence,
    Measure,
    finding,
    known,
    known_task,
    new,
)
from benchmarks.evidence.picture import draw
from benchmarks.evidence.results import Trained
from benchmarks.evidence.training import NEW_SHARE
from benchmarks.evidence.variants import FULL, NAMES, SUM, EvidenceConfig
from feature_repo.files import atomic_file, write_atomically
from inference.training.engagements import TASKS


def write_card(results: Sequence[Trained], config: EvidenceConfig, path: Path, command: str) -> None:
    """Write the card and, beside it, its picture (`.svg`), each atomically.

    Args:
        results: The results.
        config: Size of the evidence.
        path: Path of the card.
        command: The command that writes this card, for its readers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.with_suffix(".svg")
    with atomic_file(picture) as partial:
        draw(results, partial)
    write_atomically(path, _card(results, config, picture.name, command))


def _card(results: Sequence[Trained], config: EvidenceConfig, picture: str, command: str) -> str:
    catalogues = list(dict.fromkeys(t.catalogue for t in results))
    of = {name: Evidence([t for t in results if t.catalogue == name]) for name in catalogues}
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


def _cell(evidence: Evidence, direction: Direction) -> str:
    if not {direction.better, direction.worse} <= set(evidence.variants):
        return "not run"
    difference = evidence.difference(direction.better, direction.worse, direction.measure)
    return f"{difference.mean:+.3f} ± {difference.half:.3f}: **{finding(difference, direction.tie)}**"


def _table(evidence: Evidence) -> list[str]:
    measures: tuple[tuple[str, Measure], ...] = (
        ("known products", known()),
        ("of these image", known(IMAGE)),
        ("search", known(SEARCH)),
        ("clicks, saves", known(*CLICKS)),
        ("conversions", known(*CONVERSIONS)),
        ("new products", new),
        ("coverage", lambda t: t.known_products.coverage),
    )
    lines = ["| variant | " + " | ".join(n for n, _ in measures) + " |", "|---|" + "---|" * len(measures)]
    for variant in evidence.variants:
        cells = [str(evidence.of(variant, measures[0][1]))]
        cells += [f"{evidence.of(variant, m).mean:.3f}" for _, m in measures[1:5]]
        cells += [str(evidence.of(variant, new)), f"{evidence.of(variant, measures[6][1]).mean:.2f}"]
        lines.append(f"| {NAMES[variant]} | " + " | ".join(cells) + " |")
    return lines


def _per_task(evidence: Evidence) -> list[str]:
    shown = [v for v in (FULL, SUM, "image_only", "text_only") if v in evidence.variants]
    lines = [
        "Recall@10 per task, known products:",
        "",
        "| task | pairs held out | " + " | ".join(NAMES[v] for v in shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for task in TASKS:
        cells = [str(evidence.of(v, known_task(task))) for v in shown]
        lines.append(f"| {task} | {evidence.any.known_products.pairs.get(task, 0):,} | " + " | ".join(cells) + " |")
    return lines
