"""Numbers and sentences as people read them, the same in every output."""

from datetime import datetime

from analysis.currencies import exponent
from analysis.metrics import Unit
from analysis.results import MetricResult, Report

DASH = "–"
MINUS = "−"

CONCLUSIONS = {
    "ship": "Ship",
    "do not ship": "Do not ship",
    "keep running": "Keep running",
    "cannot trust": "Cannot trust",
}


def quantity(value: float | None, unit: Unit, currency: str | None = None) -> str:
    """Return a metric's value in its unit; money in the currency's major unit."""
    if value is None:
        return DASH
    if unit == "share":
        return _minus(f"{value:.2%}")
    if unit == "money" and currency:
        digits = exponent(currency)
        return _minus(f"{value / 10**digits:,.{digits if digits else 1}f} {currency}")
    return _minus(f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.4g}")


def lift(value: float | None) -> str:
    """Return a lift as a percentage with its sign: `+2.5%`."""
    if value is None:
        return DASH
    size = abs(value)
    return _minus(f"{value:+,.0%}" if size >= 10 else f"{value:+.1%}" if size >= 0.01 or size == 0 else f"{value:+.2%}")


def interval(result: MetricResult) -> str:
    """Return the interval of a metric's lift, or `unbounded`."""
    if result.low is None and result.interval != "undefined":
        return "unbounded"
    return bounds(result.low, result.high)


def bounds(low: float | None, high: float | None) -> str:
    """Return both bounds of a lift: `+1.0% to +2.5%`; a dash where there are none."""
    return DASH if low is None or high is None else f"{lift(low)} to {lift(high)}"


def p_value(p: float | None) -> str:
    """Return a p-value: `0.030`, `< 0.0001`."""
    if p is None:
        return DASH
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def p_values(result: MetricResult) -> str:
    """Return the p-value, and the adjusted p-value where it differs."""
    if result.p_adjusted is None or result.p_adjusted == result.p:
        return p_value(result.p)
    return f"{p_value(result.p)} (adjusted {p_value(result.p_adjusted)})"


def check_name(name: str) -> str:
    """Return the name of a check as people read it."""
    return name.replace("_", " ").capitalize()


def span(seconds: float | None) -> str:
    """Return a length of time in the largest unit that fits: `14 days`."""
    if seconds is None:
        return DASH
    for size, name in ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= size:
            count = seconds / size
            return f"{count:.4g} {name}" + "s" * (count != 1)
    return f"{seconds:.4g} seconds"


def when(iso: str | None) -> str:
    """Return an ISO 8601 time as `2026-06-15 23:40 UTC`."""
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M UTC") if iso else DASH


def by_role(report: Report) -> list[MetricResult]:
    """Return the metrics sorted by role: goals, guardrails, then the others, each in the order of declaration."""
    rank = {"goal": 0, "guardrail": 1, "secondary": 2}
    return sorted(report.metrics, key=lambda result: rank[result.role])


def arms(report: Report) -> list[str]:
    """Return control, treatment, then the other arms sorted by name."""
    rest = sorted(set(report.data.units) - {report.control, report.treatment})
    return [report.control, report.treatment, *rest]


def effect(result: MetricResult, report: Report) -> str:
    """Return `good` or `bad` for a significant effect by its direction, and `open` for any other.

    While the experiment runs, goals and guardrails are significant by their boundary or their confidence sequence.
    """
    p = result.p_adjusted if result.p_adjusted is not None else result.p
    peeking = report.planned_units is not None and result.n_control + result.n_treatment < report.planned_units
    if result.look is not None:
        significant = result.look.crossed
    elif peeking and result.anytime is not None and result.role != "secondary":
        goals = sum(other.role == "goal" for other in report.metrics) if result.role == "goal" else 1
        significant = result.anytime.p * goals < report.alpha
    else:
        significant = p is not None and p < report.alpha
    if not significant or not result.difference:
        return "open"
    return "good" if (result.difference > 0) == (result.direction == "increase") else "bad"


def method(report: Report) -> str:
    """Return how intervals and p-values were computed, in a few sentences."""
    name = next((r.method.rsplit("+", 1)[-1] for r in report.metrics if r.method != "none"), "fieller")
    ways = {
        "fieller": "Fieller's method with Welch's degrees of freedom; it excludes 0 exactly when Welch's test rejects",
        "delta": "the delta method with Welch's degrees of freedom",
        "log": "the delta method on the log scale with Welch's degrees of freedom",
    }
    sentences = [
        f"Intervals: {1 - report.alpha:.0%} confidence intervals of the lift, by {ways[name]}.",
        "p-values: Welch's t-test, two-sided.",
    ]
    if any("cuped" in result.method for result in report.metrics):
        sentences.append(
            "Metrics marked CUPED are adjusted by values before exposure; the lift is over the unadjusted control."
        )
    if any(result.method.startswith("order-statistics") for result in report.metrics):
        sentences.append("Quantiles are compared by the order-statistic intervals of both arms.")
    if sum(result.role == "goal" for result in report.metrics) > 1 and report.design is None:
        sentences.append("Goals are tested with p-values adjusted for their number (Holm).")
    if report.planned_units is not None:
        sentences.append(
            f"Until {report.planned_units:,} units are enrolled, the verdict rests on confidence sequences, which are "
            "valid at any number of looks."
        )
    if report.design is not None:
        sentences.append(
            "Goals and guardrails are tested against the boundaries of the design; the goals share alpha equally. All "
            "other numbers are valid for a single analysis."
        )
    if any(result.segments for result in report.metrics):
        sentences.append("Segments are exploratory; their p-values are adjusted for their number (Benjamini-Hochberg).")
    return " ".join(sentences)


def provenance(report: Report) -> str:
    """Return where the numbers come from, as far as the source knows, and how they were computed."""
    data, parts = report.data, []
    if data.cut_off:
        parts.append(f"data until {when(data.cut_off)}")
    if data.config_versions:
        parts.append(f"config version {', '.join(map(str, data.config_versions))}")
    if data.filters:
        parts.append(f"only units with {' and '.join(data.filters)}")
    origin = ", ".join(parts)
    return f"{origin[:1].upper()}{origin[1:]}. {method(report)}" if origin else method(report)


def cap(result: MetricResult, currency: str | None = None) -> str:
    """Return how a metric is capped, in a sentence; empty if it is not."""
    used = result.cap
    if used is None:
        return ""
    limits = [
        f"{side} {quantity(limit, result.unit, currency)}"
        for side, limit in (("at least", used.lower), ("at most", used.upper))
        if limit is not None
    ]
    raw = lift(result.uncapped.lift) if result.uncapped else DASH
    return (
        f"{result.label} is capped ({used.rule}): {' and '.join(limits)}, in all arms alike. The cap changed "
        f"{used.share_control:.2%} of the units in the control and {used.share_treatment:.2%} in the treatment. "
        f"Without the cap, the lift is {raw}."
    )


def rates(report: Report) -> str:
    """Return the rates that amounts were converted with, in a sentence; empty if there are none."""
    used = report.data.rates
    if used is None:
        return ""
    table = ", ".join(f"1 {currency} = {rate:g} {used.base}" for currency, rate in sorted(used.rates.items()))
    return f"Rates of {used.as_of}{f' ({used.source})' if used.source else ''}: {table}."


def notes(report: Report) -> list[str]:
    """Return what a reader of the table must also know, one note each."""
    results = by_role(report)
    texts = [overridden(report), look(report)]
    texts += [f"{result.label}: {result.note}" for result in results if result.note]
    texts += [cap(result, report.data.currency) for result in results]
    for result in results:
        parts = [
            changed_sign(result),
            boundary(result),
            novelty(result, report.alpha),
            margin(result),
            equivalence(result),
            posterior(result),
            resampling(result),
            heterogeneity(result, report.alpha),
        ]
        texts += [f"{result.label}: {part}" for part in parts if part]
    return [text for text in (*texts, rates(report)) if text]


def overridden(report: Report) -> str:
    """Return where the report departs from the experiment's config, in a sentence; empty where it does not."""
    return f"Overridden: {'; '.join(report.overridden)}." if report.overridden else ""


def margin(result: MetricResult) -> str:
    """Return whether a guardrail's margin holds, in a sentence; empty without a margin."""
    if result.margin is None:
        return ""
    held = "is ruled out" if result.margin.holds else "is not ruled out yet"
    return f"a loss of {result.margin.margin * 100:g} % {held} ({test(result.margin.p)}, test of non-inferiority)."


def heterogeneity(result: MetricResult, alpha: float) -> str:
    """Return whether the lift differs between segments, in a sentence; empty where that does not matter."""
    p = result.heterogeneity_p
    if p is None or len(result.segments) < 2 or (result.role == "secondary" and p >= alpha):
        return ""
    finding = "the lift differs between segments" if p < alpha else "no sign that the lift differs between segments"
    return f"{finding} ({test(p)}, Cochran's Q)."


def changed_sign(result: MetricResult) -> str:
    """Return why the lift and the two values in its row disagree in sign, in a sentence; empty if they agree."""
    raw = result.unadjusted
    if raw is None or raw.lift is None or result.lift is None or raw.lift * result.lift >= 0:
        return ""
    return (
        f"without CUPED the lift is {lift(raw.lift)} ({bounds(raw.low, raw.high)}); before exposure, the arms already "
        "differed by more than that."
    )


def look(report: Report) -> str:
    """Return the report's place in its group-sequential design, in a sentence; empty without a design."""
    design = report.design
    if design is None:
        return ""
    end = " This is the last look." if design.ended else ""
    return (
        f"Look {design.look} of a group-sequential design ({design.spending} spending): {design.units:,} of "
        f"{design.planned_units:,} planned units.{end}"
    )


def boundary(result: MetricResult) -> str:
    """Return a metric's place relative to the boundary of the look, in a sentence; empty without a boundary."""
    at_look = result.look
    if at_look is None:
        return ""
    if at_look.critical is None:
        return "no alpha may be spent yet; keep running."
    crossed = "the boundary is crossed" if at_look.crossed else "the boundary is not crossed"
    return (
        f"{crossed}: {test(result.p)}, and the level of this look is {level(at_look.nominal)} "
        f"({at_look.critical:.2f} standard errors). Alpha spent: {level(at_look.spent)} of {level(at_look.alpha)}. "
        f"Repeated interval: {bounds(at_look.low, at_look.high)}."
    )


def level(value: float) -> str:
    """Return the level of a test: `0.025`, `less than 0.0001`."""
    return f"{value:.2g}" if value >= 1e-4 else "less than 0.0001"


def novelty(result: MetricResult, alpha: float) -> str:
    """Return whether the lift changes with time since exposure, in a sentence; empty for secondary metrics."""
    change = result.novelty
    if change is None or result.role == "secondary":
        return ""
    if change.p is None:
        return "the data cannot show whether the lift changes with time since exposure."
    finding = "changes" if change.p < alpha else "shows no sign of changing"
    first = f" in the first {days(result.ages[0].end_days).removeprefix('1 ')}" if result.ages else " at first"
    return (
        f"the lift {finding} with time since exposure: {lift(change.early)}{first}, {lift(change.late)} later "
        f"({test(change.p)})."
    )


def days(number: float) -> str:
    """Return a number of days in the largest unit that fits."""
    return span(number * 86400.0)


def age(start: float, end: float) -> str:
    """Return an interval of time since exposure, from days: `day 2 to 4`, `minute 10 to 20`."""
    size, name = next(
        ((size, name) for size, name in ((1.0, "day"), (1 / 24, "hour")) if end >= 0.999 * size), (1 / 1440, "minute")
    )
    return f"{name} {round(start / size, 2):g} to {round(end / size, 2):g}"


def equivalence(result: MetricResult) -> str:
    """Return whether the lift is shown to lie within the margin, in a sentence; empty without such a test."""
    tested = result.equivalence
    if tested is None:
        return ""
    shown = "is shown" if tested.holds else "is not shown"
    return f"a lift within ±{tested.margin * 100:g} % {shown} ({test(tested.p)}, two one-sided tests)."


def posterior(result: MetricResult) -> str:
    """Return the posterior of the lift, in a sentence; empty without a prior."""
    belief = result.posterior
    if belief is None:
        return ""
    prior = (
        "a flat prior"
        if belief.prior_sd is None
        else f"a normal prior of {belief.prior_mean * 100:g} ± {belief.prior_sd * 100:g} %"
    )
    return (
        f"under {prior}, the lift is {lift(belief.lift)} ({bounds(belief.low, belief.high)}), and the treatment is "
        f"better with probability {belief.chance_to_win:.1%}. Expected loss: {belief.loss_if_shipped:.2%} if shipped, "
        f"{belief.loss_if_not:.2%} if not."
    )


def resampling(result: MetricResult) -> str:
    """Return the results of resampling, in a sentence; empty without resamples."""
    drawn = result.resampled
    if drawn is None:
        return ""
    text = (
        f"{drawn.resamples:,} resamples, without CUPED: {bounds(drawn.low, drawn.high)} by the BCa bootstrap; "
        f"permutation test {test(drawn.p)}"
    )
    if drawn.superiority is not None:
        ranks = f"{drawn.superiority:.1%} (Mann-Whitney {test(drawn.superiority_p)})"
        text += f"; a treated unit has a larger value than one of the control with probability {ranks}"
    return f"{text}."


def test(p: float | None) -> str:
    """Return a p-value with its name: `p = 0.030`, `p < 0.0001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
