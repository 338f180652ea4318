"""Numerical integration over the paths of a test statistic, from look to look.

With the information I_k = 1 / Var(D) at look k, the scores Z_k sqrt(I_k) form a Brownian motion. The probability of
crossing a boundary follows by integrating the density of the paths from one look to the next (Armitage, McPherson, Rowe
1969).
"""

from functools import lru_cache
from math import ceil, inf, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


class ScorePaths:
    """Density of the score S_k = Z_k sqrt(I_k) over the paths that have not crossed yet, on a quadrature grid.

    The grid consists of Gauss-Legendre panels of a few kernel widths. The density is smooth on the scale
    sqrt(I_k - I_{k-1}), the next kernel on sqrt(I_{k+1} - I_k); the grid resolves the finer of the two.

    Attributes:
        drift: True difference D, in the unit in which information is 1 / Var(D).
        information: Information at the last look.
        points: Grid of scores, shape (points,).
        mass: Density times quadrature weight, shape (points,).
    """

    PANEL = 3.0  # kernel standard deviations per panel of NODES points: an error of about 1e-10
    NODES = 8
    FAR = 8.5  # standard deviations beyond which a normal density is negligible

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = drift
        self.information = 0.0
        self.points: _Array = np.zeros(1)
        self.mass: _Array = np.ones(1)

    def tail(self, information: float, critical: float) -> float:
        """Return the probability of |Z| >= critical at this look without an earlier crossing."""
        from scipy.special import ndtr

        step = information - self.information
        bound, mean = critical * sqrt(information), self.points + self.drift * step
        outside = ndtr((-bound - mean) / sqrt(step)) + ndtr((mean - bound) / sqrt(step))
        return float(self.mass @ outside)

    def solve(self, information: float, alpha: float) -> float:
        """Return the critical value at which this look spends alpha; infinite if alpha is 0."""
        from scipy.optimize import brentq

        if alpha <= 1e-15:
            return inf
        if self.tail(information, 1e-9) <= alpha:
            return 1e-9
        return float(brentq(lambda c: self.tail(information, c) - alpha, 1e-9, 40.0, xtol=1e-10, rtol=1e-12))

    def step(self, information: float, critical: float, until: float | None) -> None:
        """Move to this look and drop the paths that cross its boundary.

        Args:
            information: Information at this look.
            critical: Critical value of this look.
            until: Information at the next look; None at the last one.
        """
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
    """Return points and weights of a composite Gauss-Legendre rule."""
    x, w = _legendre(nodes)
    half = (high - low) / panels / 2
    middles = low + half * (2 * np.arange(panels) + 1)
    return (middles[:, None] + half * x[None, :]).ravel(), np.tile(half * w, panels)


@lru_cache
def _legendre(nodes: int) -> tuple[_Array, _Array]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return x, w
