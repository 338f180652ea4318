"""Critical values of group-sequential tests: alpha spending, Pocock, O'Brien-Fleming, and their error and power.

The boundary of Lan and DeMets (1983) depends on the information observed at each look, not on the planned one. The
alpha that a look spends is not the level of that look's test: the boundary solves for the level, given all earlier
looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.errors import ArgumentError
from analysis.sequential.integration import ScorePaths
from analysis.sequential.spending import Spending, obrien_fleming_spending
from analysis.validation import check_count, check_scalar, check_share

# Smallest share of the information that a look must add. Below it, the integration would need huge grids.
SMALLEST_STEP = 1e-4


@dataclass(frozen=True)
class Look:
    """The boundary of one look.

    Attributes:
        information: Information at the look.
        share: Information as a share of the planned information.
        spent: Alpha spent up to and including this look.
        critical: The test rejects when |z| is at least this.
        nominal: Two-sided level of `critical`.
    """

    information: float
    share: float
    spent: float
    critical: float
    nominal: float


@dataclass(frozen=True)
class SpendingDesign:
    """A two-sided group-sequential test by alpha spending.

    Attributes:
        max_information: Planned information 1 / Var(D) at the last look.
        alpha: Level of the whole test.
        spending: Spending function.
    """

    max_information: float
    alpha: float = 0.05
    spending: Spending = obrien_fleming_spending

    def __post_init__(self) -> None:
        check_scalar(self.max_information, "max_information", gt=0)
        check_share(self.alpha, "alpha")

    def looks(self, information: Sequence[float], *, last: bool = False) -> tuple[Look, ...]:
        """Compute the boundaries of the looks so far.

        All alpha is spent at the first look that reaches the planned information, or at the last look if `last` is
        set. The critical value is infinite where nothing is left to spend or almost nothing (1e-15) may be spent yet.

        Args:
            information: Information observed at each look, growing. Past values must be the same in every call.
            last: There will be no further look. This must not depend on the results.

        Raises:
            ArgumentError: The information is empty, not above 0, or does not grow.
        """
        shares = [value / self.max_information for value in check_information(information)]
        targets = [min(max(self.spending(min(t, 1.0), self.alpha), 0.0), self.alpha) for t in shares]
        if last:
            targets[-1] = self.alpha
        paths, spent, looks = ScorePaths(), 0.0, []
        for index, (share, target) in enumerate(zip(shares, targets, strict=True)):
            until = shares[index + 1] if index + 1 < len(shares) else None
            critical = paths.solve(share, target - spent)
            paths.step(share, critical, until)
            spent = max(spent, target)
            looks.append(Look(information[index], share, spent, critical, _two_sided(critical)))
        return tuple(looks)


def pocock(looks: int, alpha: float = 0.05) -> tuple[float, ...]:
    """Return Pocock's boundary (1977) for equally spaced looks: the same critical value at each."""
    return wang_tsiatis(looks, 0.5, alpha)


def obrien_fleming(looks: int, alpha: float = 0.05) -> tuple[float, ...]:
    """Return O'Brien and Fleming's boundary (1979) for equally spaced looks: critical_k = C sqrt(K / k)."""
    return wang_tsiatis(looks, 0.0, alpha)


def wang_tsiatis(looks: int, delta: float, alpha: float = 0.05) -> tuple[float, ...]:
    """Return Wang and Tsiatis' boundary (1987): critical values C (k / K)^(delta - 1/2) with a total error of alpha.

    Args:
        looks: Number K of equally spaced looks.
        delta: 0.5 gives Pocock's boundary, 0 O'Brien and Fleming's.
        alpha: Level of the whole test, two-sided.

    Raises:
        ArgumentError: An argument is out of range.
    """
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
    # By Bonferroni, C lies below the critical value of a test at the level alpha / K, on the last look's own scale.
    top = -float(ndtri(alpha / 2 / count)) * max(1.0, 1 / min(shape))
    constant = brentq(excess, single * min(1.0, 1 / max(shape)) * 0.999, top, xtol=1e-9, rtol=1e-12)
    return tuple(constant * s for s in shape)


def crossing(critical: Sequence[float], information: Sequence[float], effect: float = 0.0) -> tuple[float, ...]:
    """Compute the probability of crossing |Z_k| >= critical_k for the first time at each look k, to about 1e-9.

    The sum over the looks is the error rate for `effect` 0 and the power for the expected effect. Any boundary will do:
    `[1.96] * 28` is daily peeking.

    Args:
        critical: Critical value of each look.
        information: Information at each look, growing.
        effect: True difference D, in the unit in which information is 1 / Var(D).

    Raises:
        ArgumentError: The lengths differ, or a value is out of range.
    """
    shares = check_information(information)
    if len(critical) != len(shares):
        raise ArgumentError(f"There are {len(critical)} critical values for {len(shares)} looks. Give one for each.")
    check_scalar(effect, "effect")
    paths, first = ScorePaths(drift=effect), []
    for index, (share, value) in enumerate(zip(shares, critical, strict=True)):
        until = shares[index + 1] if index + 1 < len(shares) else None
        if not value > 0:
            raise ArgumentError(f"Critical value {index + 1} is {value!r}, and must be above 0.")
        first.append(paths.tail(share, value))
        paths.step(share, value, until)
    return tuple(first)


def inflation(critical: Sequence[float], shares: Sequence[float], alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the maximum sample size of a group-sequential test relative to a single look of equal alpha and power.

    Args:
        critical: Critical value of each look.
        shares: Information at each look, on any scale.
        alpha: Level of the whole test.
        power: Power of both tests.

    Raises:
        ArgumentError: An argument is out of range.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    single = float(ndtri(check_share(power, "power")) - ndtri(check_share(alpha, "alpha") / 2))
    scale = check_information(shares)[-1]
    relative = [share / scale for share in shares]
    drift = brentq(lambda d: sum(crossing(critical, relative, d)) - power, 0.5 * single, 3 * single, xtol=1e-10)
    return float((drift / single) ** 2)


def check_information(information: Sequence[float]) -> list[float]:
    """Return the information at the looks as floats: above 0, each larger by at least `SMALLEST_STEP` of the last.

    Raises:
        ArgumentError: There are no looks, or the information is not above 0 or does not grow.
    """
    if not information:
        raise ArgumentError("There are no looks. Give the information of at least one.")
    values = [check_scalar(value, f"information of look {k + 1}", gt=0) for k, value in enumerate(information)]
    for k, (before, after) in enumerate(pairwise(values)):
        if after < before + SMALLEST_STEP * values[-1]:
            raise ArgumentError(
                f"Information at look {k + 2} is {after:g} after {before:g}. It must grow from look to look; "
                "leave out a look that added (almost) nothing."
            )
    return values


def _two_sided(z: float) -> float:
    from scipy.special import ndtr

    return float(2 * ndtr(-z))
