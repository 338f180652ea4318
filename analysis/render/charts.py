"""The charts of the HTML page, as inline SVG. Colours are CSS classes, for light and dark mode.

The SVG is written here rather than by a plotting library: no font is embedded, a page has some ten kilobytes, and each
chart has a text alternative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, isfinite, log10
from statistics import median

from analysis.render import wording
from analysis.results import CumulativePoint, MetricResult, Report

ROW_WIDTH, ROW_HEIGHT = 340, 44
WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 28


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels, with round ticks.

    Attributes:
        low: Smallest value.
        high: Largest value.
        start: Pixel of the smallest value.
        end: Pixel of the largest value.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def clipped(self, value: float) -> float:
        """Return the pixel of a value, at most at either end of the axis."""
        return self(min(max(value, self.low), self.high))

    def ticks(self, about: int = 5) -> list[float]:
        """Return about so many round values on the axis."""
        step = round_step((self.high - self.low) / about)
        first = ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, floor(self.high / step + 1e-9) + 1)]


def round_step(rough: float) -> float:
    """Return the next larger of 1, 2, 2.5, 5 or 10 times a power of ten."""
    power = 10.0 ** floor(log10(rough))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough * 0.999), 10 * power)


def lift_axis(report: Report) -> Axis:
    """Return one axis for all intervals of the report. It cuts off the few very wide ones."""
    bounded = [(r.low, r.high) for r in report.metrics if r.low is not None and r.high is not None]
    reach = [max(abs(low), abs(high)) for low, high in bounded]
    most = min(max(reach), 2.5 * median(reach)) if reach else 0.1
    low = max(min((low for low, _ in bounded), default=-most), -most)
    high = min(max((high for _, high in bounded), default=most), most)
    for r in report.metrics:
        if r.margin is not None:  # show the margin together with the interval that is compared with it
            worst = r.margin.margin * (-1 if r.direction == "increase" else 1)
            low, high = min(low, worst), max(high, worst)
    low, high = min(low, 0.0), max(high, 0.0)
    pad = 0.08 * (high - low) or 0.05
    return Axis(low - pad, high + pad, 8, ROW_WIDTH - 8)


def axis_row(axis: Axis) -> str:
    """Return the ticks above the column of intervals."""
    marks = "".join(
        f'<text class="tick" x="{axis(tick):.1f}" y="14" text-anchor="middle">{percent(tick)}</text>'
        for tick in axis.ticks()
        if axis.start + 10 < axis(tick) < axis.end - 10
    )
    return f'<svg class="axis" viewBox="0 0 {ROW_WIDTH} 18" aria-hidden="true">{marks}</svg>'


def interval_bar(result: MetricResult, axis: Axis, report: Report) -> str:
    """Return a metric's interval on the common axis, with arrows where it is cut off, and a guardrail's margin."""
    middle, tone = ROW_HEIGHT / 2, wording.effect(result, report)
    parts = [
        f'<line class="grid" x1="{axis(tick):.1f}" x2="{axis(tick):.1f}" y1="0" y2="{ROW_HEIGHT}"/>'
        for tick in axis.ticks()
    ]
    parts.append(f'<line class="zero" x1="{axis(0):.1f}" x2="{axis(0):.1f}" y1="0" y2="{ROW_HEIGHT}"/>')
    if result.margin is not None:
        worst = result.margin.margin * (-1 if result.direction == "increase" else 1)
        x = f"{axis.clipped(worst):.1f}"
        parts.append(f'<line class="margin" x1="{x}" x2="{x}" y1="4" y2="{ROW_HEIGHT - 4}"/>')
    if result.low is not None and result.high is not None:
        left, right = axis.clipped(result.low), axis.clipped(result.high)
        width = max(right - left, 2)
        parts.append(
            f'<rect class="bar {tone}" x="{left:.1f}" y="{middle - 5}" width="{width:.1f}" height="10" rx="5"/>'
        )
        if result.low < axis.low:
            parts.append(_arrow(axis.start, middle, -1, tone))
        if result.high > axis.high:
            parts.append(_arrow(axis.end, middle, +1, tone))
    elif result.interval != "undefined":
        parts.append(f'<line class="open-ended" x1="{axis.start}" x2="{axis.end}" y1="{middle}" y2="{middle}"/>')
        parts += [_arrow(axis.start, middle, -1, "open"), _arrow(axis.end, middle, +1, "open")]
    if result.lift is not None and axis.low <= result.lift <= axis.high:
        parts.append(f'<circle class="dot {tone}" cx="{axis(result.lift):.1f}" cy="{middle}" r="5"/>')
    described = f"{result.label}: lift {wording.lift(result.lift)}, interval {wording.interval(result)}"
    return _svg("interval", ROW_WIDTH, ROW_HEIGHT, described, "".join(parts))


def cumulative_chart(result: MetricResult) -> str:
    """Return the cumulative lift with its interval over time; the confidence sequence is dashed."""
    points = [p for p in result.cumulative if p.lift is not None and p.low is not None and p.high is not None]
    if len(points) < 2:
        return ""
    # The first intervals are very wide: scale the chart to the later two thirds, and cut off the rest.
    later = points[len(points) // 3 :]
    low = min(0.0, *(p.low for p in later if p.low is not None))
    high = max(0.0, *(p.high for p in later if p.high is not None))
    y = Axis(low - 0.06 * (high - low), high + 0.06 * (high - low), HEIGHT - BOTTOM, TOP)
    times = [datetime.fromisoformat(p.time).timestamp() for p in points]
    x = Axis(times[0], times[-1], LEFT, WIDTH - RIGHT)
    upper = [(x(t), y.clipped(p.high or 0.0)) for t, p in zip(times, points, strict=True)]
    lower = [(x(t), y.clipped(p.low or 0.0)) for t, p in zip(times, points, strict=True)]
    # Start the line where it stays inside the chart: at an edge, it would show a wrong value.
    outside = [i for i, p in enumerate(points) if not y.low <= (p.lift or 0.0) <= y.high]
    start = outside[-1] + 1 if outside else 0
    line = [(x(t), y(p.lift or 0.0)) for t, p in zip(times[start:], points[start:], strict=True)]
    last = points[-1]
    body = (
        _horizontal_grid(y, x.end, percent)
        + f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>'
        + f'<polygon class="band" points="{_points(upper + lower[::-1])}"/>'
        + "".join(f'<polyline class="sequence" points="{_points(side)}"/>' for side in _sequence(points, times, x, y))
        + f'<polyline class="line treatment" points="{_points(line)}"/>'
        + f'<circle class="dot treatment" cx="{line[-1][0]:.1f}" cy="{line[-1][1]:.1f}" r="4"/>'
        + _time_ticks(x)
    )
    described = (
        f"{result.label}, cumulative lift over {len(points)} intervals of time; at the end {wording.lift(last.lift)}, "
        f"interval {wording.bounds(last.low, last.high)}"
    )
    return _svg("chart", WIDTH, HEIGHT, described, body)


def _sequence(
    points: Sequence[CumulativePoint], times: Sequence[float], x: Axis, y: Axis
) -> list[list[tuple[float, float]]]:
    """Return the lower and the upper line of the confidence sequence, where it has bounds."""
    sides: list[list[tuple[float, float]]] = [[], []]
    for time, point in zip(times, points, strict=True):
        if point.anytime is not None and point.anytime.low is not None and point.anytime.high is not None:
            sides[0].append((x(time), y.clipped(point.anytime.low)))
            sides[1].append((x(time), y.clipped(point.anytime.high)))
    return sides if sides[0] else []


def age_chart(result: MetricResult) -> str:
    """Return the lift by time since exposure with its intervals; the lift over the whole window is dashed."""
    parts = [
        (p.start_days, p.end_days, p.lift, p.low, p.high)
        for p in result.ages
        if p.lift is not None and p.low is not None and p.high is not None
    ]
    if len(parts) < 2:
        return ""
    reach = 3 * median(high - low for *_, low, high in parts)  # cut off much wider intervals, but never a dot
    low = min(0.0, *(max(low, lift - reach) for *_, lift, low, _ in parts))
    high = max(0.0, *(min(high, lift + reach) for *_, lift, _, high in parts))
    pad = 0.06 * (high - low)
    y = Axis(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    x = Axis(parts[0][0], parts[-1][1], LEFT, WIDTH - RIGHT)
    body = _horizontal_grid(y, x.end, percent)
    body += f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>'
    if result.lift is not None and y.low < result.lift < y.high:
        body += f'<line class="sequence" x1="{LEFT}" x2="{x.end}" y1="{y(result.lift):.1f}" y2="{y(result.lift):.1f}"/>'
    for start, end, lift, low, high in parts:
        middle, top, bottom = x((start + end) / 2), y.clipped(high), y.clipped(low)
        body += f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
        body += f'<circle class="dot treatment" cx="{middle:.1f}" cy="{y(lift):.1f}" r="4"/>'
    body += _age_ticks(x)
    described = "; ".join(f"{wording.age(start, end)}: {wording.lift(lift)}" for start, end, lift, *_ in parts)
    return _svg("chart", WIDTH, HEIGHT, f"{result.label}, lift by time since exposure. {described}", body)


def _age_ticks(x: Axis) -> str:
    """Return round times since exposure, in days, hours or minutes."""
    scales = ((1.0, "d"), (1 / 24, "h"), (1 / 1440, "min"))
    size, unit = next(((size, unit) for size, unit in scales if x.high >= 2 * size), scales[-1])
    scaled = Axis(x.low / size, x.high / size, x.start, x.end)
    return "".join(
        f'<text class="tick" x="{scaled(tick):.1f}" y="{HEIGHT - 6}" '
        f'text-anchor="{"end" if tick > 0.97 * scaled.high else "middle"}">{tick:g} {unit}</text>'
        for tick in scaled.ticks(7)
    )


def enrolment_chart(report: Report, *, wide: bool = False) -> str:
    """Return the cumulative enrolment, one line per arm."""
    entries = report.data.enrolment
    if len(entries) < 2:
        return ""
    arms = wording.arms(report)
    starts = [datetime.fromisoformat(e.time).timestamp() for e in entries]
    width = report.data.bucket_seconds or 0.0
    totals: dict[str, list[int]] = {arm: [0] for arm in arms}
    for entry in entries:
        for arm in arms:
            totals[arm].append(totals[arm][-1] + entry.units.get(arm, 0))
    times = [starts[0], *(start + width for start in starts)]
    edge = 2 * WIDTH + 40 if wide else WIDTH
    y = Axis(0, 1.08 * max(counts[-1] for counts in totals.values()), HEIGHT - BOTTOM, TOP)
    x = Axis(times[0], times[-1], LEFT, edge - RIGHT)
    lines = ""
    for arm in reversed(arms):  # control and treatment last, on top
        path = _points([(x(t), y(n)) for t, n in zip(times, totals[arm], strict=True)])
        lines += f'<polyline class="line {_tone(arm, report)}" points="{path}"/>'
    described = "Cumulative enrolment: " + ", ".join(f"{arm} {report.data.units.get(arm, 0):,}" for arm in arms)
    return _svg("chart", edge, HEIGHT, described, _horizontal_grid(y, x.end, count) + lines + _time_ticks(x))


def percent(value: float) -> str:
    """Return a tick of a lift: `+2.5%`."""
    size = abs(value) * 100
    text = f"{size:.0f}" if size >= 10 or abs(size - round(size)) < 1e-6 else f"{size:.2g}"
    return f"{'+' if value > 1e-12 else wording.MINUS if value < -1e-12 else ''}{text}%"


def count(value: float) -> str:
    """Return a tick of a number of units: `1.5k`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _tone(arm: str, report: Report) -> str:
    return {report.control: "control", report.treatment: "treatment"}.get(arm, "other")


def _horizontal_grid(y: Axis, edge: float, label: Callable[[float], str]) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{edge}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{label(tick)}</text>'
        for tick in y.ticks(4)
    )


def _time_ticks(x: Axis) -> str:
    """Return five times along the axis, as dates or, for short spans, as hours."""
    long = x.high - x.low > 3 * 86400
    ticks = []
    for part in range(5):
        time = x.low + (x.high - x.low) * part / 4
        when = datetime.fromtimestamp(time, UTC)
        anchor = ("start", "middle", "middle", "middle", "end")[part]
        shown = f"{when.day} {when:%b}" if long else f"{when:%H:%M}"
        ticks.append(f'<text class="tick" x="{x(time):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{shown}</text>')
    return "".join(ticks)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points if isfinite(x) and isfinite(y))


def _arrow(x: float, y: float, direction: int, tone: str) -> str:
    tip = x + 6 * direction
    return f'<path class="arrow {tone}" d="M{x:.1f} {y - 6} L{tip:.1f} {y} L{x:.1f} {y + 6} Z"/>'


def _svg(name: str, width: int, height: int, described: str, body: str) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(described)}">'
        f"<title>{escape(described)}</title>{body}</svg>"
    )
