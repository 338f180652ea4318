"""`sagelift features status --html`: the features' state as one self-contained page without scripts and fonts.

The pictures are inline SVG. Their colours are CSS classes for light and dark mode, and each has a text alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Final

from analysis.render.files import write_text_atomically
from analysis.render.page import load_template
from feature_repo.monitoring.canary import CanaryDrift
from feature_repo.monitoring.watch import AGE_EDGES, ViewStatus

AGE_NAMES: Final = ("1 min", "10 min", "1 h", "6 h", "1 d", "7 d", "30 d")
"""Names of the `AGE_EDGES`."""
_WIDTH, _BAR, _HEIGHT, _MAP = 520, 22, 150, 420
_LEFT, _RIGHT, _BOTTOM = 10, 10, 22


def write_page(
    path: Path, statuses: Sequence[ViewStatus], findings: Sequence[str], canary: CanaryDrift | None, now: datetime
) -> None:
    """Write the page atomically; see `page` for the arguments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, page(statuses, findings, canary, now))


def page(statuses: Sequence[ViewStatus], findings: Sequence[str], canary: CanaryDrift | None, now: datetime) -> str:
    """Return the page as HTML. All text from data is escaped.

    Args:
        statuses: Status of each feature view.
        findings: Sentences about exceeded limits.
        canary: Comparison of two model versions; None without one.
        now: Time that the page shows.
    """
    from markupsafe import Markup

    assert len(AGE_NAMES) == len(AGE_EDGES)
    text: str = load_template(Path(__file__).with_name("feature_page.html.j2")).render(
        now=now,
        statuses=statuses,
        findings=findings,
        age=age,
        age_names=[f"under {AGE_NAMES[0]}", *(f"to {name}" for name in AGE_NAMES[1:]), "older"],
        ages=[(s, Markup(age_bar(s))) for s in statuses if sum(s.age_counts)],
        empty=[(s, [(f, rate, Markup(_share(f, rate))) for f, rate in s.empty_rates.items()]) for s in statuses],
        norms=[(s, s.norms, Markup(length_histogram(s))) for s in statuses if s.norms],
        canary=canary,
        pictures={name: Markup(text) for name, text in _canary_pictures(canary).items()} if canary else {},
        drift=[line for s in statuses for line in s.schema_drift],
    )
    return text


def age(seconds: float | None) -> str:
    """Return a duration in its largest fitting unit; "-" for None."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def age_bar(status: ViewStatus) -> str:
    """Draw one bar of the live products, divided by the age of their last change."""
    total, x, parts = sum(status.age_counts), 0.0, []
    for number, count in enumerate(status.age_counts):
        width = _WIDTH * count / total
        if count:
            parts.append(
                f'<rect class="age a{number}" x="{x:.1f}" y="0" width="{max(width, 0.5):.1f}" height="{_BAR}"/>'
            )
        x += width
    names = [*(f"under {name}" for name in AGE_NAMES), "older"]
    shares = ", ".join(
        f"{count / total:.1%} {name}" for name, count in zip(names, status.age_counts, strict=True) if count
    )
    return _svg("ages", _WIDTH, _BAR, f"{status.view}: age of the last change: {shares}", "".join(parts))


def length_histogram(status: ViewStatus) -> str:
    """Draw the histogram of the lengths of one view's sampled vectors."""
    norms = status.norms
    assert norms is not None
    title = f"{status.view}: lengths of the vectors, {norms.smallest:.6f} to {norms.largest:.6f}"
    return histogram(title, norms.counts, norms.smallest, norms.largest, digits=6)


def histogram(
    title: str, counts: Sequence[int], low: float, high: float, *, digits: int = 1, mark: float | None = None
) -> str:
    """Draw a histogram.

    Args:
        title: Text alternative.
        counts: Heights of the bars.
        low: Left end of the axis.
        high: Right end of the axis.
        digits: Decimals of the numbers at the axis.
        mark: Position of a dashed line, such as the value by chance.
    """
    most = max(counts, default=0) or 1
    width = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    floor = _HEIGHT - _BOTTOM
    bars = "".join(
        f'<rect class="bar" x="{_LEFT + n * width + 1:.1f}" y="{floor - tall:.1f}" width="{width - 2:.1f}" '
        f'height="{tall:.1f}"><title>{count:,}</title></rect>'
        for n, count in enumerate(counts)
        if (tall := max((floor - 6) * count / most, 1.0 if count else 0.0))
    )
    ends = [(_LEFT, low, "start"), (_WIDTH / 2, (low + high) / 2, "middle"), (_WIDTH - _RIGHT, high, "end")]
    ticks = "".join(
        f'<text class="tick" x="{x:.0f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{value:.{digits}f}</text>'
        for x, value, anchor in ends
    )
    line = f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>'
    if mark is not None and high > low:
        x = _LEFT + (mark - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)
        line += f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{floor}"/>'
    return _svg("histogram", _WIDTH, _HEIGHT, title, bars + line + ticks)


def drift_map(canary: CanaryDrift) -> str:
    """Draw each product before and after, joined by a line, on the two axes of the largest difference."""
    points = canary.map
    if not points:
        return ""
    reach = max(abs(value) for point in points for value in point) or 1.0

    def at(value: float) -> str:
        return f"{_MAP / 2 + value / reach * (_MAP / 2 - 8):.1f}"

    lines = "".join(f"M{at(a)} {at(-b)}L{at(c)} {at(-d)}" for a, b, c, d in points)
    before = "".join(f'<circle class="old" cx="{at(a)}" cy="{at(-b)}" r="2"/>' for a, b, _, _ in points)
    after = "".join(f'<circle class="new" cx="{at(c)}" cy="{at(-d)}" r="2"/>' for _, _, c, d in points)
    title = f"{canary.products} products under {canary.old} and {canary.new} on the two main axes of their vectors"
    return _svg("map", _MAP, _MAP, title, f'<path class="move" d="{lines}"/>{before}{after}')


def _canary_pictures(canary: CanaryDrift) -> dict[str, str]:
    overlaps = f"{canary.products} products by the share of their {canary.neighbours} nearest neighbours that stay"
    pictures = {"overlaps": histogram(overlaps, canary.overlaps, 0, 1, mark=canary.overlap_by_chance)}
    if canary.similarities:
        pictures["similarities"] = histogram(
            f"{canary.products} products by the cosine between their vectors", canary.similarities, -1, 1
        )
        pictures["map"] = drift_map(canary)
    return pictures


def _share(feature: str, rate: float) -> str:
    width = max(100 * rate, 1.0 if rate else 0.0)
    body = (
        f'<rect class="rail" width="100" height="8" rx="4"/><rect class="bar" width="{width:.1f}" height="8" rx="4"/>'
    )
    return _svg("share", 100, 8, f"{feature}: empty in {rate:.1%}", body)


def _svg(kind: str, width: float, height: float, title: str, body: str) -> str:
    text = escape(title)
    fill = ' preserveAspectRatio="none"' if kind == "ages" else ""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}"{fill} role="img" aria-label="{text}">'
        f"<title>{text}</title>{body}</svg>"
    )
