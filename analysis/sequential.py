"""Looking at an experiment while it runs, without paying for it in false positives.

Two ways. A **confidence sequence** may be looked at at any time, any number of times, and costs some width: it is the
monitor. A **group-sequential design** plans its looks and how much alpha each may spend, and is almost as sharp as one
look at the end.

Confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, theorem 2.2): with n units so far and a standard
error s, and N* the number of units at which the sequence shall be narrowest,

    estimate +- s sqrt((x + 1) / x (log(x + 1) - 2 log alpha)),   x = n / N* (-W(-alpha^2 / e) - 1),

W the lower branch of Lambert's function. It is asymptotic: early looks with few buyers are as unreliable as any
interval over few buyers, so begin it when each arm has about a hundred.

Group-sequential: with information I_k = 1 / Var(D) at look k, the statistics Z_k sqrt(I_k) form a Brownian motion, and
the chance to cross a boundary follows by numerical integration from look to look (Armitage, McPherson, Rowe 1969). The
boundary of Lan and DeMets (1983) depends on the information that was observed, not on the one that was planned. The
alpha that is spent at a look is not the level of that look's test: the boundary solves for it, given all looks before.

Reference: Jennison, Turnbull, Group Sequential Methods, 2000.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil, e, exp, expm1, inf, isfinite, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from analysis.arguments import check_count, check_scalar, check_share
from analysis.errors import ArgumentError
from analysis.inference import Effect, IntervalMethod, LiftInterval, lift_interval, standard_error

_Array = NDArray[np.float64]
Spending = Callable[[float, float], float]

CLOSEST_LOOKS = 1e-4  # share of the information that a look must add; less, and the integration needs huge grids


@dataclass(frozen=True)
class RepeatedInterval:
    """Intervals that hold at all looks together, `critical` standard errors to either side.

    low, high: of the difference. lift: of the relative lift, which excludes 0 exactly when low and high do; None where
    the control's value is not above 0.
    """

    critical: float
    low: float
    high: float
    lift: LiftInterval | None

    @property
    def rejects(self) -> bool:
        """True if a difference of 0 is ruled out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Monitored(RepeatedInterval):
    """One look at a confidence sequence. p: always valid, that is, ever below alpha with chance alpha at most."""

    p: float


def repeated_interval(effect: Effect, critical: float, *, method: IntervalMethod = "fieller") -> RepeatedInterval:
    """The effect at a look whose critical value is known: a `Look` of a design, or a confidence sequence."""
    check_scalar(critical, "critical", gt=0)
    value, arms = effect.difference.value, (effect.control, effect.treatment)
    low, high = (value - sign * critical * standard_error(*arms, sign) for sign in (1, -1))
    lift = None
    if effect.interval is not None:
        lift = lift_interval(*arms, method=method, critical=critical)
    return RepeatedInterval(critical, low, high, lift)


def anytime_critical(n: float, n_star: float, alpha: float = 0.05) -> float:
    """Standard errors to either side at n units, two-sided; smallest relative to a width of 1 / sqrt(n) at N*."""
    x = _mixture(n, n_star, check_share(alpha, "alpha"))
    return sqrt((x + 1) / x * (log1p(x) - 2 * log(alpha)))


def anytime_p(z: float, n: float, n_star: float, alpha: float = 0.05) -> float:
    """Always-valid p-value of a z statistic at n units; below alpha exactly when |z| > `anytime_critical`.

    alpha is only the level for which the sequence is tuned to be sharpest at N*; p is valid at every level.
    """
    check_scalar(z, "z")
    x = _mixture(n, n_star, check_share(alpha, "alpha"))
    return min(1.0, exp(0.5 * (log1p(x) - z * z * x / (x + 1))))


def _mixture(n: float, n_star: float, alpha: float) -> float:
    from scipy.special import lambertw

    check_scalar(n, "n", gt=0)
    check_scalar(n_star, "n_star", gt=0)
    sharpest = -float(lambertw(-(alpha**2) / e, -1).real) - 1
    return n / n_star * sharpest


def monitor(effect: Effect, n_star: float, *, alpha: float = 0.05, method: IntervalMethod = "fieller") -> Monitored:
    """The confidence sequence at this look, on the units of both arms. It may be taken after every single unit.

    n_star: units of both arms at which it shall be narrowest, normally the planned size; fixed before the first look.
    """
    n = effect.control.n + effect.treatment.n
    z = effect.difference.value / effect.difference.standard_error
    interval = repeated_interval(effect, anytime_critical(n, n_star, alpha), method=method)
    p = anytime_p(z, n, n_star, alpha)
    return Monitored(interval.critical, interval.low, interval.high, interval.lift, p)


# Spending functions: two-sided alpha spent until a share t of the planned information.


def obrien_fleming_spending(t: float, alpha: float) -> float:
    """Lan and DeMets' approximation to O'Brien-Fleming: almost nothing early. 4 (1 - Phi(z_{alpha/4} / sqrt t))."""
    from scipy.special import ndtr, ndtri

    return float(4 * ndtr(ndtri(alpha / 4) / sqrt(t))) if t > 0 else 0.0


def pocock_spending(t: float, alpha: float) -> float:
    """Lan and DeMets' approximation to Pocock: about as much at each look. alpha log(1 + (e - 1) t)."""
    return alpha * log1p((e - 1) * t)


def power_spending(rho: float) -> Spending:
    """Kim and DeMets' family alpha t^rho: 1 is even, 3 close to O'Brien-Fleming."""
    check_scalar(rho, "rho", gt=0)
    return lambda t, alpha: alpha * t**rho


def hwang_shih_decani_spending(gamma: float) -> Spending:
    """Hwang, Shih and DeCani's family: -4 is close to O'Brien-Fleming, 1 to Pocock, 0 is even."""
    check_scalar(gamma, "gamma")
    return lambda t, alpha: alpha * (expm1(-gamma * t) / expm1(-gamma) if gamma else t)


@dataclass(frozen=True)
class Look:
    """One look: reject when |z| >= critical. spent: alpha up to and with this look. nominal: two-sided level of z."""

    information: float
    share: float
    spent: float
    critical: float
    nominal: float


@dataclass(frozen=True)
class SpendingDesign:
    """A two-sided group-sequential test by alpha spending. max_information: planned 1 / Var(D) of the last look.

    The information of the past looks is a record: give `looks` what was observed then, each time the same.
    """

    max_information: float
    alpha: float = 0.05
    spending: Spending = obrien_fleming_spending

    def __post_init__(self) -> None:
        check_scalar(self.max_information, "max_information", gt=0)
        check_share(self.alpha, "alpha")

    def looks(self, information: Sequence[float], *, last: bool = False) -> tuple[Look, ...]:
        """Boundaries at the looks so far, from the information observed at each, growing.

        All alpha is spent at the first look that reaches the planned information, or at the last one given if `last`
        says that there will be no other (which must not depend on the results). Where nothing is left to spend, or
        next to nothing (1e-15) is allowed yet, the critical value is infinite. Errors: ArgumentError.
        """
        shares = [value / self.max_information for value in check_information(information)]
        targets = [min(max(self.spending(min(t, 1.0), self.alpha), 0.0), self.alpha) for t in shares]
        if last:
            targets[-1] = self.alpha
        walk, spent, looks = _Walk(), 0.0, []
        for index, (share, target) in enumerate(zip(shares, targets, strict=True)):
            until = shares[index + 1] if index + 1 < len(shares) else None
            critical = walk.solve(share, target - spent)
            walk.step(share, critical, until)
            spent = max(spent, target)
            looks.append(Look(information[index], share, spent, critical, _two_sided(critical)))
        return tuple(looks)


def pocock(looks: int, alpha: float = 0.05) -> tuple[float, ...]:
    """Pocock's boundary for equally spaced looks: the same critical value at each (1977)."""
    return wang_tsiatis(looks, 0.5, alpha)


def obrien_fleming(looks: int, alpha: float = 0.05) -> tuple[float, ...]:
    """O'Brien and Fleming's boundary for equally spaced looks: critical_k = C sqrt(K / k) (1979)."""
    return wang_tsiatis(looks, 0.0, alpha)


def wang_tsiatis(looks: int, delta: float, alpha: float = 0.05) -> tuple[float, ...]:
    """Critical values C (k / K)^(delta - 1/2) whose total error is alpha (1987): 0.5 is Pocock, 0 O'Brien-Fleming."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    count = check_count(looks, "looks")
    check_scalar(delta, "delta", ge=-1, le=1)
    shares = [(k + 1) / count for k in range(count)]
    shape = [share ** (delta - 0.5) for share in shares]
    single = -float(ndtri(check_share(alpha, "alpha") / 2))

    def excess(c: float) -> float:
        return sum(crossing([c * s for s in shape], shares)) - alpha

    if count == 1:
        return (single,)
    # By Bonferroni at the last look's own scale, C lies below the level alpha / K test's critical value.
    top = -float(ndtri(alpha / 2 / count)) * max(1.0, 1 / min(shape))
    constant = brentq(excess, single * min(1.0, 1 / max(shape)) * 0.999, top, xtol=1e-9, rtol=1e-12)
    return tuple(constant * s for s in shape)


def crossing(critical: Sequence[float], information: Sequence[float], effect: float = 0.0) -> tuple[float, ...]:
    """Chance to cross |Z_k| >= critical_k at look k for the first time, by numerical integration (to about 1e-9).

    effect: true difference D, in the unit in which information is 1 / Var(D); 0 gives the error, and the sum over the
    looks under the effect that is hoped for is the power. Any boundary will do: `[1.96] * 28` is daily peeking.
    """
    shares = check_information(information)
    if len(critical) != len(shares):
        raise ArgumentError(f"There are {len(critical)} critical values for {len(shares)} looks. Give one for each.")
    check_scalar(effect, "effect")
    walk, first = _Walk(drift=effect), []
    for index, (share, value) in enumerate(zip(shares, critical, strict=True)):
        until = shares[index + 1] if index + 1 < len(shares) else None
        if not value > 0:
            raise ArgumentError(f"Critical value {index + 1} is {value!r}, and must be above 0.")
        first.append(walk.tail(share, value))
        walk.step(share, value, until)
    return tuple(first)


def inflation(critical: Sequence[float], shares: Sequence[float], alpha: float = 0.05, power: float = 0.8) -> float:
    """Maximum sample size of a group-sequential test over that of a single look with the same alpha and power."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    single = float(ndtri(check_share(power, "power")) - ndtri(check_share(alpha, "alpha") / 2))
    scale = check_information(shares)[-1]
    relative = [share / scale for share in shares]
    drift = brentq(lambda d: sum(crossing(critical, relative, d)) - power, 0.5 * single, 3 * single, xtol=1e-10)
    return float((drift / single) ** 2)


def check_information(information: Sequence[float]) -> list[float]:
    """Information at looks, above 0 and growing by at least one part in ten thousand. Errors: ArgumentError."""
    if not information:
        raise ArgumentError("There are no looks. Give the information at one at least.")
    values = [check_scalar(value, f"information of look {k + 1}", gt=0) for k, value in enumerate(information)]
    for k, (before, after) in enumerate(pairwise(values)):
        if after < before + CLOSEST_LOOKS * values[-1]:
            raise ArgumentError(
                f"Information at look {k + 2} is {after:g} after {before:g}. It must grow from look to look; "
                "leave out a look that added (almost) nothing."
            )
    return values


class _Walk:
    """Density of the score S_k = Z_k sqrt(I_k) on the paths that have not crossed yet, on a quadrature grid.

    Gauss-Legendre panels of a few kernel widths: the density is smooth on the scale sqrt(I_k - I_{k-1}), the next
    kernel on sqrt(I_{k+1} - I_k), and the grid resolves the finer of the two.
    """

    PANEL = 3.0  # kernel standard deviations per panel of NODES points: an error of about 1e-10
    NODES = 8
    FAR = 8.5  # standard deviations beyond which a normal density is nothing

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = drift
        self.information = 0.0
        self.points: _Array = np.zeros(1)
        self.mass: _Array = np.ones(1)  # density times quadrature weight

    def tail(self, information: float, critical: float) -> float:
        """Chance that |Z| >= critical at this look, not having crossed before."""
        from scipy.special import ndtr

        step = information - self.information
        bound, mean = critical * sqrt(information), self.points + self.drift * step
        outside = ndtr((-bound - mean) / sqrt(step)) + ndtr((mean - bound) / sqrt(step))
        return float(self.mass @ outside)

    def solve(self, information: float, alpha: float) -> float:
        """Critical value at which this look spends alpha; infinite if there is nothing to spend."""
        from scipy.optimize import brentq

        if alpha <= 1e-15:
            return inf
        if self.tail(information, 1e-9) <= alpha:
            return 1e-9
        return float(brentq(lambda c: self.tail(information, c) - alpha, 1e-9, 40.0, xtol=1e-10, rtol=1e-12))

    def step(self, information: float, critical: float, until: float | None) -> None:
        """Carry the density that stays inside over to this look; until: information at the next, None at the end."""
        if until is None:
            return
        step = information - self.information
        centre = self.drift * information
        reach = self.FAR * sqrt(information)
        inside = critical * sqrt(information) if isfinite(critical) else inf
        low, high = max(-inside, centre - reach), min(inside, centre + reach)
        if low >= high:  # everything has crossed
            self.points, self.mass, self.information = np.zeros(1), np.zeros(1), information
            return
        width = self.PANEL * sqrt(min(step, until - information))
        points, weights = _panels(low, high, max(2, ceil((high - low) / width)), self.NODES)
        distance = (points[:, None] - (self.points + self.drift * step)[None, :]) / sqrt(step)
        density = np.exp(-0.5 * distance * distance) @ self.mass / sqrt(2 * np.pi * step)
        self.points, self.mass, self.information = points, weights * density, information


def _panels(low: float, high: float, panels: int, nodes: int) -> tuple[_Array, _Array]:
    """Points and weights of a composite Gauss-Legendre rule."""
    x, w = _legendre(nodes)
    half = (high - low) / panels / 2
    middles = low + half * (2 * np.arange(panels) + 1)
    return (middles[:, None] + half * x[None, :]).ravel(), np.tile(half * w, panels)


@lru_cache
def _legendre(nodes: int) -> tuple[_Array, _Array]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return x, w


def _two_sided(z: float) -> float:
    from scipy.special import ndtr

    return float(2 * ndtr(-z))
