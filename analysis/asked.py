"""What a report adds to a metric's row when it is asked to: equivalence, a posterior, resampling, a design's look."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from analysis.aggregates import Aggregates
from analysis.bayes import Prior, posterior
from analysis.columns import Window
from analysis.designs import Design, take
from analysis.equivalence import equivalence
from analysis.errors import DataError
from analysis.inference import Effect, IntervalMethod, LiftInterval, Undefined
from analysis.metrics import Declared, Metric, Ratio
from analysis.results import EquivalenceShown, LookTaken, PosteriorShown, Resampled


@dataclass(frozen=True)
class Asked:
    """margin: of equivalence, on the lift. prior: of the lift. resamples: 0 for none. None is nothing asked.

    design: group-sequential; its alpha is shared by the `goals` of all treatments. ages: intervals since exposure.
    """

    margin: float | None = None
    prior: Prior | None = None
    resamples: int = 0
    seed: int = 0
    design: Design | None = None
    goals: int = 1
    ages: tuple[Window, ...] = ()

    def look_of(
        self, metric: Declared, effect: Effect | Undefined, alpha: float, method: IntervalMethod
    ) -> LookTaken | None:
        """Goals share alpha (Bonferroni), each guardrail has all of it; what decides nothing has no boundary."""
        if self.design is None or isinstance(effect, Undefined) or metric.role == "secondary":
            return None
        own = alpha / self.goals if metric.role == "goal" else alpha
        taken = take(self.design, effect, own, method)
        low, high = bounds_of(taken.lift)
        look = taken.look
        return LookTaken(
            alpha=own,
            share=look.share,
            spent=look.spent,
            nominal=look.nominal,
            critical=taken.critical,
            crossed=taken.crossed,
            low=low,
            high=high,
        )

    def equivalence_of(self, effect: Effect | Undefined, alpha: float) -> EquivalenceShown | None:
        """Each side is tested at alpha / 2, so that it agrees with the two-sided interval that the report shows."""
        if self.margin is None:
            return None
        if isinstance(effect, Undefined) or effect.lift is None:
            return EquivalenceShown(margin=self.margin, p=1.0, holds=False, low=None, high=None)
        shown = equivalence(effect, -self.margin, self.margin, alpha=alpha / 2)
        low, high = bounds_of(shown.bounds)
        return EquivalenceShown(margin=self.margin, p=shown.p, holds=shown.holds, low=low, high=high)

    def posterior_of(self, metric: Declared, effect: Effect | Undefined, alpha: float) -> PosteriorShown | None:
        """None also where the lift has no bounds."""
        if self.prior is None or isinstance(effect, Undefined):
            return None
        found = posterior(effect, self.prior, direction=metric.direction, alpha=alpha)
        if isinstance(found, Undefined):
            return None
        return PosteriorShown(
            prior_mean=self.prior.mean,
            prior_sd=self.prior.sd if isfinite(self.prior.sd) else None,
            lift=found.mean,
            low=found.low,
            high=found.high,
            chance_to_win=found.chance_to_win,
            loss_if_shipped=found.loss_if_shipped,
            loss_if_not=found.loss_if_not,
        )

    def resampled(
        self, metric: Declared, aggregates: Aggregates, arms: Sequence[str], alpha: float
    ) -> Resampled | None:
        """None also for a quantile, and where there are too few values for a lift."""
        if not self.resamples or not isinstance(metric, Metric):
            return None
        import numpy as np

        from analysis import resampling

        tables = [aggregates.tables.get((arm, metric.inputs)) for arm in arms]
        control, treatment = (table.values() if table else None for table in tables)
        if control is None or treatment is None or min(len(control), len(treatment)) < 2:
            return None
        ratio = isinstance(metric, Ratio)
        statistic = resampling.ratio if ratio else resampling.mean
        rng = np.random.default_rng(self.seed)  # anew for each metric: its numbers do not hang on the others
        try:
            drawn = resampling.bootstrap(
                control, treatment, rng, statistic=statistic, resamples=self.resamples, alpha=alpha
            )
        except DataError:
            return None
        test = resampling.permutation_test(
            control, treatment, rng, kind="ratio" if ratio else "mean", resamples=self.resamples
        )
        ranks = None if ratio else resampling.mann_whitney(control[:, 0], treatment[:, 0])
        return Resampled(
            resamples=self.resamples,
            seed=self.seed,
            low=drawn.low,
            high=drawn.high,
            standard_error=drawn.standard_error,
            p=test.p,
            superiority=ranks.superiority if ranks else None,
            superiority_p=ranks.p if ranks else None,
        )


def bounds_of(interval: LiftInterval | None) -> tuple[float | None, float | None]:
    """Both bounds of an interval that has them."""
    if interval is None or interval.shape != "bounded":
        return None, None
    return interval.low, interval.high
