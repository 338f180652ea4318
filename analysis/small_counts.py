"""Score intervals of shares with few events, where the normal approximation fails.

With 0 events of 1,000 the estimated variance is 0, and the plain interval is a single point. Wilson's score interval
of each arm has an honest distance to either side of the share; the distances take the place of the variance, as for
quantiles (`inference.facing`), and give Newcombe's interval of the difference and Donner and Zou's of the ratio. For
one to three events the lower bound is the Poisson one, because Wilson's is too high there. Exact coverage of 95 %
intervals, with 1,000 users in each arm (difference, lift): 0.958, 0.974 for shares of 3 % and 0.1 %; 0.955, 0.983 for
3 % and 0.05 %; 0.960, 0.964 for 0.5 % in both. The normal approximation: 0.946, 0.632; 0.944, 0.393; 0.957, 0.962.

References: Wilson 1927; Newcombe 1998; Brown, Cai, DasGupta 2001; Donner, Zou 2012.
"""

from math import sqrt

FEW_EVENTS = 20  # events or non-events in an arm, below which intervals of a share come from scores
_POISSON = 3


def score_variances(share: float, n: int, alpha: float) -> tuple[float, float]:
    """Return the squared standard errors of a share downwards and upwards, from its score interval.

    Args:
        share: Share of the units with an event.
        n: Number of units.
        alpha: 1 - coverage of the interval.
    """
    from scipy.special import chdtri, ndtri

    z = float(ndtri(1 - alpha / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    events, others = n * share, n * (1 - share)
    if events <= _POISSON:
        low = float(chdtri(2 * events, 1 - alpha)) / (2 * n) if events > 0 else 0.0
    if others <= _POISSON:
        high = 1 - float(chdtri(2 * others, 1 - alpha)) / (2 * n) if others > 0 else 1.0
    return ((share - low) / z) ** 2, ((high - share) / z) ** 2


def is_few(share: float, n: int) -> bool:
    """Say whether an arm has few units with an event, or few without."""
    return n * min(share, 1 - share) < FEW_EVENTS
