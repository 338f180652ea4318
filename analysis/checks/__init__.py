"""Checks that always run: can a reader trust the numbers of a report?

Each check returns a `Check` with a status and a sentence for people. `fail` rules out any decision on the report;
`warn` asks the reader to be careful. Each threshold is a constant beside its reason.

Modules:
    check         the result type
    sample_ratio  is the split between the arms as planned?
    data          units in several arms, impossible values, incomplete windows, late events, refunds, currency
    metrics       variance, heavy tails, automated traffic, covariates before exposure
    run           all checks of a report, in order
"""

from analysis.checks.check import Check, Status
from analysis.checks.run import run_checks

__all__ = ["Check", "Status", "run_checks"]
