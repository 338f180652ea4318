"""Numbers as people read them, the same in every output."""

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
    """A metric's value in its unit; money from minor units to the currency's own."""
    if value is None:
        return DASH
    if unit == "share":
        return _minus(f"{value:.2%}")
    if unit == "money" and currency:
        digits = exponent(currency)
        return _minus(f"{value / 10**digits:,.{digits if digits else 1}f} {currency}")
    return _minus(f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.4g}")


def lift(value: float | None) -> str:
    if value is None:
        return DASH
    size = abs(value)
    return _minus(f"{value:+,.0%}" if size >= 10 else f"{value:+.1%}" if size >= 0.01 or size == 0 else f"{value:+.2%}")


def interval(result: MetricResult) -> str:
    """The interval of the lift, or why there is none to show."""
    if result.low is None and result.interval != "undefined":
        return "unbounded"
    return bounds(result.low, result.high)


def bounds(low: float | None, high: float | None) -> str:
    return DASH if low is None or high is None else f"{lift(low)} to {lift(high)}"


def p_value(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def p_values(result: MetricResult) -> str:
    """p, and p adjusted for the number of tests where that differs."""
    if result.p_adjusted is None or result.p_adjusted == result.p:
        return p_value(result.p)
    return f"{p_value(result.p)} (adjusted {p_value(result.p_adjusted)})"


def check_name(name: str) -> str:
    return name.replace("_", " ").capitalize()


def span(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    for size, name in ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= size:
            count = seconds / size
            return f"{count:.4g} {name}" + "s" * (count != 1)
    return f"{seconds:.4g} seconds"


def when(iso: str | None) -> str:
    """2026-06-15 23:40 UTC."""
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M UTC") if iso else DASH


def by_role(report: Report) -> list[MetricResult]:
    """Goals first, then guardrails, then the rest, each as declared."""
    rank = {"goal": 0, "guardrail": 1, "secondary": 2}
    return sorted(report.metrics, key=lambda result: rank[result.role])


def arms(report: Report) -> list[str]:
    """Control, treatment, then the other arms by name."""
    rest = sorted(set(report.data.units) - {report.control, report.treatment})
    return [report.control, report.treatment, *rest]


def effect(result: MetricResult, report: Report) -> str:
    """`good`, `bad` or `open`: is the effect significant, and in the direction that is wanted?

    Of a goal or guardrail that is looked at while it runs, by what may decide then: its boundary, or its sequence.
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
    """How the intervals were made, in a sentence."""
    name = next((r.method.rsplit("+", 1)[-1] for r in report.metrics if r.method != "none"), "fieller")
    ways = {
        "fieller": "Fieller's interval with the Welch degrees of freedom, which excludes zero exactly when the "
        "Welch test rejects",
        "delta": "the delta method with the Welch degrees of freedom",
        "log": "logarithms with the Welch degrees of freedom",
    }
    text = f"Intervals of the lift: {1 - report.alpha:.0%}, by {ways[name]}. p: Welch's test, two-sided."
    if any("cuped" in result.method for result in report.metrics):
        text += " Metrics marked CUPED are adjusted by their value before exposure; the lift is over the raw control."
    if any(result.method.startswith("order-statistics") for result in report.metrics):
        text += " Quantiles: from the order-statistic intervals of both arms."
    if sum(result.role == "goal" for result in report.metrics) > 1 and report.design is None:
        text += " Goals are decided by p adjusted for their number (Holm)."
    if report.planned_units is not None:
        text += (
            f" Until {report.planned_units:,} units are in, decisions rest on confidence sequences, which hold however "
            "often they are looked at."
        )
    if report.design is not None:
        text += (
            " Goals and guardrails are decided by the boundaries of the design, the goals each with an equal part of "
            "alpha; all other numbers hold for one look."
        )
    if any(result.segments for result in report.metrics):
        text += " Segments are exploratory; their p is adjusted for their number (Benjamini-Hochberg)."
    return text


def provenance(report: Report) -> str:
    """Where the numbers come from, as far as the source knows, and how they were made."""
    data, known = report.data, []
    if data.cut_off:
        known.append(f"data until {when(data.cut_off)}")
    if data.config_versions:
        known.append(f"config version {', '.join(map(str, data.config_versions))}")
    if data.filters:
        known.append(f"only units with {' and '.join(data.filters)}")
    said = ", ".join(known)
    return f"{said[:1].upper()}{said[1:]}. {method(report)}" if said else method(report)


def cap(result: MetricResult, currency: str | None = None) -> str:
    """How a metric was capped, in a sentence; empty if it was not."""
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
        f"{result.label} is capped ({used.rule}): {' and '.join(limits)}, in all arms alike; it changed "
        f"{used.share_control:.2%} of the control and {used.share_treatment:.2%} of the treatment. Uncapped: {raw}."
    )


def rates(report: Report) -> str:
    """What amounts were converted with; empty if they were not."""
    used = report.data.rates
    if used is None:
        return ""
    table = ", ".join(f"1 {currency} = {rate:g} {used.base}" for currency, rate in sorted(used.rates.items()))
    return f"Rates of {used.as_of}{f' ({used.source})' if used.source else ''}: {table}."


def notes(report: Report) -> list[str]:
    """What a reader of the table must know besides, a sentence each."""
    said = [text] if (text := look(report)) else []
    said += [f"{result.label}: {result.note}" for result in by_role(report) if result.note]
    said += [text for result in by_role(report) if (text := cap(result, report.data.currency))]
    for result in by_role(report):
        more = (turned(result), boundary(result), novelty(result, report.alpha))
        said += [f"{result.label}: {text}" for text in more if text]
        if result.margin is not None:
            held = "is ruled out" if result.margin.holds else "is not ruled out yet"
            loss = f"{result.margin.margin * 100:g} %"
            said.append(f"{result.label}: a loss of {loss} {held} ({test(result.margin.p)}, non-inferiority).")
        said += [f"{result.label}: {text}" for text in asked(result)]
        p = result.heterogeneity_p
        if p is not None and len(result.segments) > 1 and (result.role != "secondary" or p < report.alpha):
            seen = "the lift differs between" if p < report.alpha else "no sign that the lift differs between"
            said.append(f"{result.label}: {seen} segments ({test(p)}, Cochran's Q).")
    if text := rates(report):
        said.append(text)
    return said


def turned(result: MetricResult) -> str:
    """Why the lift has another sign than the two values in its row, in a sentence; empty if it has not."""
    raw = result.unadjusted
    if raw is None or raw.lift is None or result.lift is None or raw.lift * result.lift >= 0:
        return ""
    return (
        f"without CUPED the lift is {lift(raw.lift)} ({bounds(raw.low, raw.high)}); the arms differed by more than "
        "that before exposure already."
    )


def look(report: Report) -> str:
    """Where the experiment stands in its group-sequential design, in a sentence; empty if it has none."""
    design = report.design
    if design is None:
        return ""
    end = " It is the last one." if design.ended else ""
    return (
        f"Look {design.look} of a group-sequential design ({design.spending} spending): {design.units:,} of "
        f"{design.planned_units:,} planned units.{end}"
    )


def boundary(result: MetricResult) -> str:
    """A metric at a look, in a sentence; empty if it has no boundary."""
    taken = result.look
    if taken is None:
        return ""
    if taken.critical is None:
        return "no alpha may be spent yet; go on."
    crossed = "the boundary is crossed" if taken.crossed else "the boundary is not crossed"
    return (
        f"{crossed}: {test(result.p)}, and this look is tested at {level(taken.nominal)} "
        f"({taken.critical:.2f} standard errors); {level(taken.spent)} of {level(taken.alpha)} is spent; "
        f"repeated interval {bounds(taken.low, taken.high)}."
    )


def level(value: float) -> str:
    """A level of a test: 0.025, 0.0000012."""
    return f"{value:.2g}" if value >= 1e-4 else "less than 0.0001"


def novelty(result: MetricResult, alpha: float) -> str:
    """Whether the lift of what decides changes with time since exposure, in a sentence; empty if nobody asked."""
    seen = result.novelty
    if seen is None or result.role == "secondary":
        return ""
    if seen.p is None:
        return "whether its lift changes with time since exposure cannot be tested."
    verdict = "changes" if seen.p < alpha else "shows no sign of changing"
    first = f" in the first {days(result.ages[0].end_days)}" if result.ages else " at first"
    return (
        f"its lift {verdict} with time since exposure: {lift(seen.early)}{first}, {lift(seen.late)} later "
        f"({test(seen.p)})."
    )


def days(number: float) -> str:
    """A span of days in the unit that suits it."""
    return span(number * 86400.0)


def age(start: float, end: float) -> str:
    """An interval of time since exposure: day 2 to 4; 10 to 20 minutes."""
    size, name = next(
        ((size, name) for size, name in ((1.0, "day"), (1 / 24, "hour")) if end >= 0.999 * size), (1 / 1440, "minute")
    )
    return f"{name} {round(start / size, 2):g} to {round(end / size, 2):g}"


def asked(result: MetricResult) -> list[str]:
    """What the report was asked for besides: equivalence, a posterior, resampling; a sentence each."""
    said = []
    if (same := result.equivalence) is not None:
        shown = "is shown" if same.holds else "is not shown"
        said.append(f"a lift within ±{same.margin * 100:g} % {shown} ({test(same.p)}, two one-sided tests).")
    if (belief := result.posterior) is not None:
        prior = (
            "a flat prior"
            if belief.prior_sd is None
            else f"a normal prior of {belief.prior_mean * 100:g} ± {belief.prior_sd * 100:g} %"
        )
        said.append(
            f"under {prior}, the lift is {lift(belief.lift)} ({bounds(belief.low, belief.high)}), the treatment better "
            f"with chance {belief.chance_to_win:.1%}; expected loss {belief.loss_if_shipped:.2%} if shipped, "
            f"{belief.loss_if_not:.2%} if not."
        )
    if (drawn := result.resampled) is not None:
        text = (
            f"{drawn.resamples:,} resamples, without CUPED: {bounds(drawn.low, drawn.high)} by BCa bootstrap; "
            f"permutation test {test(drawn.p)}"
        )
        if drawn.superiority is not None:
            ranks = f"{drawn.superiority:.1%} (Mann-Whitney {test(drawn.superiority_p)})"
            text += f"; a treated unit has more than one of the control with chance {ranks}"
        said.append(f"{text}.")
    return said


def test(p: float | None) -> str:
    """p = 0.03, p < 0.0001."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
