"""Simulated experiments on a user's own units: would a report have been right?

Each run assigns the units to two arms at random, as a hash of their ids would, and compares the arms as a report does.
Without a planted lift, a rejection is a false positive, and their share should be alpha. With a planted lift, every
value of the treatment's numerator is multiplied by 1 + lift. The true lift is then known, and the runs show how often
the interval covers it, how often the test finds it, and whether the estimate is biased. Values are capped after the
lift is planted, as in a real experiment: the bias of a cap is part of the result.

A simulation holds the values of single users in the memory of this process. Reports never do.

Modules:
    trials   one metric with one planted lift, ready to be compared in any split
    run      the splits, and all trials in all of them
    summary  false-positive rate, power, coverage and bias from the effects of many runs
    result   the result types
"""

from analysis.simulation.result import Simulation, TrialSummary
from analysis.simulation.run import simulate
from analysis.simulation.summary import share_interval

__all__ = ["Simulation", "TrialSummary", "share_interval", "simulate"]
