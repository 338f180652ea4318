"""Interim analyses: how to analyse an experiment while it runs without more false positives.

A **confidence sequence** may be read at any time, any number of times, at the cost of a wider interval. A
**group-sequential design** plans its interim analyses (looks) and how much alpha each may spend, and is almost as
powerful as one analysis at the end.

Modules, from the bottom up:
    repeated_interval    the interval of an effect for a given critical value
    confidence_sequence  critical value and p-value that hold at any number of looks
    integration          numerical integration over the paths of the test statistic
    spending             functions that say how much alpha is spent by a share of the information
    boundaries           critical value of each look: alpha spending, Pocock, O'Brien-Fleming
    design               a design as an experiment states it, in units, and a metric at its next look

Reference: Jennison, Turnbull, Group Sequential Methods, 2000.
"""

from analysis.sequential.boundaries import (
    Look,
    SpendingDesign,
    crossing,
    inflation,
    obrien_fleming,
    pocock,
    wang_tsiatis,
)
from analysis.sequential.confidence_sequence import Monitored, anytime_critical, anytime_p, monitor
from analysis.sequential.design import Design, InterimResult, PlannedLooks, analyze_interim, planned_looks
from analysis.sequential.repeated_interval import RepeatedInterval, repeated_interval
from analysis.sequential.spending import (
    OBRIEN_FLEMING,
    Spending,
    hwang_shih_decani_spending,
    obrien_fleming_spending,
    pocock_spending,
    power_spending,
    spending_named,
)

__all__ = [
    "OBRIEN_FLEMING",
    "Design",
    "InterimResult",
    "Look",
    "Monitored",
    "PlannedLooks",
    "RepeatedInterval",
    "Spending",
    "SpendingDesign",
    "analyze_interim",
    "anytime_critical",
    "anytime_p",
    "crossing",
    "hwang_shih_decani_spending",
    "inflation",
    "monitor",
    "obrien_fleming",
    "obrien_fleming_spending",
    "planned_looks",
    "pocock",
    "pocock_spending",
    "power_spending",
    "repeated_interval",
    "spending_named",
    "wang_tsiatis",
]
