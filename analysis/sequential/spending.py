"""Spending functions: the two-sided alpha spent by a share t of the planned information."""

from collections.abc import Callable, Mapping
from math import e, expm1, log1p, sqrt

from analysis.errors import ArgumentError
from analysis.validation import check_scalar

Spending = Callable[[float, float], float]
"""From the share t of the information and the total alpha to the alpha spent by then."""

OBRIEN_FLEMING = "obrien-fleming"


def obrien_fleming_spending(t: float, alpha: float) -> float:
    """Spend almost nothing early: 4 (1 - Phi(z_{alpha/4} / sqrt t)), by Lan and DeMets, close to O'Brien-Fleming."""
    from scipy.special import ndtr, ndtri

    return float(4 * ndtr(ndtri(alpha / 4) / sqrt(t))) if t > 0 else 0.0


def pocock_spending(t: float, alpha: float) -> float:
    """Spend about the same at each look: alpha log(1 + (e - 1) t), by Lan and DeMets, close to Pocock."""
    return alpha * log1p((e - 1) * t)


def power_spending(rho: float) -> Spending:
    """Return Kim and DeMets' function alpha t^rho: 1 spends evenly, 3 is close to O'Brien-Fleming."""
    check_scalar(rho, "rho", gt=0, le=LARGEST_RHO)
    return lambda t, alpha: alpha * t**rho


def hwang_shih_decani_spending(gamma: float) -> Spending:
    """Return Hwang, Shih and DeCani's function: -4 is close to O'Brien-Fleming, 1 to Pocock, 0 spends evenly."""
    check_scalar(gamma, "gamma", ge=-LARGEST_GAMMA, le=LARGEST_GAMMA)
    return lambda t, alpha: alpha * (expm1(-gamma * t) / expm1(-gamma) if gamma else t)


LARGEST_GAMMA = 50.0  # -50 spends 1e-11 of alpha at half of the units
LARGEST_RHO = 50.0

_NAMED: Mapping[str, Spending] = {OBRIEN_FLEMING: obrien_fleming_spending, "pocock": pocock_spending}
_FAMILIES: Mapping[str, Callable[[float], Spending]] = {"power": power_spending, "hsd": hwang_shih_decani_spending}


def spending_named(name: str) -> Spending:
    """Return a spending function by name.

    Args:
        name: `obrien-fleming`, `pocock`, `power=3` (Kim, DeMets) or `hsd=-4` (Hwang, Shih, DeCani).

    Raises:
        ArgumentError: No spending function has this name, or its parameter is out of range.
    """
    family, equals, parameter = name.partition("=")
    if not equals and name in _NAMED:
        return _NAMED[name]
    if equals and family in _FAMILIES:
        try:
            value = float(parameter)
        except ValueError:
            value = float("nan")  # the family refuses it and says why
        return _FAMILIES[family](value)
    raise ArgumentError(
        f"There is no spending function {name!r}. Use obrien-fleming, pocock, or one with a number: power=3, hsd=-4."
    )
