"""Lift of a treatment over a control, with statistics that hold. The package imports no other package of this project.

Data passes through the modules in this order:

    metrics, columns      a metric declares which aggregates it needs (`aggregates`)
    sources, query        a source answers with those aggregates, from one query; no row of a user leaves it
    inference, ...        statistics turn aggregates into effects, intervals and p-values
    report, results       `analyze` puts them together: `metric_result` for each metric (`comparison` of two arms,
                          `optional_results`, `breakdowns`), `checks`, and a `verdict` from the `evidence`
    render                terminal, Markdown, JSON and HTML show the same report

Statistics: `adjustment` (CUPED), `quantiles`, `equivalence`, `heterogeneity` (segments), `novelty` (time since
exposure), `multiple_testing`, `sequential` (interim analyses), `bayes`, `resampling`. Before an experiment: `power` and
`plan`; to check a method on your own units: `simulation`. For ranking by interleaving: `interleaving`.
`request` holds and checks the options of a report; `config` reads metrics and rates from YAML.

The names below are imported when they are first used, so that importing the package is fast.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "analysis.columns": ("Cap", "Filter", "Window"),
    "analysis.currencies": ("Rates",),
    "analysis.bayes": ("Prior",),
    "analysis.errors": ("AnalysisError",),
    "analysis.metrics": ("Count", "Mean", "Proportion", "Quantile", "Ratio", "Retention", "shop_metrics"),
    "analysis.report": ("Report", "analyze", "analyze_arms"),
    "analysis.sequential": ("Design",),
    "analysis.simulation": ("simulate",),
    "analysis.sources": ("ExperimentTables", "SparkFrame", "SqlTable", "UserTable"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
