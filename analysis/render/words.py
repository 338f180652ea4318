"""Numbers as people read them, the same in every output."""

from datetime import datetime

from analysis.metrics import Unit
from analysis.report import MetricResult, Report

DASH = "–"
MINUS = "−"

# ISO 4217: digits after the point of a currency's minor unit, where it is not two.
_EXPONENTS = dict.fromkeys(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0
) | dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)

VERDICTS = {
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
        digits = _EXPONENTS.get(currency, 2)
        return _minus(f"{value / 10**digits:,.{digits if digits else 1}f} {currency}")
    return _minus(f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.4g}")


def lift(value: float | None) -> str:
    if value is None:
        return DASH
    size = abs(value)
    return _minus(f"{value:+,.0%}" if size >= 10 else f"{value:+.1%}" if size >= 0.01 or size == 0 else f"{value:+.2%}")


def interval(result: MetricResult) -> str:
    """The interval of the lift, or why there is none to show."""
    if result.low is not None and result.high is not None:
        return f"{lift(result.low)} to {lift(result.high)}"
    return "unbounded" if result.interval != "undefined" else DASH


def p_value(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


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


def in_order(report: Report) -> list[MetricResult]:
    """Goals first, then guardrails, then the rest, each as declared."""
    rank = {"goal": 0, "guardrail": 1, "secondary": 2}
    return sorted(report.metrics, key=lambda result: rank[result.role])


def arms(report: Report) -> list[str]:
    """Control, treatment, then the other arms by name."""
    rest = sorted(set(report.data.units) - {report.control, report.treatment})
    return [report.control, report.treatment, *rest]


def effect(result: MetricResult, alpha: float) -> str:
    """`good`, `bad` or `open`: is the effect significant, and in the direction that is wanted?"""
    p = result.p_adjusted if result.p_adjusted is not None else result.p
    if p is None or p >= alpha or not result.difference:
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
    if sum(result.role == "goal" for result in report.metrics) > 1:
        text += " Goals are decided by p adjusted for their number (Holm)."
    return text


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
